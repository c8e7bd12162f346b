-- Shard group moves: one row each, kept as history. The row is also the record of what to clean up: every object that a
-- move creates has a name made of its id and its schemas (slot, publication and schema tenantry_move_<id>, target
-- schemas <schema>_<group>, fenced source schemas tenantry_moved_<id>_<n>). Written and committed before any of them.
CREATE TABLE tenantry.shard_move (
    moveid bigint PRIMARY KEY DEFAULT pg_catalog.nextval('tenantry.operation_id'),
    colocationid int NOT NULL,
    shard_group_id bigint NOT NULL,
    source_node int NOT NULL,
    target_node int NOT NULL,
    -- What is finished. switched: the placement has moved, the source's remains are still there.
    state text NOT NULL DEFAULT 'planned'
        CHECK (state IN ('planned', 'target_created', 'copied', 'caught_up', 'switched', 'done', 'failed')),
    -- What is going on, in Citus's words (citus_rebalance_status).
    phase text NOT NULL DEFAULT 'Setting Up',
    -- Schemas of the moved tables, without the shard group's suffix.
    schemas text[] NOT NULL,
    -- Tables of the source shard that got REPLICA IDENTITY FULL for the move, quoted, with the shard's schema.
    full_identity text[] NOT NULL DEFAULT '{}',
    bytes_total bigint NOT NULL DEFAULT 0,
    rows_copied bigint NOT NULL DEFAULT 0,
    bytes_copied bigint NOT NULL DEFAULT 0,
    rows_applied bigint NOT NULL DEFAULT 0,
    hold_microseconds bigint,
    attempts int NOT NULL DEFAULT 0,
    error text,
    started_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    finished_at timestamptz
);
-- The second of two moves of one shard group fails here, whatever proxy it comes from.
CREATE UNIQUE INDEX shard_move_one_at_a_time ON tenantry.shard_move (shard_group_id)
    WHERE state NOT IN ('done', 'failed');
GRANT SELECT ON tenantry.shard_move TO PUBLIC;
