-- The catalog as users know it, and the functions that are plain SQL over it.
-- A proxy splices `tenantry.` in front of these names.

-- Attribute number inside a partition key as pg_dist_partition prints it.
CREATE FUNCTION tenantry.column_to_column_name(table_name regclass, column_var_text text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT attname::text FROM pg_catalog.pg_attribute
    WHERE attrelid = table_name AND NOT attisdropped
      AND attnum = (pg_catalog.regexp_match(column_var_text, ':varattno (\d+)'))[1]::smallint
$$;

CREATE FUNCTION tenantry.column_name_to_column(table_name regclass, column_name text) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_catalog.format('{VAR :varno 1 :varattno %s :vartype %s :vartypmod %s :varcollid %s :varlevelsup 0 '
        ':varnosyn 1 :varattnosyn %s :location -1}', attnum, atttypid, atttypmod, attcollation, attnum)
    FROM pg_catalog.pg_attribute
    WHERE attrelid = table_name AND NOT attisdropped AND attname = column_name
$$;

-- A shard's name as one word: the table's with the shard's number behind.
CREATE FUNCTION tenantry.shard_name(object_name regclass, shard_id bigint, skip_qualify_public boolean DEFAULT true)
    RETURNS text LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN n.nspname = 'public' AND skip_qualify_public THEN '' ELSE pg_catalog.quote_ident(n.nspname) || '.' END
        || pg_catalog.quote_ident(c.relname || '_' || shard_id)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = object_name
$$;

-- Sizes that the proxy gathered from the workers for this statement; none when it gathered none.
CREATE FUNCTION tenantry.gathered_shard_sizes() RETURNS TABLE (shardid bigint, nodeid int, size bigint)
    LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pg_catalog.to_regclass('pg_temp.tenantry_shard_sizes') IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT s.shardid, s.nodeid, s.size FROM pg_temp.tenantry_shard_sizes s';
    END IF;
END $$;

CREATE VIEW tenantry.pg_dist_node AS
    SELECT nodeid, groupid, nodename, nodeport, noderack, isactive AS hasmetadata, isactive, noderole, nodecluster,
           isactive AS metadatasynced, shouldhaveshards, false AS nodeisclone, 0 AS nodeprimarynodeid
    FROM tenantry.node;

CREATE VIEW tenantry.pg_dist_partition AS
    SELECT t.logicalrelid::regclass AS logicalrelid, t.partmethod,
           tenantry.column_name_to_column(t.logicalrelid, a.attname) AS partkey, t.colocationid,
           (CASE t.partmethod WHEN 'n' THEN 't' ELSE 's' END)::"char" AS repmodel, t.autoconverted
    FROM tenantry.distributed_table t
    JOIN pg_catalog.pg_class c ON c.oid = t.logicalrelid
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.logicalrelid AND a.attnum = t.partkey;

CREATE VIEW tenantry.pg_dist_shard AS
    SELECT s.logicalrelid::regclass AS logicalrelid, s.shardid, 't'::"char" AS shardstorage,
           g.minvalue::text AS shardminvalue, g.maxvalue::text AS shardmaxvalue
    FROM tenantry.shard s
    JOIN pg_catalog.pg_class c ON c.oid = s.logicalrelid
    LEFT JOIN tenantry.shard_group g ON g.id = s.shard_group_id;

-- Reference tables: one placement on every active node that pg_dist_node shows.
CREATE VIEW tenantry.pg_dist_placement AS
    SELECT s.shardid * 100000 + n.groupid AS placementid, s.shardid, 1 AS shardstate, 0::bigint AS shardlength, n.groupid
    FROM tenantry.shard s
    JOIN pg_catalog.pg_class c ON c.oid = s.logicalrelid
    LEFT JOIN tenantry.shard_group g ON g.id = s.shard_group_id
    JOIN tenantry.node n ON n.nodeid = g.nodeid OR (g.id IS NULL AND n.isactive AND n.noderole = 'primary');

CREATE VIEW tenantry.pg_dist_shard_placement AS
    SELECT p.shardid, p.shardstate, p.shardlength, n.nodename, n.nodeport, p.placementid
    FROM tenantry.pg_dist_placement p
    JOIN tenantry.node n ON n.groupid = p.groupid AND n.noderole = 'primary';

CREATE VIEW tenantry.pg_dist_colocation AS
    SELECT colocationid, shardcount, replicationfactor, distributioncolumntype, distributioncolumncollation
    FROM tenantry.colocation;

CREATE VIEW tenantry.citus_nodes AS
    SELECT nodename, nodeport, CASE groupid WHEN 0 THEN 'coordinator' ELSE 'worker' END AS role, isactive AS active
    FROM tenantry.node;

CREATE VIEW tenantry.citus_tables AS
    SELECT t.logicalrelid::regclass AS table_name,
           CASE t.partmethod WHEN 'n' THEN 'reference' ELSE 'distributed' END AS citus_table_type,
           coalesce(a.attname::text, '<none>') AS distribution_column,
           t.colocationid AS colocation_id,
           pg_catalog.pg_size_pretty(sizes.size) AS table_size,
           (SELECT count(*) FROM tenantry.shard s WHERE s.logicalrelid = t.logicalrelid) AS shard_count,
           pg_catalog.pg_get_userbyid(c.relowner) AS table_owner,
           am.amname AS access_method
    FROM tenantry.distributed_table t
    JOIN pg_catalog.pg_class c ON c.oid = t.logicalrelid
    LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.logicalrelid AND a.attnum = t.partkey
    LEFT JOIN (SELECT s.logicalrelid, sum(g.size)::bigint AS size
               FROM tenantry.gathered_shard_sizes() g JOIN tenantry.shard s USING (shardid)
               GROUP BY s.logicalrelid) sizes ON sizes.logicalrelid = t.logicalrelid
    ORDER BY t.logicalrelid::regclass::text;

CREATE VIEW tenantry.citus_shards AS
    SELECT s.logicalrelid::regclass AS table_name, s.shardid,
           tenantry.shard_name(s.logicalrelid, s.shardid) AS shard_name,
           CASE t.partmethod WHEN 'n' THEN 'reference' ELSE 'distributed' END AS citus_table_type,
           t.colocationid AS colocation_id, n.nodename, n.nodeport, sizes.size AS shard_size
    FROM tenantry.shard s
    JOIN tenantry.distributed_table t ON t.logicalrelid = s.logicalrelid
    JOIN pg_catalog.pg_class c ON c.oid = s.logicalrelid
    JOIN tenantry.pg_dist_placement p ON p.shardid = s.shardid
    JOIN tenantry.node n ON n.groupid = p.groupid AND n.noderole = 'primary'
    LEFT JOIN tenantry.gathered_shard_sizes() sizes
        ON sizes.shardid = s.shardid AND sizes.nodeid = CASE n.groupid WHEN 0 THEN 0 ELSE n.nodeid END
    ORDER BY s.logicalrelid::regclass::text, s.shardid;

GRANT SELECT ON tenantry.pg_dist_node, tenantry.pg_dist_partition, tenantry.pg_dist_shard, tenantry.pg_dist_placement,
    tenantry.pg_dist_shard_placement, tenantry.pg_dist_colocation, tenantry.citus_nodes, tenantry.citus_tables,
    tenantry.citus_shards TO PUBLIC;

CREATE FUNCTION tenantry.citus_version() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT 'Citus 13.2.2 compatible, Tenantry on PostgreSQL '::text || pg_catalog.current_setting('server_version')
$$;

CREATE FUNCTION tenantry.citus_is_coordinator() RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true';

CREATE FUNCTION tenantry.citus_coordinator_nodeid() RETURNS int LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT nodeid FROM tenantry.node WHERE groupid = 0 AND noderole = 'primary'), -1)
$$;

