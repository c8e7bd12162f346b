-- Functions that take nodes in and out of service, and ask for their health.
SELECT tenantry.provide(prefix || '_add_inactive_node',
    'nodename text, nodeport int, groupid int DEFAULT -1, noderole tenantry.noderole DEFAULT ''primary'', '
    'nodecluster name DEFAULT ''default''', 'int') FROM (VALUES ('citus'), ('master')) v (prefix);
SELECT tenantry.provide(prefix || '_activate_node', 'nodename text, nodeport int', 'int')
    FROM (VALUES ('citus'), ('master')) v (prefix);
SELECT tenantry.provide(prefix || '_disable_node', 'nodename text, nodeport int, synchronous boolean DEFAULT false', 'void')
    FROM (VALUES ('citus'), ('master')) v (prefix);
SELECT tenantry.provide(prefix || '_update_node',
    'node_id int, new_node_name text, new_node_port int, force boolean DEFAULT false, lock_cooldown int DEFAULT 10000', 'void')
    FROM (VALUES ('citus'), ('master')) v (prefix);
SELECT tenantry.provide('citus_check_cluster_node_health', '',
    'TABLE (from_nodename text, from_nodeport int, to_nodename text, to_nodeport int, result boolean)');
SELECT tenantry.provide('citus_check_connection_to_node', 'nodename text, nodeport int DEFAULT 5432', 'boolean');
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'tenantry_arguments'::regnamespace
        AND proname ~ '^((citus|master)_(add_inactive_node|activate_node|disable_node|update_node)|citus_check_.*)$'
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
END $$;
