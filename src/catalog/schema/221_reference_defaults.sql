-- Defaults of reference tables that each node would compute for itself: computed once, on the coordinator.

-- The next value of an identity, for those who may insert into its table: the privilege on the sequence is not asked for,
-- as it is not by an INSERT.
CREATE FUNCTION tenantry.next_identity(sequence oid) RETURNS int8
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asking name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    relation oid := (SELECT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = sequence
        AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i');
BEGIN
    IF relation IS NULL OR NOT (has_table_privilege(asking, relation, 'INSERT')
                                OR has_any_column_privilege(asking, relation, 'INSERT')) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('permission denied for sequence %s', coalesce(sequence::regclass::text, sequence::text));
    END IF;
    RETURN nextval(sequence::regclass);
END $$;

-- Of each column that has a default or is an identity: an expression that gives its next value, cast to the column's type.
CREATE FUNCTION tenantry.default_expressions(relation oid) RETURNS TABLE (column_name name, expression text)
    LANGUAGE sql STABLE SET quote_all_identifiers = off AS $$
SELECT a.attname, pg_catalog.format('CAST(%s AS %s)',
    CASE WHEN a.attidentity <> '' THEN (SELECT pg_catalog.format('tenantry.next_identity(%s)', d.objid)
        FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i')
    ELSE pg_catalog.pg_get_expr(f.adbin, f.adrelid) END, pg_catalog.format_type(a.atttypid, -1))
FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    AND (a.attidentity <> '' OR f.oid IS NOT NULL)
$$;

ALTER FUNCTION tenantry.table_definition(oid) RENAME TO table_without_copies;

-- With what copies of a reference table have in the place of defaults that draw from sequences: none.
CREATE FUNCTION tenantry.table_definition(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
SELECT whole.definition || jsonb_build_object('columns', (
    SELECT coalesce(jsonb_agg(c.definition || coalesce(jsonb_build_object('copy_definition', CASE
            WHEN f.oid IS NULL THEN shell.definition->>'definition'
            ELSE replace(shell.definition->>'definition', ' DEFAULT ' || pg_get_expr(f.adbin, f.adrelid), '') END), '{}')
        ORDER BY c.place), '[]')
    FROM jsonb_array_elements(whole.definition->'columns') WITH ORDINALITY c (definition, place)
    LEFT JOIN jsonb_array_elements(tenantry.shell_definition(relation)->'columns') shell (definition)
        ON shell.definition->'attnum' = c.definition->'attnum' AND (c.definition->>'draws_numbers')::boolean
    LEFT JOIN pg_attrdef f ON f.adrelid = relation AND f.adnum = (c.definition->>'attnum')::int2))
FROM (SELECT tenantry.table_without_copies(relation) AS definition) whole
$$;