CREATE FUNCTION tenantry.citus_get_active_worker_nodes(OUT node_name text, OUT node_port bigint) RETURNS SETOF record
    LANGUAGE sql STABLE AS $$
    SELECT nodename, nodeport::bigint FROM tenantry.node
    WHERE isactive AND groupid <> 0 AND noderole = 'primary' ORDER BY nodename, nodeport
$$;

CREATE FUNCTION tenantry.master_get_active_worker_nodes(OUT node_name text, OUT node_port bigint) RETURNS SETOF record
    LANGUAGE sql STABLE AS 'SELECT * FROM tenantry.citus_get_active_worker_nodes()';

-- The shard that holds a value, by Postgres's own hash of the distribution column's type.
CREATE FUNCTION tenantry.shard_id_of_text(relation regclass, value text) RETURNS bigint
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    managed tenantry.distributed_table;
    key pg_catalog.pg_attribute;
    hash_function text;
    hash int;
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
    -- The default hash operator class of the type, or of one that it is binary coercible to (varchar: text).
    SELECT p.amproc::pg_catalog.oid::regproc::text INTO hash_function
    FROM pg_catalog.pg_type ty
    JOIN pg_catalog.pg_opclass oc ON oc.opcdefault AND oc.opcmethod = (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'hash')
    JOIN pg_catalog.pg_amproc p ON p.amprocfamily = oc.opcfamily AND p.amprocnum = 1
        AND p.amproclefttype = oc.opcintype AND p.amprocrighttype = oc.opcintype
    WHERE ty.oid = coalesce((WITH RECURSIVE base AS (
            SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t WHERE t.oid = key.atttypid
            UNION ALL SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t JOIN base ON t.oid = base.typbasetype)
            SELECT oid FROM base WHERE typbasetype = 0), key.atttypid)
      AND (oc.opcintype = ty.oid OR (ty.typtype = 'e' AND oc.opcintype = 'anyenum'::regtype)
           OR EXISTS (SELECT FROM pg_catalog.pg_cast ca
                      WHERE ca.castsource = ty.oid AND ca.casttarget = oc.opcintype AND ca.castmethod = 'b'))
    ORDER BY oc.opcintype = ty.oid DESC LIMIT 1;
    EXECUTE pg_catalog.format('SELECT %s(%L::%s)', hash_function, value, pg_catalog.format_type(key.atttypid, key.atttypmod))
        INTO hash;
    RETURN (SELECT s.shardid FROM tenantry.shard s JOIN tenantry.shard_group g ON g.id = s.shard_group_id
            WHERE s.logicalrelid = relation AND hash BETWEEN g.minvalue AND g.maxvalue);
END $$;

CREATE FUNCTION tenantry.get_shard_id_for_distribution_column(table_name regclass) RETURNS bigint
    LANGUAGE sql STABLE AS 'SELECT tenantry.shard_id_of_text(table_name, NULL)';
CREATE FUNCTION tenantry.get_shard_id_for_distribution_column(table_name regclass, distribution_value text) RETURNS bigint
    LANGUAGE sql STABLE AS 'SELECT tenantry.shard_id_of_text(table_name, distribution_value)';
CREATE FUNCTION tenantry.get_shard_id_for_distribution_column(table_name regclass, distribution_value anyelement)
    RETURNS bigint LANGUAGE sql STABLE AS 'SELECT tenantry.shard_id_of_text(table_name, distribution_value::text)';
