-- Tenants with a shard group of their own, looked up before the intervals.

-- tenant: the value as Postgres prints it (ISO dates, UTC). tenant_key: bytes that are the same for equal values of the
-- distribution column's type and for no others (the proxy's shard_map::hash::Value). minvalue and maxvalue are the hash.
ALTER TABLE tenantry.shard_group
    ADD COLUMN tenant text,
    ADD COLUMN tenant_key bytea,
    ADD CHECK ((tenant IS NULL) = (tenant_key IS NULL)),
    ADD CHECK (tenant IS NULL OR minvalue = maxvalue),
    DROP CONSTRAINT shard_group_colocationid_minvalue_key;
CREATE UNIQUE INDEX shard_group_one_per_interval ON tenantry.shard_group (colocationid, minvalue) WHERE tenant IS NULL;
CREATE UNIQUE INDEX shard_group_one_per_tenant ON tenantry.shard_group (colocationid, pg_catalog.sha256(tenant_key))
    WHERE tenant IS NOT NULL;
CREATE INDEX shard_group_tenant_hash ON tenantry.shard_group (colocationid, minvalue) WHERE tenant IS NOT NULL;

-- The shard that holds a value, by Postgres's own hash and equality of the distribution column's type.
CREATE OR REPLACE FUNCTION tenantry.shard_id_of_text(relation regclass, value text) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    managed tenantry.distributed_table;
    key pg_catalog.pg_attribute;
    type text;
    hash int;
    shard bigint;
BEGIN
    SELECT * INTO managed FROM tenantry.distributed_table t WHERE t.logicalrelid = relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table', MESSAGE = pg_catalog.format('relation %s is not distributed', relation);
    END IF;
    IF managed.partmethod = 'n' THEN
        RETURN (SELECT s.shardid FROM tenantry.shard s WHERE s.logicalrelid = relation);
    END IF;
    IF value IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'distribution value cannot be NULL for tables other than reference tables.';
    END IF;
    SELECT * INTO key FROM pg_catalog.pg_attribute a WHERE a.attrelid = relation AND a.attnum = managed.partkey;
    type := pg_catalog.format_type(key.atttypid, key.atttypmod);
    hash := tenantry.hash_of_text(key.atttypid, type, value);
    -- A value was stored as this session may not read it: an isolated tenant's text is ISO and UTC.
    FOR shard IN EXECUTE
        'SELECT s.shardid FROM tenantry.shard_group g JOIN tenantry.shard s ON s.shard_group_id = g.id
         WHERE g.colocationid = $1 AND g.minvalue = $2 AND g.tenant IS NOT NULL AND s.logicalrelid = $3
           AND tenantry.are_equal($4, g.tenant, $5)'
        USING managed.colocationid, hash, relation, pg_catalog.format_type(key.atttypid, -1), value
    LOOP
        RETURN shard;
    END LOOP;
    RETURN (SELECT s.shardid FROM tenantry.shard s JOIN tenantry.shard_group g ON g.id = s.shard_group_id
            WHERE s.logicalrelid = relation AND g.tenant IS NULL AND hash BETWEEN g.minvalue AND g.maxvalue);
END $$;

-- Postgres's hash of a value: the default hash operator class of the type, or of one that it is binary coercible to
-- (varchar: text). `type` is what the text is cast to.
CREATE FUNCTION tenantry.hash_of_text(type_oid oid, type text, value text) RETURNS int
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hash_function text;
    hash int;
BEGIN
    SELECT p.amproc::pg_catalog.oid::regproc::text INTO hash_function
    FROM pg_catalog.pg_type ty
    JOIN pg_catalog.pg_opclass oc ON oc.opcdefault AND oc.opcmethod = (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'hash')
    JOIN pg_catalog.pg_amproc p ON p.amprocfamily = oc.opcfamily AND p.amprocnum = 1
        AND p.amproclefttype = oc.opcintype AND p.amprocrighttype = oc.opcintype
    WHERE ty.oid = coalesce((WITH RECURSIVE base AS (
            SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t WHERE t.oid = type_oid
            UNION ALL SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t JOIN base ON t.oid = base.typbasetype)
            SELECT oid FROM base WHERE typbasetype = 0), type_oid)
      AND (oc.opcintype = ty.oid OR (ty.typtype = 'e' AND oc.opcintype = 'anyenum'::regtype)
           OR EXISTS (SELECT FROM pg_catalog.pg_cast ca
                      WHERE ca.castsource = ty.oid AND ca.casttarget = oc.opcintype AND ca.castmethod = 'b'))
    ORDER BY oc.opcintype = ty.oid DESC LIMIT 1;
    EXECUTE pg_catalog.format('SELECT %s(%L::%s)', hash_function, value, type) INTO hash;
    RETURN hash;
END $$;

-- Are two texts one value of the type? The first is an isolated tenant's (ISO, UTC), the second the session's.
CREATE FUNCTION tenantry.are_equal(type text, tenant text, value text) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    equal boolean;
BEGIN
    EXECUTE pg_catalog.format('SELECT %L::%s = %L::%s', tenant, type, value, type) INTO equal;
    RETURN equal;
END $$;

-- Isolated tenants, for people.
CREATE VIEW tenantry.tenantry_tenants AS
    SELECT t.logicalrelid::regclass AS table_name, g.tenant, s.shardid, g.colocationid AS colocation_id,
           n.nodename, n.nodeport
    FROM tenantry.shard_group g
    JOIN tenantry.shard s ON s.shard_group_id = g.id
    JOIN tenantry.distributed_table t ON t.logicalrelid = s.logicalrelid
    JOIN pg_catalog.pg_class c ON c.oid = t.logicalrelid
    JOIN tenantry.node n ON n.nodeid = g.nodeid
    WHERE g.tenant IS NOT NULL
    ORDER BY t.logicalrelid::regclass::text, s.shardid;
GRANT SELECT ON tenantry.tenantry_tenants TO PUBLIC;
