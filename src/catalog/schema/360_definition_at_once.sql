-- A table's definition is put together at once. The functions that built it up, one on another, each mentioned the one below
-- two or three times, and a function that a subquery calls is run for each mention: the first was run 30 times.

-- The shell's definition, with what shards and copies of a reference table have in the place of defaults that draw from
-- sequences, and with all that belongs to the table besides. `sequence` and `drawing_default` are there where shards can
-- draw too; where a default is anything else that draws, they are not, and the table is refused.
CREATE OR REPLACE FUNCTION tenantry.table_definition(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
WITH shell AS MATERIALIZED (SELECT tenantry.shell_definition(relation) AS definition)
SELECT shell.definition || jsonb_build_object(
    'columns', (SELECT coalesce(jsonb_agg(c.definition || coalesce(drawing.changes, '{}')
            || CASE WHEN (c.definition->>'draws_numbers')::boolean THEN jsonb_build_object('copy_definition', CASE
                   WHEN f.oid IS NULL THEN c.definition->>'definition'
                   ELSE replace(c.definition->>'definition', ' DEFAULT ' || pg_get_expr(f.adbin, f.adrelid), '') END)
               ELSE '{}' END ORDER BY c.place), '[]')
        FROM jsonb_array_elements(shell.definition->'columns') WITH ORDINALITY c (definition, place)
        LEFT JOIN pg_attrdef f ON f.adrelid = relation AND f.adnum = (c.definition->>'attnum')::int2
        LEFT JOIN LATERAL (
            SELECT jsonb_build_object('definition', changed.text, 'drawing_default', changed.expression,
                'sequence', jsonb_build_object('oid', d.sequence::int8,
                    'name', (SELECT relname FROM pg_class WHERE oid = d.sequence), 'step', q.seqincrement)) AS changes
            FROM tenantry.drawn_sequences(relation) d
            JOIN pg_sequence q ON q.seqrelid = d.sequence
            CROSS JOIN LATERAL (SELECT format('tenantry.next_value_%s()', d.sequence) AS draw) by
            CROSS JOIN LATERAL (SELECT
                CASE WHEN d.call IS NULL THEN format('%s DEFAULT %s', c.definition->>'definition', by.draw)
                    ELSE replace(c.definition->>'definition', d.call, by.draw) END AS text,
                CASE WHEN d.call IS NULL THEN by.draw
                    ELSE replace(pg_get_expr(f.adbin, f.adrelid), d.call, by.draw) END AS expression) changed
            WHERE d.attnum = (c.definition->>'attnum')::int2 AND changed.text !~ '\mnextval\('
        ) drawing ON true),
    'triggers', tenantry.table_triggers(relation),
    'indexes', (shell.definition->'indexes') || waiting.indexes,
    'after_indexes', waiting.parts || (shell.definition->'after_indexes'),
    'rest', (shell.definition->'rest') || tenantry.table_details(relation))
FROM shell, tenantry.waiting_indexes(relation) waiting
$$;

DROP FUNCTION tenantry.table_without_waiting_indexes(oid), tenantry.table_without_details(oid),
    tenantry.table_without_copies(oid), tenantry.table_without_triggers(oid);
