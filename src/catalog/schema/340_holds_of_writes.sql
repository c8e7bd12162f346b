-- Shard groups of which only transactions that may write are to wait. A proxy of before this column holds nothing for them, and answers.
ALTER TABLE tenantry.hold ADD COLUMN write_groups bigint[] NOT NULL DEFAULT '{}';
