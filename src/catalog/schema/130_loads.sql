-- What tenants and shard groups ask of the servers, as each proxy sees it.

-- Written by every proxy every few seconds, so not worth a log: after a crash of the coordinator it begins anew.
CREATE UNLOGGED TABLE tenantry.load (
    proxy text NOT NULL,
    -- Of the period that the first four figures are of; it lasts so many seconds.
    began timestamptz NOT NULL,
    lasts float8 NOT NULL,
    -- Seconds that this period and the one before it have, as far as anything was counted.
    covers float8 NOT NULL,
    written timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    colocationid int NOT NULL,
    shard_group_id bigint NOT NULL,
    -- NULL: the whole shard group.
    tenant text,
    reads bigint NOT NULL,
    statements bigint NOT NULL,
    micros bigint NOT NULL,
    bytes bigint NOT NULL,
    reads_before bigint NOT NULL,
    statements_before bigint NOT NULL,
    micros_before bigint NOT NULL,
    bytes_before bigint NOT NULL
);
CREATE INDEX ON tenantry.load (proxy);

-- When all of it was last thrown away. A proxy that finds another time here than it knows begins anew.
CREATE TABLE tenantry.load_reset (at timestamptz NOT NULL);

-- All proxies together. A proxy without work writes nothing, so what is this period in its rows may be the last by now.
CREATE VIEW tenantry.tenantry_loads AS
    SELECT l.colocationid AS colocation_id, l.shard_group_id, g.nodeid, l.tenant,
        sum(n.reads)::bigint AS read_count_in_this_period, sum(n.reads_before)::bigint AS read_count_in_last_period,
        sum(n.statements)::bigint AS query_count_in_this_period, sum(n.statements_before)::bigint AS query_count_in_last_period,
        sum(n.micros) / 1e6::float8 AS seconds_in_this_period, sum(n.micros_before) / 1e6::float8 AS seconds_in_last_period,
        sum(n.bytes)::bigint AS bytes_in_this_period, sum(n.bytes_before)::bigint AS bytes_in_last_period,
        sum((n.statements + n.statements_before) / a.seconds) AS statements_per_second,
        sum((n.micros + n.micros_before) / 1e3 / a.seconds)::float8 AS busy_milliseconds_per_second,
        sum((n.bytes + n.bytes_before) / a.seconds) AS bytes_per_second
    FROM tenantry.load l
    JOIN tenantry.shard_group g ON g.id = l.shard_group_id
    CROSS JOIN LATERAL (SELECT
        pg_catalog.floor(extract(epoch FROM pg_catalog.now() - l.began)::float8 / l.lasts) AS periods,
        greatest(l.covers + extract(epoch FROM pg_catalog.now() - l.written)::float8, 1) AS seconds) a
    CROSS JOIN LATERAL (
        SELECT l.reads, l.statements, l.micros, l.bytes,
            l.reads_before, l.statements_before, l.micros_before, l.bytes_before WHERE a.periods < 1
        UNION ALL SELECT 0, 0, 0, 0, l.reads, l.statements, l.micros, l.bytes WHERE a.periods = 1) n
    GROUP BY l.colocationid, l.shard_group_id, g.nodeid, l.tenant;

-- Citus's columns. Its cpu_usage is what the backend used; here it is elapsed time, in seconds.
CREATE FUNCTION tenantry.citus_stat_tenants(return_all_tenants boolean DEFAULT false, OUT nodeid int, OUT colocation_id int,
        OUT tenant_attribute text, OUT read_count_in_this_period int, OUT read_count_in_last_period int,
        OUT query_count_in_this_period int, OUT query_count_in_last_period int,
        OUT cpu_usage_in_this_period double precision, OUT cpu_usage_in_last_period double precision, OUT score bigint)
    RETURNS SETOF record LANGUAGE sql STABLE AS $$
    SELECT l.nodeid, l.colocation_id, l.tenant, l.read_count_in_this_period::int, l.read_count_in_last_period::int,
        l.query_count_in_this_period::int, l.query_count_in_last_period::int,
        l.seconds_in_this_period, l.seconds_in_last_period,
        (l.query_count_in_this_period + l.query_count_in_last_period
            + 1000 * (l.seconds_in_this_period + l.seconds_in_last_period))::bigint
    FROM tenantry.tenantry_loads l WHERE l.tenant IS NOT NULL ORDER BY 10 DESC, 3
$$;

CREATE VIEW tenantry.citus_stat_tenants AS
    SELECT nodeid, colocation_id, tenant_attribute, read_count_in_this_period, read_count_in_last_period,
        query_count_in_this_period, query_count_in_last_period, cpu_usage_in_this_period, cpu_usage_in_last_period
    FROM tenantry.citus_stat_tenants() ORDER BY score DESC, tenant_attribute;

-- Names of tenants are data: not for everybody.
REVOKE EXECUTE ON FUNCTION tenantry.citus_stat_tenants(boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.citus_stat_tenants(boolean) TO pg_monitor, tenantry_admin;
GRANT SELECT ON tenantry.tenantry_loads, tenantry.citus_stat_tenants TO pg_monitor, tenantry_admin;

SELECT tenantry.provide('citus_stat_tenants_reset', '', 'void');
REVOKE EXECUTE ON FUNCTION tenantry_arguments.citus_stat_tenants_reset() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry_arguments.citus_stat_tenants_reset() TO tenantry_admin;
