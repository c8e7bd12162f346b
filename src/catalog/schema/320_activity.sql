-- What servers do, and who waits for whom. The proxy asks the workers as the client's own role, and lends what they say to the statement
-- that reads a view; the coordinator's own rows are read where they are.

CREATE FUNCTION tenantry.told_by_workers(what text) RETURNS TABLE (nodeid int, told jsonb)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answers text := nullif(current_setting('tenantry.' || what, true), '');
BEGIN
    IF answers IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = 'the activity of workers is not known here',
            HINT = 'Ask for it in a statement of the client''s own, not inside of a function or a view.';
    END IF;
    RETURN QUERY SELECT r.nodeid, r.told FROM jsonb_to_recordset(answers::jsonb) r (nodeid int, told jsonb);
END $$;

-- A process in the whole cluster, as Citus numbers them. The coordinator is node 0 while it is not in pg_dist_node.
CREATE FUNCTION tenantry.citus_calculate_gpid(nodeid int, pid int) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT
    RETURN nodeid * 10000000000::bigint + pid;
CREATE FUNCTION tenantry.citus_nodeid_for_gpid(global_pid bigint) RETURNS int LANGUAGE sql IMMUTABLE STRICT
    RETURN (global_pid / 10000000000::bigint)::int;
CREATE FUNCTION tenantry.citus_pid_for_gpid(global_pid bigint) RETURNS int LANGUAGE sql IMMUTABLE STRICT
    RETURN (global_pid % 10000000000::bigint)::int;
CREATE FUNCTION tenantry.coordinator_number() RETURNS int LANGUAGE sql STABLE
    RETURN greatest(tenantry.citus_coordinator_nodeid(), 0);

-- is_worker_query: what proxies do for themselves, not a statement of a client.
CREATE VIEW tenantry.citus_stat_activity AS
SELECT tenantry.citus_calculate_gpid(a.nodeid, a.pid) AS global_pid, a.nodeid,
    a.asks OR coalesce(a.application_name = 'tenantry control'
        OR a.backend_type = 'walsender' AND a.application_name = 'tenantry', false) AS is_worker_query,
    a.datid, a.datname, a.pid, a.leader_pid, a.usesysid, a.usename, a.application_name, a.client_addr, a.client_hostname,
    a.client_port, a.backend_start, a.xact_start, a.query_start, a.state_change, a.wait_event_type, a.wait_event, a.state,
    a.backend_xid, a.backend_xmin, a.query_id, a.query, a.backend_type
FROM (
    SELECT tenantry.coordinator_number() AS nodeid, false AS asks, c.* FROM pg_catalog.pg_stat_activity c
    UNION ALL
    SELECT w.nodeid, coalesce((r.value ->> 'asks')::boolean, false), p.*
    FROM tenantry.told_by_workers('activity') w, pg_catalog.jsonb_array_elements(w.told) r,
        pg_catalog.jsonb_populate_record(NULL::pg_catalog.pg_stat_activity, r.value) p
) a;

CREATE VIEW tenantry.citus_dist_stat_activity AS SELECT * FROM tenantry.citus_stat_activity WHERE NOT is_worker_query;

CREATE VIEW tenantry.citus_locks AS
SELECT tenantry.citus_calculate_gpid(l.nodeid, l.pid) AS global_pid, l.nodeid, l.locktype, l.database, l.relation,
    l.relation_name, l.page, l.tuple, l.virtualxid, l.transactionid, l.classid, l.objid, l.objsubid, l.virtualtransaction,
    l.pid, l.mode, l.granted, l.fastpath, l.waitstart
FROM (
    SELECT tenantry.coordinator_number() AS nodeid, CASE WHEN c.database IN (0, d.oid) THEN c.relation::regclass::text END AS relation_name,
        c.*
    FROM pg_catalog.pg_locks c, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
    UNION ALL
    SELECT w.nodeid, r.value ->> 'relation_name', p.*
    FROM tenantry.told_by_workers('locks') w, pg_catalog.jsonb_array_elements(w.told) r,
        pg_catalog.jsonb_populate_record(NULL::pg_catalog.pg_locks, r.value) p
) l;

-- A transaction that is prepared has no process: its number is that of its node's process 0.
CREATE VIEW tenantry.citus_lock_waits AS
SELECT tenantry.citus_calculate_gpid(l.nodeid, l.waiting) AS waiting_gpid,
    tenantry.citus_calculate_gpid(l.nodeid, l.blocking) AS blocking_gpid,
    l.waiting_query AS blocked_statement, l.blocking_query AS current_statement_in_blocking_process,
    l.nodeid AS waiting_nodeid, l.nodeid AS blocking_nodeid
FROM (
    SELECT tenantry.coordinator_number() AS nodeid, w.pid AS waiting, b.pid AS blocking, w.query AS waiting_query,
        a.query AS blocking_query
    FROM pg_catalog.pg_stat_activity w
    CROSS JOIN LATERAL (SELECT DISTINCT p.pid FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) p (pid)) b
    LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
    UNION ALL
    SELECT w.nodeid, p.*
    FROM tenantry.told_by_workers('lock_waits') w, pg_catalog.jsonb_to_recordset(w.told)
        p (waiting int, blocking int, waiting_query text, blocking_query text)
) l;

GRANT SELECT ON tenantry.citus_stat_activity, tenantry.citus_dist_stat_activity, tenantry.citus_locks, tenantry.citus_lock_waits TO PUBLIC;
