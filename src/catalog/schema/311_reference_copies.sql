-- Reference tables are copied to a new node while clients write them: a move whose target takes no part yet.
ALTER TABLE tenantry.shard_move
    -- The tables, quoted, with their schemas; NULL for all other moves.
    ADD COLUMN relations text[],
    -- Where the target is: it may be in tenantry.node later only, or never.
    ADD COLUMN target_host text,
    ADD COLUMN target_port int;

-- Keeps writers of the tables waiting until the transaction ends. False, and nothing is locked, when that cannot be had within so
-- many milliseconds: who comes meanwhile waits behind it.
CREATE FUNCTION tenantry.lock_reference_tables(tables text[], milliseconds int) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = 0 AS $$
BEGIN
    PERFORM set_config('lock_timeout', milliseconds::text, true);
    EXECUTE 'LOCK TABLE ONLY ' || array_to_string(tables, ', ONLY ') || ' IN EXCLUSIVE MODE';
    RETURN true;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN false;
END $$;

-- In the transaction that makes the target a node: with its commit the copies are in use.
CREATE FUNCTION tenantry.switch_reference_copy(move bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tenantry.shard_move SET state = 'switched', phase = 'Completing'
        WHERE moveid = move AND state = 'caught_up' AND relations IS NOT NULL;
    RETURN FOUND;
END $$;
REVOKE EXECUTE ON FUNCTION tenantry.switch_reference_copy(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.switch_reference_copy(bigint) TO tenantry_admin;
