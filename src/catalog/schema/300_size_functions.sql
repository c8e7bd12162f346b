-- Sizes of tables may be asked for wherever an expression may stand, of many tables at once. (Proxies older than this call
-- functions of the same names in tenantry_arguments.)

-- Over all shards, of what the proxy has gathered from the workers for this statement. A row there without a shard names a
-- node that could not be asked. `measure`: size, table_size or relation_size. A partitioned table's size is that of its partitions.
CREATE FUNCTION tenantry.gathered_size(relation regclass, measure text, fail_on_error boolean) RETURNS bigint
    LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    family oid[] := ARRAY(SELECT relation::oid UNION SELECT p.relid FROM pg_partition_tree(relation) p);
    total bigint;
    unasked text;
BEGIN
    IF NOT EXISTS (SELECT FROM tenantry.distributed_table t WHERE t.logicalrelid = relation) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_table_definition',
            MESSAGE = format('cannot calculate the size because relation %s is not distributed', relation);
    END IF;
    IF to_regclass('pg_temp.tenantry_shard_sizes') IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = 'the sizes of shards are not known here',
            HINT = 'Ask for them in a statement of the client''s own, not inside of a function.';
    END IF;
    EXECUTE format('SELECT sum(z.%I)::bigint FROM pg_temp.tenantry_shard_sizes z JOIN tenantry.shard s USING (shardid) '
        'WHERE s.logicalrelid = ANY ($1)', measure) INTO total USING family;
    EXECUTE 'SELECT min(n.nodename || '':'' || n.nodeport) FROM pg_temp.tenantry_shard_sizes z '
        'JOIN tenantry.node n USING (nodeid), tenantry.shard s LEFT JOIN tenantry.shard_group g ON g.id = s.shard_group_id '
        'WHERE z.shardid IS NULL AND s.logicalrelid = ANY ($1) AND coalesce(g.nodeid, n.nodeid) = n.nodeid'
        INTO unasked USING family;
    IF unasked IS NULL THEN
        RETURN coalesce(total, 0);
    END IF;
    IF fail_on_error THEN
        RAISE EXCEPTION USING ERRCODE = 'connection_failure',
            MESSAGE = format('cannot calculate the size of relation %s', relation),
            DETAIL = format('Node %s cannot be reached.', unasked);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION tenantry.citus_total_relation_size(relation_name regclass, fail_on_error boolean DEFAULT true) RETURNS bigint
    LANGUAGE sql STABLE AS $$ SELECT tenantry.gathered_size(relation_name, 'size', fail_on_error) $$;
CREATE FUNCTION tenantry.citus_table_size(relation_name regclass) RETURNS bigint
    LANGUAGE sql STABLE AS $$ SELECT tenantry.gathered_size(relation_name, 'table_size', true) $$;
CREATE FUNCTION tenantry.citus_relation_size(relation_name regclass) RETURNS bigint
    LANGUAGE sql STABLE AS $$ SELECT tenantry.gathered_size(relation_name, 'relation_size', true) $$;
