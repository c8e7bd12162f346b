-- At hardly any load nothing is suggested: what one tenant, or one node, has more of then than others says nothing.
CREATE OR REPLACE FUNCTION tenantry.tenantry_recommend(statements_at_once float8 DEFAULT 4,
        OUT recommendation text, OUT subject text, OUT reason text, OUT command text)
    RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    capacity CONSTANT float8 := statements_at_once;
    -- Less than this is worth no move.
    least CONSTANT float8 := statements_at_once / 20;
    workers bigint;
    whole float8;
BEGIN
    IF capacity IS NULL OR NOT capacity > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'statements_at_once must be greater than 0';
    END IF;
    SELECT count(*), coalesce(sum(n.statements_at_once), 0) INTO workers, whole FROM tenantry.node_load n;

    -- A tenant that makes most of a shard group's load and a good part of its node's: by itself it can be moved, and the
    -- others of the group are rid of it.
    RETURN QUERY
        SELECT 'isolate_tenant'::text, format('tenant %s of %s', l.tenant, t.name),
            format('it makes %s %% of the load of shard group %s and %s %% of that of node %s (%s:%s)',
                round((100 * l.busy_milliseconds_per_second / w.busy_milliseconds_per_second)::numeric), l.shard_group_id,
                round((l.busy_milliseconds_per_second / n.statements_at_once / 10)::numeric), n.nodeid, n.nodename, n.nodeport),
            format('SELECT isolate_tenant_to_new_shard(%L, %L, ''CASCADE'')', t.name, l.tenant)
        FROM tenantry.tenantry_loads l
        JOIN tenantry.tenantry_loads w ON w.shard_group_id = l.shard_group_id AND w.tenant IS NULL
        JOIN tenantry.shard_group g ON g.id = l.shard_group_id AND g.tenant IS NULL
        JOIN tenantry.node_load n ON n.nodeid = l.nodeid
        CROSS JOIN LATERAL (SELECT d.logicalrelid::regclass::text AS name FROM tenantry.distributed_table d
            WHERE d.colocationid = l.colocation_id ORDER BY d.logicalrelid LIMIT 1) t
        WHERE l.tenant IS NOT NULL AND octet_length(l.tenant) < 100
            AND l.busy_milliseconds_per_second >= 0.5 * w.busy_milliseconds_per_second
            AND l.busy_milliseconds_per_second >= 0.2 * 1000 * n.statements_at_once
            AND l.busy_milliseconds_per_second >= 1000 * least
        ORDER BY l.busy_milliseconds_per_second DESC, l.tenant;

    -- Nodes of unlike load, where moves can change it.
    RETURN QUERY
        SELECT 'rebalance'::text, format('node %s (%s:%s)', n.nodeid, n.nodename, n.nodeport),
            format('it carries %s statements at once, and the workers %s on the average',
                round(n.statements_at_once::numeric, 2), round((whole / nullif(workers, 0))::numeric, 2)),
            'SELECT citus_rebalance_start(''by_load'')'::text
        FROM tenantry.node_load n
        WHERE workers > 1 AND n.shard_groups > 1 AND n.statements_at_once > greatest(1.3 * whole / nullif(workers, 0), least)
        ORDER BY n.statements_at_once DESC, n.nodeid;

    IF whole / greatest(workers, 1) > capacity THEN
        recommendation := 'add_node';
        subject := format('%s workers', workers);
        reason := format('on the average each carries %s statements at once, more than %s',
            round((whole / nullif(workers, 0))::numeric, 2), capacity);
        command := format('tenantry cluster edit --workers %s', ceil(whole / capacity)::bigint);
        RETURN NEXT;
    END IF;

    RETURN QUERY
        SELECT 'drain_node'::text, format('node %s (%s:%s)', n.nodeid, n.nodename, n.nodeport),
            CASE WHEN n.shouldhaveshards THEN
                format('the other workers would carry %s statements at once without it, less than half of %s',
                    round((whole / nullif(workers - 1, 0))::numeric, 2), capacity)
            ELSE format('it is to have no shards, and has %s shard groups', n.shard_groups) END,
            format('SELECT citus_drain_node(%L, %s)', n.nodename, n.nodeport)
        FROM tenantry.node_load n
        WHERE n.shard_groups > 0 AND workers > 1 AND (NOT n.shouldhaveshards
            OR whole > least AND whole / nullif(workers - 1, 0) < capacity / 2
                AND n.nodeid = (SELECT m.nodeid FROM tenantry.node_load m WHERE m.shouldhaveshards
                    ORDER BY m.statements_at_once, m.shard_groups, m.nodeid DESC LIMIT 1))
        ORDER BY n.shouldhaveshards, n.nodeid;
END $$;
