-- Whether writes waited for all of the move: how long its clients were held says nothing of one that did otherwise.
ALTER TABLE tenantry.shard_move ADD COLUMN blocks_writes boolean NOT NULL DEFAULT false;
-- Until now that was not written down, but no other move holds its clients for longer than its copy takes, or hardly one.
UPDATE tenantry.shard_move SET blocks_writes = true
    WHERE hold_microseconds >= copy_microseconds AND copy_microseconds > 0 AND rows_applied = 0 AND relation_name IS NULL;
