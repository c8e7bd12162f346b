-- Shards draw by a function of their sequence, which needs not look for it.

-- As in 200_sequences, with that function, and with the default by itself (`drawing_default`) for ALTER TABLE.
CREATE OR REPLACE FUNCTION tenantry.table_without_triggers(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
SELECT shell.definition || jsonb_build_object('columns', (
    SELECT coalesce(jsonb_agg(c.definition || coalesce(drawing.changes, '{}') ORDER BY c.place), '[]')
    FROM jsonb_array_elements(shell.definition->'columns') WITH ORDINALITY c (definition, place)
    LEFT JOIN LATERAL (
        SELECT jsonb_build_object('definition', changed.text, 'drawing_default', changed.expression,
            'sequence', jsonb_build_object('oid', d.sequence::int8,
                'name', (SELECT relname FROM pg_class WHERE oid = d.sequence), 'step', q.seqincrement)) AS changes
        FROM tenantry.drawn_sequences(relation) d
        JOIN pg_sequence q ON q.seqrelid = d.sequence
        LEFT JOIN pg_attrdef f ON f.adrelid = relation AND f.adnum = d.attnum
        CROSS JOIN LATERAL (SELECT format('tenantry.next_value_%s()', d.sequence) AS draw) by
        CROSS JOIN LATERAL (SELECT
            CASE WHEN d.call IS NULL THEN format('%s DEFAULT %s', c.definition->>'definition', by.draw)
                ELSE replace(c.definition->>'definition', d.call, by.draw) END AS text,
            CASE WHEN d.call IS NULL THEN by.draw
                ELSE replace(pg_get_expr(f.adbin, f.adrelid), d.call, by.draw) END AS expression) changed
        WHERE d.attnum = (c.definition->>'attnum')::int2 AND changed.text !~ '\mnextval\('
    ) drawing ON true))
FROM (SELECT tenantry.shell_definition(relation) AS definition) shell
$$;
