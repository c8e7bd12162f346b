-- What is to be done once on all nodes because an earlier version left it out. Each goes when it is done.
CREATE TABLE tenantry.mend (name text PRIMARY KEY);
-- Schemas of shards that were made before migration 350 lack what roles may do in their tables' schemas.
INSERT INTO tenantry.mend SELECT 'schema_grants' WHERE EXISTS (SELECT FROM tenantry.shard_group);
