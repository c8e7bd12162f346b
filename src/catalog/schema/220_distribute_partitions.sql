-- A partitioned table that becomes a distributed one while clients use it: its partitions become distributed with it.

-- As in 100_distribute, for the table and all that is below it, parents first. Who calls has the locks of all of them.
CREATE OR REPLACE FUNCTION tenantry.switch_table(move bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m tenantry.shard_move;
    is_new boolean;
    first_hash int := -2147483648;
    member record;
BEGIN
    UPDATE tenantry.shard_move SET state = 'switched', phase = 'Completing'
        WHERE moveid = move AND state = 'caught_up' RETURNING * INTO m;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    is_new := NOT EXISTS (SELECT FROM tenantry.colocation c WHERE c.colocationid = m.colocationid);
    IF is_new THEN
        INSERT INTO tenantry.colocation (colocationid, shardcount, distributioncolumntype, distributioncolumncollation)
            VALUES (m.colocationid, m.shard_count, m.key_type, m.key_collation);
        FOR i IN 1 .. cardinality(m.piece_groups) LOOP
            INSERT INTO tenantry.shard_group (id, colocationid, minvalue, maxvalue, nodeid)
                VALUES (m.piece_groups[i], m.colocationid, first_hash, m.piece_maxima[i], m.piece_nodes[i]);
            IF i < cardinality(m.piece_groups) THEN
                first_hash := m.piece_maxima[i] + 1;
            END IF;
        END LOOP;
    ELSIF (SELECT array_agg(g.id || ' ' || g.nodeid ORDER BY g.id) FROM tenantry.shard_group g
           WHERE g.colocationid = m.colocationid)
        IS DISTINCT FROM
          (SELECT array_agg(p.id || ' ' || p.node ORDER BY p.id) FROM unnest(m.piece_groups, m.piece_nodes) p (id, node))
    THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('shards of colocation group %s were moved meanwhile', m.colocationid),
            HINT = 'Run it again.';
    END IF;
    -- A partition may have its columns in another order.
    FOR member IN
        SELECT f.relation, own.attnum
        FROM (SELECT m.relation AS relation, 0 AS level
              UNION ALL SELECT t.relid, t.level FROM pg_partition_tree(m.relation) t WHERE t.level > 0) f
        JOIN pg_attribute key ON key.attrelid = m.relation AND key.attnum = m.partkey
        JOIN pg_attribute own ON own.attrelid = f.relation AND own.attname = key.attname
        ORDER BY f.level, f.relation
    LOOP
        INSERT INTO tenantry.distributed_table (logicalrelid, partmethod, partkey, colocationid)
            VALUES (member.relation, 'h', member.attnum, m.colocationid);
        INSERT INTO tenantry.shard (shardid, logicalrelid, shard_group_id)
            SELECT CASE WHEN is_new AND member.relation = m.relation THEN g.id ELSE nextval('tenantry.shard_id') END,
                member.relation, g.id
            FROM unnest(m.piece_groups) WITH ORDINALITY g (id, n) ORDER BY g.n;
        EXECUTE format('CREATE TRIGGER tenantry_shell BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH STATEMENT '
            'WHEN (pg_catalog.pg_trigger_depth() = 0) EXECUTE FUNCTION tenantry.refuse_shell_write()',
            member.relation::regclass);
    END LOOP;
    RETURN true;
END $$;
