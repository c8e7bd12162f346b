-- A table's definition as JSON, from Postgres's own printing functions, every name qualified.
--
-- Inside texts chr(1) stands for the table's own schema (so that it can be written for a shard's) and
-- chr(2)<oid>chr(2) for the table that a foreign key refers to.
CREATE FUNCTION tenantry.table_definition(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
WITH r AS (
    SELECT c.*, n.nspname, quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS qualified,
           chr(1) || '.' || quote_ident(c.relname) AS marked
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation
)
SELECT jsonb_build_object(
    'oid', r.oid::int8, 'schema', r.nspname, 'name', r.relname, 'kind', r.relkind, 'persistence', r.relpersistence,
    'printed', r.oid::regclass::text,
    'is_partition', r.relispartition,
    'inherits', EXISTS (SELECT FROM pg_inherits i WHERE r.oid IN (i.inhrelid, i.inhparent)),
    'has_rules', EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = r.oid AND r.relkind = 'r'),
    'has_triggers', EXISTS (SELECT FROM pg_trigger t
                            WHERE t.tgrelid = r.oid AND NOT t.tgisinternal AND t.tgname <> 'tenantry_shell'),
    'of_type', r.reloftype <> 0,
    'views', (SELECT coalesce(jsonb_agg(DISTINCT w.ev_class::regclass::text), '[]')
        FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
          AND w.ev_class <> r.oid),
    -- Functions whose body names the table. What a body puts together as text is not seen.
    'functions', (SELECT coalesce(jsonb_agg(p.oid::regprocedure::text ORDER BY p.oid), '[]')
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE l.lanname NOT IN ('internal', 'c') AND n.nspname !~ '^(pg_|tenantry|information_schema$)'
          AND NOT EXISTS (SELECT FROM pg_depend d
              WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
          AND (p.prosrc ~* ('\m' || regexp_replace(r.relname, '(\W)', '\\\1', 'g') || '\M') OR EXISTS (
              SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid))),
    'columns', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', a.attname, 'attnum', a.attnum, 'type', format_type(a.atttypid, NULL), 'type_oid', a.atttypid::int8,
            'base_oid', base.oid::int8, 'collation_oid', a.attcollation::int8,
            'is_deterministic', coalesce(co.collisdeterministic, true),
            'is_hashable', base.typtype IN ('e', 'r', 'm') OR (base.typtype = 'c') OR (base.typelem <> 0 AND base.typlen = -1)
                OR EXISTS (SELECT FROM pg_opclass oc JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'hash'
                    WHERE oc.opcdefault AND (oc.opcintype = base.oid OR EXISTS (SELECT FROM pg_cast ca
                        WHERE ca.castsource = base.oid AND ca.casttarget = oc.opcintype AND ca.castmethod = 'b'
                          AND ca.castcontext = 'i'))),
            'is_generated', a.attgenerated <> '',
            'draws_numbers', a.attidentity <> '' OR coalesce(d.adbin::text ~ '\{NEXTVALUEEXPR ' OR EXISTS (
                SELECT FROM regexp_matches(d.adbin::text, ':funcid (\d+)', 'g') m
                WHERE m[1]::oid = 'nextval(regclass)'::regprocedure), false),
            'definition', quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
                || CASE WHEN co.oid IS NULL OR a.attcollation = ty.typcollation THEN ''
                   ELSE ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END
                || CASE WHEN d.adbin IS NULL THEN ''
                   WHEN a.attgenerated = 's' THEN ' GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, d.adrelid) || ') STORED'
                   ELSE ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) END
                || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
            ) ORDER BY a.attnum), '[]')
        FROM pg_attribute a
        JOIN pg_type ty ON ty.oid = a.atttypid
        CROSS JOIN LATERAL (
            WITH RECURSIVE up AS (
                SELECT t.* FROM pg_type t WHERE t.oid = a.atttypid
                UNION ALL SELECT t.* FROM pg_type t JOIN up ON t.oid = up.typbasetype AND up.typtype = 'd')
            SELECT up.* FROM up WHERE up.typtype <> 'd') base
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_collation co ON co.oid = a.attcollation
        LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
        WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'create_prefix', CASE r.relpersistence WHEN 'u' THEN 'CREATE UNLOGGED TABLE ' ELSE 'CREATE TABLE ' END || r.marked,
    'create_suffix', CASE WHEN am.amname IS NULL OR am.amname = 'heap' THEN '' ELSE ' USING ' || quote_ident(am.amname) END
        || coalesce((SELECT ' WITH (' || string_agg(option, ', ') || ')' FROM (
            SELECT quote_ident(option_name) || '=' || quote_literal(option_value) AS option
                FROM pg_options_to_table(r.reloptions)
            UNION ALL
            SELECT 'toast.' || quote_ident(option_name) || '=' || quote_literal(option_value)
                FROM pg_class t, pg_options_to_table(t.reloptions) WHERE t.oid = r.reltoastrelid) o), ''),
    'checks', (SELECT coalesce(jsonb_agg('CONSTRAINT ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid)
                                         ORDER BY k.conname), '[]')
        FROM pg_constraint k WHERE k.conrelid = r.oid AND k.contype = 'c'),
    'keys', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', k.conname,
            'equal_columns', (SELECT coalesce(jsonb_agg(a.attname), '[]')
                FROM unnest(k.conkey) WITH ORDINALITY u (attnum, i)
                JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = u.attnum
                LEFT JOIN pg_operator o ON o.oid = k.conexclop[u.i]
                WHERE k.contype <> 'x' OR o.oprname = '='),
            'definition', 'ALTER TABLE ' || r.marked || ' ADD CONSTRAINT ' || quote_ident(k.conname) || ' '
                || pg_get_constraintdef(k.oid)) ORDER BY k.contype, k.conname), '[]')
        FROM pg_constraint k WHERE k.conrelid = r.oid AND k.contype IN ('p', 'u', 'x')),
    'indexes', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', ic.relname, 'is_unique', i.indisunique,
            'columns', (SELECT coalesce(jsonb_agg(a.attname), '[]')
                FROM unnest(i.indkey::int2[]) WITH ORDINALITY u (attnum, n)
                JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = u.attnum WHERE u.n <= i.indnkeyatts),
            'definition', replace(pg_get_indexdef(i.indexrelid), ' ON ' || r.qualified || ' USING ',
                                  ' ON ' || r.marked || ' USING ')) ORDER BY ic.relname), '[]')
        FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = r.oid AND i.indisvalid
          AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = r.oid
                          AND k.contype IN ('p', 'u', 'x'))),
    'after_indexes', (SELECT coalesce(jsonb_agg(text), '[]') FROM (
        SELECT 'ALTER TABLE ' || r.marked || ' REPLICA IDENTITY '
            || CASE r.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
               ELSE 'USING INDEX ' || (SELECT quote_ident(ic.relname) FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
                                       WHERE i.indrelid = r.oid AND i.indisreplident) END AS text
            WHERE r.relreplident <> 'd'
        UNION ALL
        SELECT 'ALTER TABLE ' || r.marked || ' CLUSTER ON ' || quote_ident(ic.relname)
            FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid WHERE i.indrelid = r.oid AND i.indisclustered
        UNION ALL
        SELECT replace(regexp_replace(pg_get_statisticsobjdef(s.oid),
                    '^CREATE STATISTICS .*? (\(|ON )', 'CREATE STATISTICS ' || chr(1) || '.'
                        || replace(quote_ident(s.stxname), '\', '\\') || ' \1'),
                ' FROM ' || r.qualified, ' FROM ' || r.marked)
            FROM pg_statistic_ext s WHERE s.stxrelid = r.oid) t WHERE text IS NOT NULL),
    'foreign_keys', (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'name', k.conname, 'target', k.confrelid::int8, 'target_printed', k.confrelid::regclass::text,
            'target_name', (SELECT t.relname FROM pg_class t WHERE t.oid = k.confrelid),
            'on_delete', k.confdeltype, 'on_update', k.confupdtype,
            'columns', (SELECT jsonb_agg(a.attname ORDER BY u.n) FROM unnest(k.conkey) WITH ORDINALITY u (attnum, n)
                JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = u.attnum),
            'target_columns', (SELECT jsonb_agg(a.attname ORDER BY u.n) FROM unnest(k.confkey) WITH ORDINALITY u (attnum, n)
                JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum),
            'definition', 'ALTER TABLE ' || r.marked || ' ADD CONSTRAINT ' || quote_ident(k.conname) || ' '
                || replace(pg_get_constraintdef(k.oid), ' REFERENCES ' || k.confrelid::regclass::text || '(',
                           ' REFERENCES ' || chr(2) || k.confrelid || chr(2) || '(')) ORDER BY k.conname), '[]')
        FROM pg_constraint k WHERE k.conrelid = r.oid AND k.contype = 'f' AND k.conparentid = 0),
    'referenced_by', (SELECT coalesce(jsonb_agg(DISTINCT k.conrelid::int8), '[]')
        FROM pg_constraint k WHERE k.confrelid = r.oid AND k.contype = 'f' AND k.conrelid <> r.oid),
    'rest', (SELECT coalesce(jsonb_agg(text ORDER BY step, text), '[]') FROM (
        SELECT 1 AS step, 'COMMENT ON TABLE ' || r.marked || ' IS ' || quote_literal(obj_description(r.oid, 'pg_class')) AS text
        UNION ALL
        SELECT 1, 'COMMENT ON COLUMN ' || r.marked || '.' || quote_ident(a.attname) || ' IS '
            || quote_literal(col_description(r.oid, a.attnum))
            FROM pg_attribute a WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT 1, 'ALTER TABLE ' || r.marked || ' ALTER COLUMN ' || quote_ident(a.attname) || ' SET STORAGE '
            || CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END
            FROM pg_attribute a JOIN pg_type ty ON ty.oid = a.atttypid
            WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage <> ty.typstorage
        UNION ALL
        SELECT 2, 'ALTER TABLE ' || r.marked || ' ENABLE ROW LEVEL SECURITY' WHERE r.relrowsecurity
        UNION ALL
        SELECT 2, 'ALTER TABLE ' || r.marked || ' FORCE ROW LEVEL SECURITY' WHERE r.relforcerowsecurity
        UNION ALL
        SELECT 3, 'CREATE POLICY ' || quote_ident(p.polname) || ' ON ' || r.marked
            || CASE WHEN p.polpermissive THEN '' ELSE ' AS RESTRICTIVE' END
            || CASE p.polcmd WHEN 'r' THEN ' FOR SELECT' WHEN 'a' THEN ' FOR INSERT' WHEN 'w' THEN ' FOR UPDATE'
               WHEN 'd' THEN ' FOR DELETE' ELSE '' END
            || ' TO ' || (SELECT string_agg(CASE member WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(member)) END, ', ')
                          FROM unnest(p.polroles) member)
            || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
            || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
            FROM pg_policy p WHERE p.polrelid = r.oid
        UNION ALL
        SELECT 4, 'ALTER TABLE ' || r.marked || ' OWNER TO ' || quote_ident(pg_get_userbyid(r.relowner))
        UNION ALL
        SELECT 5, 'GRANT ' || g.privilege_type || ' ON TABLE ' || r.marked || ' TO '
            || CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END
            || CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            FROM aclexplode(r.relacl) g WHERE g.grantee <> r.relowner
        UNION ALL
        SELECT 5, 'GRANT ' || g.privilege_type || ' (' || quote_ident(a.attname) || ') ON TABLE ' || r.marked || ' TO '
            || CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END
            || CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            FROM pg_attribute a, aclexplode(a.attacl) g
            WHERE a.attrelid = r.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped
        ) t WHERE text IS NOT NULL),
    'schema_grants', (SELECT coalesce(jsonb_agg('GRANT USAGE ON SCHEMA ' || chr(1) || ' TO '
            || CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END), '[]')
        FROM pg_namespace n, aclexplode(n.nspacl) g
        WHERE n.oid = r.relnamespace AND g.privilege_type = 'USAGE' AND g.grantee <> n.nspowner)
)
FROM r LEFT JOIN pg_am am ON am.oid = r.relam
$$;

-- On every shell: a proxy that doesn't know yet that a table is distributed must not write into the shell.
-- Cascades of foreign keys come from inside another trigger and find nothing to do here.
CREATE FUNCTION tenantry.refuse_shell_write() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
        MESSAGE = format('table "%s" has been distributed meanwhile', TG_TABLE_NAME), HINT = 'Retry the statement.';
END $$;

-- On the coordinator's copy of a reference table: only a proxy that writes every copy says that it does.
CREATE FUNCTION tenantry.refuse_copy_write() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
        MESSAGE = format('reference table "%s" cannot be written on one node only', TG_TABLE_NAME),
        DETAIL = 'The write comes from a function, a trigger or a view, or the table became a reference table meanwhile.',
        HINT = 'Retry the statement, or write the table in a statement of its own.';
END $$;
