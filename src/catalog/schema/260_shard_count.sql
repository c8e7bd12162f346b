-- The number of a table's shards can be changed.

SELECT tenantry.provide('alter_distributed_table',
    'table_name regclass, distribution_column text DEFAULT NULL, shard_count int DEFAULT NULL, '
    'colocate_with text DEFAULT NULL, cascade_to_colocated boolean DEFAULT NULL', 'void');
REVOKE EXECUTE ON FUNCTION tenantry_arguments.alter_distributed_table(regclass, text, int, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry_arguments.alter_distributed_table(regclass, text, int, text, boolean) TO tenantry_admin;
