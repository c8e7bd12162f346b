-- What a role may do in a table's schema, it may do in the schemas of its shards: also make tables there, and also the schema's owner,
-- whoever distributes the table.
ALTER FUNCTION tenantry.shell_definition(oid) RENAME TO shell_without_schema_grants;

CREATE FUNCTION tenantry.shell_definition(relation oid) RETURNS jsonb
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
SELECT tenantry.shell_without_schema_grants(relation) || jsonb_build_object('schema_grants', (
    SELECT coalesce(jsonb_agg('GRANT ' || g.privilege_type || ' ON SCHEMA ' || chr(1) || ' TO '
        || CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END), '[]')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
    WHERE c.oid = relation))
$$;
