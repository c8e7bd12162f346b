-- A move that is only rehearsed says so.

ALTER TABLE tenantry.shard_move ADD COLUMN is_rehearsal boolean NOT NULL DEFAULT false;
UPDATE tenantry.shard_move SET is_rehearsal = true WHERE phase = 'Rehearsed';
