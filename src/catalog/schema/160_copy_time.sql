-- How long the copy of a move took, by itself: without what comes before and after it.
ALTER TABLE tenantry.shard_move ADD COLUMN copy_microseconds bigint;
