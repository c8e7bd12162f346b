-- Columns that draw their values from a sequence: on shards they draw from what their server has been lent of it.

-- The sequences that a table's defaults and identities draw from, and how the default calls nextval; NULL: an identity.
CREATE FUNCTION tenantry.drawn_sequences(relation oid) RETURNS TABLE (attnum int2, sequence oid, call text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
SELECT a.attnum, d.objid, NULL
FROM pg_attribute a
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
    AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i'
JOIN pg_sequence q ON q.seqrelid = d.objid
WHERE a.attrelid = relation AND a.attidentity <> '' AND NOT a.attisdropped
UNION ALL
SELECT f.adnum, d.refobjid, format('nextval(%L::regclass)', d.refobjid::regclass)
FROM pg_attrdef f
JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
JOIN pg_sequence q ON q.seqrelid = d.refobjid
WHERE f.adrelid = relation
$$;

ALTER FUNCTION tenantry.table_definition(oid) RENAME TO shell_definition;

-- As the shards have it: the shell's definition, with draws from what was lent in the place of nextval. `sequence` is
-- there where that could be put; where a default is anything else that draws, it is not, and the table is refused.
CREATE FUNCTION tenantry.table_definition(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
SELECT shell.definition || jsonb_build_object('columns', (
    SELECT coalesce(jsonb_agg(c.definition || coalesce(drawing.changes, '{}') ORDER BY c.place), '[]')
    FROM jsonb_array_elements(shell.definition->'columns') WITH ORDINALITY c (definition, place)
    LEFT JOIN LATERAL (
        SELECT jsonb_build_object('definition', changed.text, 'sequence', jsonb_build_object(
            'oid', d.sequence::int8, 'name', (SELECT relname FROM pg_class WHERE oid = d.sequence), 'step', q.seqincrement)) AS changes
        FROM tenantry.drawn_sequences(relation) d
        JOIN pg_sequence q ON q.seqrelid = d.sequence
        CROSS JOIN LATERAL (SELECT CASE
            WHEN d.call IS NULL THEN format('%s DEFAULT tenantry.next_value(%s)', c.definition->>'definition', d.sequence)
            ELSE replace(c.definition->>'definition', d.call, format('tenantry.next_value(%s)', d.sequence)) END AS text) changed
        WHERE d.attnum = (c.definition->>'attnum')::int2 AND changed.text !~ '\mnextval\('
    ) drawing ON true))
FROM (SELECT tenantry.shell_definition(relation) AS definition) shell
$$;
