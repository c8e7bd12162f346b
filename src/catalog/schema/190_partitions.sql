-- Partitioned tables: the parent and all below it are distributed tables of one colocation group.

-- A table and, where it is partitioned, all below it, parents first: their definitions (tenantry.table_definition), how
-- each is cut (partition_key) and, but for the first, under whom it stands and with which rows.
CREATE FUNCTION tenantry.table_family(root oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
WITH RECURSIVE family AS (
    SELECT root AS oid, 0 AS level, NULL::oid AS parent
    UNION ALL
    SELECT i.inhrelid, f.level + 1, i.inhparent
    FROM family f JOIN pg_inherits i ON i.inhparent = f.oid JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT jsonb_agg(jsonb_build_object('definition', tenantry.table_definition(f.oid), 'parent', f.parent::int8,
        'partition_key', CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END,
        'bound', CASE WHEN f.parent IS NOT NULL THEN pg_get_expr(c.relpartbound, c.oid) END) ORDER BY f.level, f.oid)
FROM family f JOIN pg_class c ON c.oid = f.oid
$$;

-- A parent's size is that of its partitions.
CREATE OR REPLACE VIEW tenantry.citus_tables AS
    SELECT t.logicalrelid::regclass AS table_name,
           CASE t.partmethod WHEN 'n' THEN 'reference' ELSE 'distributed' END AS citus_table_type,
           coalesce(a.attname::text, '<none>') AS distribution_column,
           t.colocationid AS colocation_id,
           pg_catalog.pg_size_pretty(sizes.size) AS table_size,
           (SELECT count(*) FROM tenantry.shard s WHERE s.logicalrelid = t.logicalrelid) AS shard_count,
           pg_catalog.pg_get_userbyid(c.relowner) AS table_owner,
           am.amname AS access_method
    FROM tenantry.distributed_table t
    JOIN pg_catalog.pg_class c ON c.oid = t.logicalrelid
    LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.logicalrelid AND a.attnum = t.partkey
    LEFT JOIN (SELECT family.root AS logicalrelid, sum(g.size)::bigint AS size
               FROM tenantry.gathered_shard_sizes() g JOIN tenantry.shard s USING (shardid)
               CROSS JOIN LATERAL (SELECT s.logicalrelid AS root
                   UNION SELECT up.relid FROM pg_catalog.pg_partition_ancestors(s.logicalrelid) up (relid)) family
               GROUP BY family.root) sizes ON sizes.logicalrelid = t.logicalrelid
    ORDER BY t.logicalrelid::regclass::text;
