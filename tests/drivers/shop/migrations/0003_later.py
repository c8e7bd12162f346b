"""Changes of tables that are distributed and have rows."""

from django.db import migrations, models


def fill(apps, _):
    purchase = apps.get_model("shop", "Purchase")
    purchase.objects.filter(tenant_id=1).update(note="filled")
    purchase.objects.filter(tenant_id__gt=1).update(note="filled too")


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_distribute")]
    operations = [
        migrations.AddField("Purchase", "note", models.CharField(max_length=20, default="")),
        migrations.AddIndex("Purchase", models.Index(fields=["day"], name="purchases_by_day")),
        migrations.AddConstraint("Purchase", models.UniqueConstraint(fields=["tenant_id", "key"], name="one_key_per_tenant")),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
