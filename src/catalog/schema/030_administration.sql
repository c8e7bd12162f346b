-- Who may change the cluster, and the cluster's size as SQL.

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

-- Plain SQL needs no stand-ins.
DROP FUNCTION tenantry_arguments.tenantry_cluster_status();
DROP FUNCTION tenantry_result.tenantry_cluster_status(jsonb);
DROP FUNCTION tenantry_describe.tenantry_cluster_status();

-- One row for each worker, and one for the newest change of the cluster's size.
CREATE FUNCTION tenantry.tenantry_cluster_status()
    RETURNS TABLE (node text, role text, status text, shards bigint, detail text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    (SELECT n.nodename || ':' || n.nodeport, CASE n.groupid WHEN 0 THEN 'coordinator' ELSE 'worker' END,
            CASE WHEN NOT n.isactive THEN 'inactive' WHEN n.shouldhaveshards OR n.groupid = 0 THEN 'active' ELSE 'no new shards' END,
            (SELECT count(*) FROM tenantry.shard s JOIN tenantry.shard_group g ON g.id = s.shard_group_id
             WHERE g.nodeid = n.nodeid), ''
     FROM tenantry.node n ORDER BY n.nodeid)
    UNION ALL
    (SELECT r.workers || ' workers', 'cluster',
            r.state || CASE WHEN r.state = 'Pending' AND r.ready < r.wanted THEN ' ' || r.ready || '/' || r.wanted ELSE '' END,
            NULL, r.detail
     FROM tenantry.cluster_request r ORDER BY r.id DESC LIMIT 1)
$$;
