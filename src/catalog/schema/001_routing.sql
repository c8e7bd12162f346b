-- Who lives where. Small, hot, read by every proxy into its snapshot; every change rings tenantry_catalog.

CREATE TYPE tenantry.noderole AS ENUM ('primary', 'secondary', 'unavailable');

-- Postgres servers. groupid 0 is the coordinator, each worker has its own group.
CREATE SEQUENCE tenantry.node_id AS int;
CREATE SEQUENCE tenantry.node_group_id AS int;
CREATE TABLE tenantry.node (
    nodeid int PRIMARY KEY DEFAULT pg_catalog.nextval('tenantry.node_id'),
    groupid int NOT NULL DEFAULT pg_catalog.nextval('tenantry.node_group_id'),
    nodename text NOT NULL,
    nodeport int NOT NULL CHECK (nodeport BETWEEN 1 AND 65535),
    noderack text NOT NULL DEFAULT 'default',
    isactive boolean NOT NULL DEFAULT true,
    noderole tenantry.noderole NOT NULL DEFAULT 'primary',
    nodecluster name NOT NULL DEFAULT 'default',
    shouldhaveshards boolean NOT NULL DEFAULT true,
    UNIQUE (nodename, nodeport)
);
CREATE UNIQUE INDEX node_one_primary_per_group ON tenantry.node (groupid) WHERE noderole = 'primary';

-- Tables whose shards are cut alike and live together. Reference tables: distributioncolumntype 0, no shard groups.
CREATE SEQUENCE tenantry.colocation_id AS int;
CREATE TABLE tenantry.colocation (
    colocationid int PRIMARY KEY DEFAULT pg_catalog.nextval('tenantry.colocation_id'),
    shardcount int NOT NULL CHECK (shardcount > 0),
    replicationfactor int NOT NULL DEFAULT 1,
    distributioncolumntype oid NOT NULL DEFAULT 0,
    distributioncolumncollation oid NOT NULL DEFAULT 0
);

-- Managed tables by the oid of their shell. A row whose shell is gone is ignored by every reader.
CREATE TABLE tenantry.distributed_table (
    logicalrelid oid PRIMARY KEY,
    -- h: spread by hash; n: a copy on every node
    partmethod "char" NOT NULL CHECK (partmethod IN ('h', 'n')),
    -- attnum of the distribution column
    partkey smallint CHECK ((partkey IS NULL) = (partmethod = 'n')),
    colocationid int NOT NULL REFERENCES tenantry.colocation,
    autoconverted boolean NOT NULL DEFAULT false
);
CREATE INDEX ON tenantry.distributed_table (colocationid);

-- Shard groups and shards share one sequence; the first table of a new colocation group uses the groups' ids.
CREATE SEQUENCE tenantry.shard_id START 102008;

-- An interval [minvalue, maxvalue] of hash values, the unit that moves; its schemas are <schema>_<id>.
CREATE TABLE tenantry.shard_group (
    id bigint PRIMARY KEY,
    colocationid int NOT NULL REFERENCES tenantry.colocation,
    minvalue int NOT NULL,
    maxvalue int NOT NULL CHECK (minvalue <= maxvalue),
    nodeid int NOT NULL REFERENCES tenantry.node,
    UNIQUE (colocationid, minvalue)
);
CREATE INDEX ON tenantry.shard_group (nodeid);

-- One table's part of a shard group; of a reference table the only one, with no group.
CREATE TABLE tenantry.shard (
    shardid bigint PRIMARY KEY,
    logicalrelid oid NOT NULL REFERENCES tenantry.distributed_table ON DELETE CASCADE,
    shard_group_id bigint REFERENCES tenantry.shard_group,
    UNIQUE (logicalrelid, shard_group_id)
);
CREATE INDEX ON tenantry.shard (shard_group_id);

CREATE FUNCTION tenantry.ring() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('tenantry_catalog', '');
    RETURN NULL;
END $$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{node,colocation,distributed_table,shard_group,shard}'::text[] LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER ring AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tenantry.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION tenantry.ring()', name);
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA tenantry TO PUBLIC;
GRANT SELECT ON tenantry.node, tenantry.colocation, tenantry.distributed_table, tenantry.shard_group, tenantry.shard
    TO PUBLIC;
