"""The models of use_django.py: keys that begin with the tenant, as distributed tables need them."""

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Country(models.Model):
    """A reference table."""

    code = models.CharField(max_length=2, primary_key=True)
    name = models.TextField()


class Purchase(models.Model):
    pk = models.CompositePrimaryKey("tenant_id", "number")
    tenant_id = models.IntegerField()
    number = models.IntegerField()
    amount = models.DecimalField(max_digits=12, decimal_places=2)
    day = models.DateField()
    at = models.DateTimeField()
    took = models.DurationField(null=True)
    key = models.UUIDField(null=True)
    doc = models.JSONField(default=dict)
    tags = ArrayField(models.TextField(null=True), default=list)
    country = models.ForeignKey(Country, on_delete=models.PROTECT)
    remark = models.CharField(max_length=100, default="")

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(amount__gte=0), name="amount_is_not_negative"),
                       models.UniqueConstraint(fields=["tenant_id", "key"], name="one_key_per_tenant")]
        indexes = [models.Index(fields=["day"], name="purchases_by_day")]


class Line(models.Model):
    pk = models.CompositePrimaryKey("tenant_id", "purchase_number", "number")
    tenant_id = models.IntegerField()
    purchase_number = models.IntegerField()
    number = models.IntegerField()
    product = models.TextField()
    purchase = models.ForeignObject(Purchase, on_delete=models.DO_NOTHING, from_fields=("tenant_id", "purchase_number"),
                                    to_fields=("tenant_id", "number"), related_name="lines")
