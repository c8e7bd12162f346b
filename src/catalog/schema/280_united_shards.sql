-- A move may also put shard groups together that are neighbours on one node.

-- In the order of their hashes, the first of them being shard_group_id; empty where that leaves alone.
ALTER TABLE tenantry.shard_move
    ADD COLUMN united_groups bigint[] NOT NULL DEFAULT '{}',
    ADD CHECK (pg_catalog.cardinality(united_groups) = 0 OR pg_catalog.cardinality(piece_groups) = 1
        AND pg_catalog.cardinality(united_groups) > 1 AND united_groups[1] = shard_group_id);

-- The moment of a move that cuts, or puts together. False when the row is not as the move left it.
CREATE OR REPLACE FUNCTION tenantry.switch_pieces(move bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m tenantry.shard_move;
    sources bigint[];
    colocation int;
    relations oid[];
    is_whole boolean;
    first_hash int;
BEGIN
    UPDATE tenantry.shard_move SET state = 'switched', phase = 'Completing'
        WHERE moveid = move AND state = 'caught_up' RETURNING * INTO m;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    sources := CASE WHEN cardinality(m.united_groups) > 0 THEN m.united_groups ELSE ARRAY[m.shard_group_id] END;
    PERFORM FROM tenantry.shard_group g WHERE g.id = ANY (sources) ORDER BY g.id FOR UPDATE;
    -- All are there, without a gap, and end where the last piece does.
    SELECT min(g.colocationid), min(g.minvalue),
            count(*) = cardinality(sources) AND max(g.maxvalue) = m.piece_maxima[cardinality(m.piece_maxima)]
            AND sum(g.maxvalue::bigint - g.minvalue + 1) = max(g.maxvalue)::bigint - min(g.minvalue) + 1
        INTO colocation, first_hash, is_whole
        FROM tenantry.shard_group g WHERE g.id = ANY (sources) AND g.nodeid = m.source_node AND g.tenant IS NULL;
    IF is_whole IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('shard group %s is not where the move found it', m.shard_group_id);
    END IF;
    relations := ARRAY(SELECT s.logicalrelid FROM tenantry.shard s WHERE s.shard_group_id = sources[1] ORDER BY s.shardid);
    DELETE FROM tenantry.shard WHERE shard_group_id = ANY (sources);
    DELETE FROM tenantry.shard_group WHERE id = ANY (sources);
    FOR i IN 1 .. cardinality(m.piece_groups) LOOP
        INSERT INTO tenantry.shard_group (id, colocationid, minvalue, maxvalue, nodeid)
            VALUES (m.piece_groups[i], colocation, first_hash, m.piece_maxima[i], m.piece_nodes[i]);
        -- The last one's may be the largest there is.
        IF i < cardinality(m.piece_groups) THEN
            first_hash := m.piece_maxima[i] + 1;
        END IF;
    END LOOP;
    INSERT INTO tenantry.shard (shardid, logicalrelid, shard_group_id)
        SELECT nextval('tenantry.shard_id'), r.oid, g.id
        FROM unnest(relations) WITH ORDINALITY r (oid, n), unnest(m.piece_groups) WITH ORDINALITY g (id, n)
        ORDER BY r.n, g.n;
    RETURN true;
END $$;
