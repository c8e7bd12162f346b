-- Clocks of servers may jump: what decides something is measured by the proxies, whose clocks for that only go forward.

-- For how many seconds more a move can be undone. The proxy that keeps the way back takes off what has passed; undo_until is
-- only told.
ALTER TABLE tenantry.shard_move ADD COLUMN undo_left float8;
UPDATE tenantry.shard_move SET undo_left = greatest(extract(epoch FROM undo_until - pg_catalog.clock_timestamp())::float8, 0)
    WHERE state = 'undoable';

-- The instance of the proxy that waits for a cancel request to be carried out: no longer than it does is it of use.
ALTER TABLE tenantry.cancel_request ADD COLUMN asker text;

-- Figures from the time to come are those of now.
CREATE OR REPLACE VIEW tenantry.tenantry_loads AS
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
        greatest(extract(epoch FROM pg_catalog.now() - l.began)::float8, 0) AS since_began,
        greatest(extract(epoch FROM pg_catalog.now() - l.written)::float8, 0) AS since_written) t
    CROSS JOIN LATERAL (SELECT
        pg_catalog.floor(t.since_began / l.lasts) AS periods,
        greatest(l.covers + t.since_written, 1) AS seconds) a
    CROSS JOIN LATERAL (
        SELECT l.reads, l.statements, l.micros, l.bytes,
            l.reads_before, l.statements_before, l.micros_before, l.bytes_before WHERE a.periods < 1
        UNION ALL SELECT 0, 0, 0, 0, l.reads, l.statements, l.micros, l.bytes WHERE a.periods = 1) n
    GROUP BY l.colocationid, l.shard_group_id, g.nodeid, l.tenant;
