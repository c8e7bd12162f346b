-- A move may cut a shard group into pieces, each a shard group of its own.

-- In the order of their hashes: ids, nodes, and the last hash of each, the source's own last one included.
ALTER TABLE tenantry.shard_move
    ADD COLUMN piece_groups bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN piece_nodes int[] NOT NULL DEFAULT '{}',
    ADD COLUMN piece_maxima int[] NOT NULL DEFAULT '{}',
    ADD CHECK (pg_catalog.cardinality(piece_groups) = pg_catalog.cardinality(piece_nodes)
        AND pg_catalog.cardinality(piece_groups) = pg_catalog.cardinality(piece_maxima)),
    ADD CHECK (pg_catalog.cardinality(piece_groups) = 0 OR tenant IS NULL);

-- The moment of such a move. False when the row is not as the move left it.
CREATE FUNCTION tenantry.switch_pieces(move bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m tenantry.shard_move;
    source tenantry.shard_group;
    relations oid[];
    first_hash int;
BEGIN
    UPDATE tenantry.shard_move SET state = 'switched', phase = 'Completing'
        WHERE moveid = move AND state = 'caught_up' RETURNING * INTO m;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT * INTO source FROM tenantry.shard_group g
        WHERE g.id = m.shard_group_id AND g.nodeid = m.source_node AND g.tenant IS NULL FOR UPDATE;
    IF NOT FOUND OR source.maxvalue <> m.piece_maxima[cardinality(m.piece_maxima)] THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('shard group %s is not where the move found it', m.shard_group_id);
    END IF;
    relations := ARRAY(SELECT s.logicalrelid FROM tenantry.shard s WHERE s.shard_group_id = source.id ORDER BY s.shardid);
    DELETE FROM tenantry.shard WHERE shard_group_id = source.id;
    DELETE FROM tenantry.shard_group WHERE id = source.id;
    first_hash := source.minvalue;
    FOR i IN 1 .. cardinality(m.piece_groups) LOOP
        INSERT INTO tenantry.shard_group (id, colocationid, minvalue, maxvalue, nodeid)
            VALUES (m.piece_groups[i], source.colocationid, first_hash, m.piece_maxima[i], m.piece_nodes[i]);
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
REVOKE EXECUTE ON FUNCTION tenantry.switch_pieces(bigint) FROM PUBLIC;

SELECT tenantry.provide('citus_split_shard_by_split_points',
    'shard_id bigint, split_points text[], node_ids int[], '
    'shard_transfer_mode tenantry.shard_transfer_mode DEFAULT ''auto''', 'void');
SELECT tenantry.provide('tenantry_split_shard',
    'shard_id bigint, parts int, node_ids int[] DEFAULT NULL, '
    'shard_transfer_mode tenantry.shard_transfer_mode DEFAULT ''auto''', 'void');
