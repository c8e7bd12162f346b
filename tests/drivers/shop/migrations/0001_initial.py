"""Tables as `makemigrations` writes them."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel("Country", [
            ("code", models.CharField(max_length=2, primary_key=True, serialize=False)),
            ("name", models.TextField()),
        ]),
        migrations.CreateModel("Purchase", [
            ("pk", models.CompositePrimaryKey("tenant_id", "number", primary_key=True, serialize=False)),
            ("tenant_id", models.IntegerField()),
            ("number", models.IntegerField()),
            ("amount", models.DecimalField(max_digits=12, decimal_places=2)),
            ("day", models.DateField()),
            ("at", models.DateTimeField()),
            ("took", models.DurationField(null=True)),
            ("key", models.UUIDField(null=True)),
            ("doc", models.JSONField(default=dict)),
            ("tags", django.contrib.postgres.fields.ArrayField(models.TextField(null=True), default=list)),
            ("country", models.ForeignKey("shop.Country", on_delete=django.db.models.deletion.PROTECT)),
        ], options={"constraints": [models.CheckConstraint(condition=models.Q(amount__gte=0), name="amount_is_not_negative")]}),
        migrations.CreateModel("Line", [
            ("pk", models.CompositePrimaryKey("tenant_id", "purchase_number", "number", primary_key=True, serialize=False)),
            ("tenant_id", models.IntegerField()),
            ("purchase_number", models.IntegerField()),
            ("number", models.IntegerField()),
            ("product", models.TextField()),
            ("purchase", models.ForeignObject("shop.Purchase", on_delete=django.db.models.deletion.DO_NOTHING,
                                              from_fields=("tenant_id", "purchase_number"),
                                              to_fields=("tenant_id", "number"), related_name="lines")),
        ]),
    ]
