-- Names that scripts written for Citus ask for: a node without writes, and what moves leave.

SELECT tenantry.provide('citus_pause_node_within_txn',
    'node_id int, force boolean DEFAULT false, lock_cooldown int DEFAULT 10000', 'void');
REVOKE EXECUTE ON FUNCTION tenantry_arguments.citus_pause_node_within_txn(int, boolean, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry_arguments.citus_pause_node_within_txn(int, boolean, int) TO tenantry_admin;

-- The older name of the other one.
SELECT tenantry.provide('citus_cleanup_orphaned_shards', '', 'void');
DROP FUNCTION tenantry_result.citus_cleanup_orphaned_shards(jsonb);
CREATE PROCEDURE tenantry_result.citus_cleanup_orphaned_shards(jsonb) LANGUAGE plpgsql AS 'BEGIN END';
DROP FUNCTION tenantry_describe.citus_cleanup_orphaned_shards();
CREATE PROCEDURE tenantry_describe.citus_cleanup_orphaned_shards() LANGUAGE plpgsql AS 'BEGIN END';
REVOKE EXECUTE ON FUNCTION tenantry_arguments.citus_cleanup_orphaned_shards() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry_arguments.citus_cleanup_orphaned_shards() TO tenantry_admin;

CREATE FUNCTION tenantry.citus_copy_shard_placement(
    shard_id bigint, source_node_name text, source_node_port int, target_node_name text, target_node_port int,
    transfer_mode tenantry.shard_transfer_mode DEFAULT 'auto') RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
        MESSAGE = 'a second placement of a shard is not supported',
        DETAIL = 'Each shard has one placement; reference tables are copied to every worker by themselves.',
        HINT = 'Keep copies by standbys of the worker (citus_add_secondary_node), or move the shard (citus_move_shard_placement).';
END $$;
CREATE FUNCTION tenantry.citus_copy_shard_placement(
    shard_id bigint, source_node_id int, target_node_id int,
    transfer_mode tenantry.shard_transfer_mode DEFAULT 'auto') RETURNS void LANGUAGE sql AS
    'SELECT tenantry.citus_copy_shard_placement($1, NULL, NULL, NULL, NULL, $4)';

-- Citus writes these rows down. Here a move's own row says all of it, from before anything is made until nothing is left.
-- Types: 1 shard, 3 replication slot, 4 publication; policies: 0 goes in any case, 1 when the move fails, 2 when it succeeds.
CREATE VIEW tenantry.pg_dist_cleanup AS
WITH moves AS (
    SELECT m.moveid, m.colocationid, m.shard_group_id, m.source_node, m.target_node, m.piece_groups, m.piece_nodes,
        'tenantry_move_' || m.moveid AS name, m.state = 'switched' AS is_switched
    FROM tenantry.shard_move m WHERE m.state NOT IN ('done', 'failed')
), groups (moveid, shard_group_id, nodeid, policy_type) AS (
    -- Where it comes from is left when it has switched, where it goes to when it has not.
    SELECT m.moveid, m.shard_group_id, m.source_node, 2 FROM moves m WHERE m.is_switched
    UNION ALL
    SELECT m.moveid, m.shard_group_id, m.target_node, 1 FROM moves m
    WHERE NOT m.is_switched AND pg_catalog.cardinality(m.piece_groups) = 0
    UNION ALL
    SELECT m.moveid, p.shard_group_id, p.nodeid, 1
    FROM moves m, ROWS FROM (pg_catalog.unnest(m.piece_groups), pg_catalog.unnest(m.piece_nodes)) p (shard_group_id, nodeid)
    WHERE NOT m.is_switched
), objects (operation_id, position, object_type, object_name, nodeid, policy_type) AS (
    SELECT m.moveid, 1, 3, m.name, m.source_node, 0 FROM moves m
    UNION ALL SELECT m.moveid, 2, 4, m.name, m.source_node, 0 FROM moves m
    UNION ALL
    SELECT g.moveid, 3, 1, pg_catalog.format('%I.%I', n.nspname || '_' || g.shard_group_id, c.relname), g.nodeid, g.policy_type
    FROM groups g
    JOIN moves m ON m.moveid = g.moveid
    JOIN tenantry.distributed_table t ON t.colocationid = m.colocationid AND t.partmethod = 'h'
    JOIN pg_catalog.pg_class c ON c.oid = t.logicalrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
)
SELECT pg_catalog.row_number() OVER (ORDER BY o.operation_id, o.position, o.object_name, o.nodeid) AS record_id,
    o.operation_id, o.object_type, o.object_name, coalesce(n.groupid, 0) AS node_group_id, o.policy_type
FROM objects o LEFT JOIN tenantry.node n ON n.nodeid = o.nodeid;
GRANT SELECT ON tenantry.pg_dist_cleanup TO PUBLIC;
