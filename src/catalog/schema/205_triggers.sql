-- Triggers of distributed tables: printed with the table's definition, and made on every shard.
ALTER FUNCTION tenantry.table_definition(oid) RENAME TO table_without_triggers;

-- The user's triggers of a table: how each is made, and what its function holds. A partition's copies of its parent's
-- triggers come by themselves; of these only a state of their own is told. Marks as in the rest of a definition.
CREATE FUNCTION tenantry.table_triggers(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
SELECT coalesce(jsonb_agg(jsonb_build_object(
        'name', g.tgname, 'is_row', g.tgtype & 1 <> 0, 'is_before', g.tgtype & 2 <> 0, 'state', g.tgenabled,
        'has_transition_tables', g.tgoldtable IS NOT NULL OR g.tgnewtable IS NOT NULL,
        'names_other_table', g.tgconstrrelid <> 0,
        'function', p.oid::regprocedure::text, 'language', l.lanname, 'body', p.prosrc,
        'extension', (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
            WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'),
        'arguments', coalesce((SELECT jsonb_agg(argument)
            FROM string_to_table(encode(g.tgargs, 'escape'), '\000') argument), '[]'),
        -- Candidates: their names stand in the body, be it as parts of other words.
        'tables', (SELECT coalesce(jsonb_agg(jsonb_build_array(o.nspname, c.relname) ORDER BY o.nspname, c.relname), '[]')
            FROM pg_class c JOIN pg_namespace o ON o.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND o.nspname !~ '^(pg_|information_schema$)'
              AND strpos(lower(p.prosrc), lower(c.relname)) > 0),
        'statements', to_jsonb(array_remove(ARRAY[
            CASE WHEN g.tgparentid = 0 THEN overlay(t.text PLACING ' ON ' || t.marked || ' '
                FROM t.name_end + strpos(substr(t.text, t.name_end), t.on_table) - 1 FOR length(t.on_table)) END,
            CASE WHEN g.tgparentid <> 0 OR g.tgenabled <> 'O' THEN 'ALTER TABLE ' || t.marked
                || CASE g.tgenabled WHEN 'D' THEN ' DISABLE' ELSE ' ENABLE' END || ' TRIGGER ' || quote_ident(g.tgname) END,
            CASE WHEN g.tgparentid = 0 THEN 'COMMENT ON TRIGGER ' || quote_ident(g.tgname) || ' ON ' || t.marked || ' IS '
                || quote_literal(obj_description(g.oid, 'pg_trigger')) END], NULL))) ORDER BY g.tgname), '[]')
FROM pg_trigger g
JOIN pg_class r ON r.oid = g.tgrelid
JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_proc p ON p.oid = g.tgfoid
JOIN pg_language l ON l.oid = p.prolang
CROSS JOIN LATERAL (SELECT pg_get_triggerdef(g.oid) AS text, chr(1) || '.' || quote_ident(r.relname) AS marked,
    ' ON ' || quote_ident(n.nspname) || '.' || quote_ident(r.relname) || ' ' AS on_table,
    length('CREATE ' || CASE WHEN g.tgconstraint <> 0 THEN 'CONSTRAINT ' ELSE '' END || 'TRIGGER ' || quote_ident(g.tgname)) + 1
        AS name_end) t
WHERE g.tgrelid = relation AND NOT g.tgisinternal AND g.tgname <> 'tenantry_shell'
  AND (g.tgparentid = 0 OR g.tgenabled <> (SELECT up.tgenabled FROM pg_trigger up WHERE up.oid = g.tgparentid))
$$;

CREATE FUNCTION tenantry.table_definition(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
SELECT tenantry.table_without_triggers(relation) || jsonb_build_object('triggers', tenantry.table_triggers(relation))
$$;
