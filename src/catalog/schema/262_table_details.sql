-- A table's definition has what its columns, indexes and statistics were told besides, and comments.
ALTER FUNCTION tenantry.table_definition(oid) RENAME TO table_without_details;

-- Statements for when all of the table's definition is there. Marks as in the rest of a definition.
CREATE FUNCTION tenantry.table_details(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
WITH r AS (SELECT c.oid, chr(1) || '.' || quote_ident(c.relname) AS marked FROM pg_class c WHERE c.oid = relation),
x AS (
    SELECT i.indexrelid AS oid, chr(1) || '.' || quote_ident(c.relname) AS marked
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = relation AND i.indisvalid
),
s AS (SELECT e.oid, chr(1) || '.' || quote_ident(e.stxname) AS marked, e.stxstattarget FROM pg_statistic_ext e WHERE e.stxrelid = relation)
SELECT coalesce(jsonb_agg(text ORDER BY text), '[]') FROM (
    SELECT format('ALTER TABLE ONLY %s ALTER COLUMN %I %s', r.marked, a.attname, v.what)
    FROM r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped, LATERAL (VALUES
        ('SET COMPRESSION ' || CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END),
        ('SET STATISTICS ' || CASE WHEN a.attstattarget >= 0 THEN a.attstattarget END),
        ('SET (' || nullif(array_to_string(a.attoptions, ', '), '') || ')')) v (what)
    WHERE v.what IS NOT NULL
    UNION ALL
    SELECT format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', x.marked, a.attnum, a.attstattarget)
    FROM x JOIN pg_attribute a ON a.attrelid = x.oid WHERE a.attstattarget >= 0
    UNION ALL
    SELECT format('ALTER STATISTICS %s SET STATISTICS %s', s.marked, s.stxstattarget) FROM s WHERE s.stxstattarget >= 0
    UNION ALL
    SELECT format('COMMENT ON %s IS %L', o.named, d.description)
    FROM (
        SELECT 'pg_class'::regclass, x.oid, 'INDEX ' || x.marked FROM x
        UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid, 'STATISTICS ' || s.marked FROM s
        UNION ALL SELECT 'pg_constraint'::regclass, k.oid, format('CONSTRAINT %I ON %s', k.conname, r.marked)
            FROM r JOIN pg_constraint k ON k.conrelid = r.oid
            WHERE k.contype IN ('p', 'u', 'x', 'c', 'f') AND k.conparentid = 0 AND k.conislocal
        UNION ALL SELECT 'pg_policy'::regclass, p.oid, format('POLICY %I ON %s', p.polname, r.marked)
            FROM r JOIN pg_policy p ON p.polrelid = r.oid
    ) o (class, id, named)
    JOIN pg_description d ON d.classoid = o.class AND d.objoid = o.id AND d.objsubid = 0
) statements (text)
$$;

CREATE FUNCTION tenantry.table_definition(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
SELECT d.definition || jsonb_build_object('rest', (d.definition->'rest') || tenantry.table_details(relation))
FROM (SELECT tenantry.table_without_details(relation) AS definition) d
$$;
