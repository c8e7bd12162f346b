-- What a move would mean, and a move that stops before its cutover.
SELECT tenantry.provide(f.name, a.arguments, f.returns)
    FROM (VALUES
        ('tenantry_explain_move', 'TABLE (aspect text, value text, stands_in_the_way boolean, hint text)'),
        ('tenantry_rehearse_move', 'TABLE (move_id bigint, rows_copied bigint, bytes_copied bigint, rows_applied bigint, '
            'seconds float8, bytes_per_second float8, change_milliseconds float8)')) f (name, returns),
        (VALUES ('shard_id bigint, node_id int'), ('table_name regclass, tenant_id text, node_id int'),
            ('table_name regclass, tenant_id anyelement, node_id int')) a (arguments);
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc
        WHERE pronamespace = 'tenantry_arguments'::regnamespace AND proname IN ('tenantry_explain_move', 'tenantry_rehearse_move')
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
END $$;
