-- A move may take one tenant of a shard group only, to a shard group of its own.

-- tenant, tenant_key, tenant_hash: as in tenantry.shard_group. tenant_group: what its shard group is called.
-- rest_group: what the shard group it left is called afterwards, so that no proxy mistakes it for the whole.
ALTER TABLE tenantry.shard_move
    ADD COLUMN tenant text,
    ADD COLUMN tenant_key bytea,
    ADD COLUMN tenant_hash int,
    ADD COLUMN tenant_group bigint,
    ADD COLUMN rest_group bigint,
    ADD CHECK (pg_catalog.num_nulls(tenant, tenant_key, tenant_hash, tenant_group, rest_group) IN (0, 5));

-- The moment of such a move. False when the row is not as the move left it.
CREATE FUNCTION tenantry.switch_tenant(move bigint) RETURNS boolean
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
    PERFORM FROM tenantry.shard_group g
        WHERE g.id = m.shard_group_id AND g.nodeid = m.source_node AND g.tenant IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('shard group %s is not where the move found it', m.shard_group_id);
    END IF;
    -- The others keep their shard ids.
    staying := ARRAY(SELECT s.shardid FROM tenantry.shard s WHERE s.shard_group_id = m.shard_group_id);
    UPDATE tenantry.shard SET shard_group_id = NULL WHERE shardid = ANY (staying);
    UPDATE tenantry.shard_group SET id = m.rest_group WHERE id = m.shard_group_id;
    UPDATE tenantry.shard SET shard_group_id = m.rest_group WHERE shardid = ANY (staying);
    INSERT INTO tenantry.shard_group (id, colocationid, minvalue, maxvalue, nodeid, tenant, tenant_key)
        VALUES (m.tenant_group, m.colocationid, m.tenant_hash, m.tenant_hash, m.target_node, m.tenant, m.tenant_key);
    INSERT INTO tenantry.shard (shardid, logicalrelid, shard_group_id)
        SELECT nextval('tenantry.shard_id'), s.logicalrelid, m.tenant_group
        FROM tenantry.shard s WHERE s.shardid = ANY (staying) ORDER BY s.shardid;
    RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION tenantry.switch_tenant(bigint) FROM PUBLIC;

-- The tenant as text, or as a value of any other type.
SELECT tenantry.provide('isolate_tenant_to_new_shard',
    'table_name regclass, tenant_id ' || type || ', cascade_option text DEFAULT '''', '
    'shard_transfer_mode tenantry.shard_transfer_mode DEFAULT ''auto''', 'bigint')
    FROM (VALUES ('text'), ('anyelement')) v (type);
SELECT tenantry.provide('tenantry_isolate_tenant', 'table_name regclass, tenant_id ' || type || ', node_id int', 'bigint')
    FROM (VALUES ('text'), ('anyelement')) v (type);
