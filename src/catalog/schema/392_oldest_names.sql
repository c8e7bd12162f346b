-- What the oldest scripts for Citus call: what there is to tell is told, the rest says what to do instead.
SELECT tenantry.provide('master_run_on_worker', 'worker_name text[], port int[], command text[], parallel boolean',
    'TABLE (node_name text, node_port int, success boolean, result text)');
REVOKE EXECUTE ON FUNCTION tenantry_arguments.master_run_on_worker(text[], int[], text[], boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry_arguments.master_run_on_worker(text[], int[], text[], boolean) TO tenantry_admin;

-- A shard may become as large as it does, and they are dealt out to the nodes in turn (2).
CREATE FUNCTION tenantry.master_get_table_metadata(
    relation_name text, OUT logical_relid oid, OUT part_storage_type "char", OUT part_method "char", OUT part_key text,
    OUT part_replica_count int, OUT part_max_size bigint, OUT part_placement_policy int)
    LANGUAGE plpgsql STABLE STRICT AS $$
BEGIN
    SELECT t.logicalrelid, 't', t.partmethod, tenantry.column_to_column_name(t.logicalrelid, t.partkey), NULL, 2
        INTO logical_relid, part_storage_type, part_method, part_key, part_max_size, part_placement_policy
        FROM tenantry.pg_dist_partition t WHERE t.logicalrelid = relation_name::pg_catalog.regclass;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_table_definition',
            MESSAGE = pg_catalog.format('relation %s is not distributed', relation_name),
            HINT = 'SELECT * FROM citus_tables; shows those that are.';
    END IF;
    SELECT pg_catalog.count(*) INTO part_replica_count FROM tenantry.pg_dist_placement p
        WHERE p.shardid = (SELECT min(s.shardid) FROM tenantry.pg_dist_shard s WHERE s.logicalrelid = logical_relid);
END $$;

CREATE FUNCTION tenantry.master_get_table_ddl_events(relation_name text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
        MESSAGE = 'the statements that make a table are not told by a function',
        HINT = pg_catalog.format('Use pg_dump --schema-only --table=%s, through the proxy or on the coordinator.', relation_name);
END $$;

CREATE FUNCTION tenantry.master_create_empty_shard(relation_name text) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
        MESSAGE = 'shards cannot be added one by one',
        DETAIL = 'Tables are distributed by hash, and their shards have all the hash values among them; there are no append-distributed tables.',
        HINT = 'Split a shard (citus_split_shard_by_split_points, tenantry_split_shard), or all of them (alter_distributed_table with shard_count).';
END $$;
