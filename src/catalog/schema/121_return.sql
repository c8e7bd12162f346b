-- A move may also take an isolated tenant's shard group back into that of its interval.

-- join_rest: the interval's shard group. join_merged: what that is called with the tenant's rows in it. join_staging: what the
-- tenant's rows are called on its node until then.
ALTER TABLE tenantry.shard_move
    ADD COLUMN join_rest bigint,
    ADD COLUMN join_merged bigint,
    ADD COLUMN join_staging bigint,
    ADD CHECK (pg_catalog.num_nulls(join_rest, join_merged, join_staging) IN (0, 3));

-- The moment of such a move. False when the row is not as the move left it.
CREATE FUNCTION tenantry.switch_return(move bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m tenantry.shard_move;
    staying bigint[];
BEGIN
    UPDATE tenantry.shard_move SET state = 'switched', phase = 'Completing'
        WHERE moveid = move AND state = 'caught_up' RETURNING * INTO m;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM tenantry.shard_group g WHERE g.tenant IS NOT NULL AND g.id = m.shard_group_id AND g.nodeid = m.source_node
        FOR UPDATE;
    IF FOUND THEN
        PERFORM FROM tenantry.shard_group g WHERE g.tenant IS NULL AND g.id = m.join_rest AND g.nodeid = m.target_node
            FOR UPDATE;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('shard group %s is not where the move found it', m.shard_group_id);
    END IF;
    DELETE FROM tenantry.shard WHERE shard_group_id = m.shard_group_id;
    DELETE FROM tenantry.shard_group WHERE id = m.shard_group_id;
    -- The others keep their shard ids.
    staying := ARRAY(SELECT s.shardid FROM tenantry.shard s WHERE s.shard_group_id = m.join_rest);
    UPDATE tenantry.shard SET shard_group_id = NULL WHERE shardid = ANY (staying);
    UPDATE tenantry.shard_group SET id = m.join_merged WHERE id = m.join_rest;
    UPDATE tenantry.shard SET shard_group_id = m.join_merged WHERE shardid = ANY (staying);
    RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION tenantry.switch_return(bigint) FROM PUBLIC;

SELECT tenantry.provide('tenantry_return_tenant', 'table_name regclass, tenant_id ' || type, 'bigint')
    FROM (VALUES ('text'), ('anyelement')) v (type);
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc
        WHERE pronamespace = 'tenantry_arguments'::regnamespace AND proname = 'tenantry_return_tenant'
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
END $$;
