-- Who may change the cluster.

-- These functions are carried out over the control channel, as a superuser: reading a call's arguments is what a role
-- must be allowed to. create_distributed_table and its like write the catalog as the client's own role instead.
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'tenantry_arguments'::regnamespace
        AND proname ~ '^((citus|master)_(add_node|remove_node|set_node_property|drain_node|move_shard_placement)'
            '|citus_set_coordinator_host|rebalance_table_shards|citus_rebalance_(start|stop)|tenantry_cluster_edit)$'
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
END $$;

GRANT INSERT ON tenantry.cluster_request TO tenantry_admin;
