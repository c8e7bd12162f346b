-- A move may also make a local table of the coordinator a distributed one: its source is the table, its pieces are the
-- shard groups of the table's colocation group.

-- relation, relation_name, partkey: the table and its distribution column. key_type, key_collation, shard_count: of its
-- colocation group, should that be new. shard_group_id is 0: one such move at a time.
ALTER TABLE tenantry.shard_move
    ADD COLUMN relation oid,
    ADD COLUMN relation_name text,
    ADD COLUMN partkey smallint,
    ADD COLUMN key_type oid,
    ADD COLUMN key_collation oid,
    ADD COLUMN shard_count int,
    ADD CHECK (pg_catalog.num_nulls(relation, relation_name, partkey, key_type, key_collation, shard_count) IN (0, 6)),
    ADD CHECK ((relation IS NULL) = (shard_group_id <> 0));

-- The moment of such a move, in the transaction that has the table's lock. False when the row is not as the move left it.
CREATE FUNCTION tenantry.switch_table(move bigint) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m tenantry.shard_move;
    is_new boolean;
    first_hash int := -2147483648;
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
    INSERT INTO tenantry.distributed_table (logicalrelid, partmethod, partkey, colocationid)
        VALUES (m.relation, 'h', m.partkey, m.colocationid);
    INSERT INTO tenantry.shard (shardid, logicalrelid, shard_group_id)
        SELECT CASE WHEN is_new THEN g.id ELSE nextval('tenantry.shard_id') END, m.relation, g.id
        FROM unnest(m.piece_groups) WITH ORDINALITY g (id, n) ORDER BY g.n;
    EXECUTE format('CREATE TRIGGER tenantry_shell BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH STATEMENT '
        'WHEN (pg_catalog.pg_trigger_depth() = 0) EXECUTE FUNCTION tenantry.refuse_shell_write()', m.relation::regclass);
    RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION tenantry.switch_table(bigint) FROM PUBLIC;

SELECT tenantry.provide('create_distributed_table_concurrently',
    'table_name regclass, distribution_column text, distribution_type tenantry.distribution_type DEFAULT ''hash'', '
    'colocate_with text DEFAULT ''default'', shard_count int DEFAULT NULL', 'void');

-- What depends on the caller's session is answered there: what colocate_with names, citus.shard_count, who calls.
CREATE OR REPLACE FUNCTION tenantry_arguments.create_distributed_table_concurrently(
    table_name regclass, distribution_column text, distribution_type tenantry.distribution_type DEFAULT 'hash',
    colocate_with text DEFAULT 'default', shard_count int DEFAULT NULL) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    partner bigint;
BEGIN
    IF table_name IS NOT NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = table_name
                   AND pg_catalog.pg_has_role(c.relowner, 'USAGE')) THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = pg_catalog.format('must be owner of table %s', table_name);
    END IF;
    IF pg_catalog.lower(colocate_with) NOT IN ('default', 'none') THEN
        partner := colocate_with::pg_catalog.regclass::pg_catalog.oid;
    END IF;
    RETURN pg_catalog.jsonb_build_object('table_name', table_name::pg_catalog.oid::pg_catalog.int8,
        'distribution_column', distribution_column, 'distribution_type', distribution_type,
        'colocate_with', colocate_with, 'colocate_oid', partner, 'shard_count', shard_count,
        'shard_count_default', nullif(pg_catalog.current_setting('citus.shard_count', true), '')::int);
END $$;

-- Carried out as a superuser: see 030_administration.
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'tenantry_arguments'::regnamespace
        AND proname IN ('isolate_tenant_to_new_shard', 'tenantry_isolate_tenant', 'citus_split_shard_by_split_points',
            'tenantry_split_shard', 'create_distributed_table_concurrently')
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
END $$;
