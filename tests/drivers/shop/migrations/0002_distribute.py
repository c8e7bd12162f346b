"""What an application adds to distribute its tables. A ForeignObject makes no foreign key; here it gets one."""

from django.conf import settings
from django.db import migrations

DISTRIBUTE = [
    ("SELECT create_reference_table('shop_country')", migrations.RunSQL.noop),
    ("SELECT create_distributed_table('shop_purchase', 'tenant_id')", migrations.RunSQL.noop),
    ("SELECT create_distributed_table('shop_line', 'tenant_id', colocate_with := 'shop_purchase')", migrations.RunSQL.noop),
]
FOREIGN_KEY = (
    "ALTER TABLE shop_line ADD CONSTRAINT line_of_purchase FOREIGN KEY (tenant_id, purchase_number) "
    "REFERENCES shop_purchase (tenant_id, number)", "ALTER TABLE shop_line DROP CONSTRAINT line_of_purchase")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunSQL(forward, reverse)
                  for forward, reverse in (DISTRIBUTE if settings.THROUGH_TENANTRY else []) + [FOREIGN_KEY]]
