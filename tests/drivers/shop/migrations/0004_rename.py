"""In a transaction of its own: Postgres does not change a table that has rows with deferred checks to come."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0003_later")]
    operations = [
        migrations.AlterField("Purchase", "note", models.CharField(max_length=100, default="")),
        migrations.RenameField("Purchase", "note", "remark"),
    ]
