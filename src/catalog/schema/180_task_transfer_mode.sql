-- A task's command tells the transfer mode that its job was started with.
CREATE OR REPLACE VIEW tenantry.pg_dist_background_task AS
    SELECT t.job_id, t.id AS task_id, t.owner, NULL::int AS pid, t.state AS status,
        pg_catalog.format('SELECT pg_catalog.citus_move_shard_placement(%s,%s,%s,%L)',
            (SELECT min(s.shardid) FROM tenantry.shard s WHERE s.shard_group_id = t.shard_group_id),
            t.source_node, t.target_node, coalesce(j.arguments ->> 'shard_transfer_mode', 'auto')) AS command,
        nullif(t.retries, 0) AS retry_count, t.not_before, coalesce(t.message, '') AS message,
        ARRAY[t.source_node, t.target_node] AS nodes_involved
    FROM tenantry.job_task t JOIN tenantry.job j ON j.id = t.job_id;
