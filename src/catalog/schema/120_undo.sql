-- For a while after a move its change stream runs backwards, so that the move can be undone. The way back is a move of its
-- own, planned before the first one's cutover: its slot is on the new node, its target is what the first one left on the
-- old node. It is 'undoable' until it is asked for or its time is over; others may move the shard group meanwhile.

-- back_of: the move that this one would undo. undo_until: since the first one's switch. definition: of the tables at that
-- time, as a checksum; once they are changed, there is no way back.
ALTER TABLE tenantry.shard_move
    DROP CONSTRAINT shard_move_state_check,
    ADD CONSTRAINT shard_move_state_check CHECK (state IN
        ('planned', 'target_created', 'copied', 'caught_up', 'switched', 'done', 'failed', 'undoable')),
    ADD COLUMN back_of bigint UNIQUE,
    ADD COLUMN undo_until timestamptz,
    ADD COLUMN definition text,
    ADD CHECK (state <> 'undoable' OR back_of IS NOT NULL);
DROP INDEX tenantry.shard_move_one_at_a_time;
CREATE UNIQUE INDEX shard_move_one_at_a_time ON tenantry.shard_move (shard_group_id)
    WHERE state NOT IN ('done', 'failed', 'undoable');

SELECT tenantry.provide(name, 'move_id bigint', 'void')
    FROM (VALUES ('tenantry_undo_move'), ('tenantry_keep_move')) v (name);
REVOKE EXECUTE ON FUNCTION tenantry_arguments.tenantry_undo_move(bigint), tenantry_arguments.tenantry_keep_move(bigint)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry_arguments.tenantry_undo_move(bigint), tenantry_arguments.tenantry_keep_move(bigint)
    TO tenantry_admin;
