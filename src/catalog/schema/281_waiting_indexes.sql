-- A table's definition has indexes ON ONLY a partitioned table, which wait for those of its partitions: they are not valid.
ALTER FUNCTION tenantry.table_definition(oid) RENAME TO table_without_waiting_indexes;

-- Definitions of indexes, and the statements that say which partitions' are parts of them already. Marks as in the rest.
CREATE FUNCTION tenantry.waiting_indexes(relation oid) RETURNS TABLE (indexes jsonb, parts jsonb)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
WITH r AS (
    SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS qualified, chr(1) || '.' || quote_ident(c.relname) AS marked
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation AND c.relkind = 'p'
),
x AS (
    SELECT i.*, c.relname, chr(1) || '.' || quote_ident(c.relname) AS marked
    FROM r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class c ON c.oid = i.indexrelid
    WHERE NOT i.indisvalid AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
)
SELECT (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', x.relname, 'is_unique', x.indisunique,
            'columns', (SELECT coalesce(jsonb_agg(a.attname), '[]')
                FROM unnest(x.indkey::int2[]) WITH ORDINALITY u (attnum, n)
                JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.attnum WHERE u.n <= x.indnkeyatts),
            'definition', replace(pg_get_indexdef(x.indexrelid), ' ON ONLY ' || r.qualified || ' USING ',
                                  ' ON ONLY ' || r.marked || ' USING ')) ORDER BY x.relname), '[]') FROM r, x),
    (SELECT coalesce(jsonb_agg(format('ALTER INDEX %s ATTACH PARTITION %s', x.marked, chr(1) || '.' || quote_ident(p.relname))
            ORDER BY x.relname, p.relname), '[]')
        FROM x JOIN pg_inherits h ON h.inhparent = x.indexrelid JOIN pg_class p ON p.oid = h.inhrelid)
$$;

CREATE FUNCTION tenantry.table_definition(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
SELECT d.definition || jsonb_build_object('indexes', (d.definition->'indexes') || w.indexes,
    'after_indexes', w.parts || (d.definition->'after_indexes'))
FROM (SELECT tenantry.table_without_waiting_indexes(relation) AS definition) d, tenantry.waiting_indexes(relation) w
$$;
