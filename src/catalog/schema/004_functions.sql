-- Functions that the proxy carries out. Each exists three times, so that Postgres itself reads a call:
--   tenantry_arguments.<name>(<signature>)  evaluates and names the arguments: one jsonb object
--   tenantry_result.<name>(jsonb)           turns what the proxy did into the value or rows that the statement uses
--   tenantry_describe.<name>(<signature>)   has the type of the call, for Describe; never runs

CREATE SCHEMA tenantry_arguments;
CREATE SCHEMA tenantry_result;
CREATE SCHEMA tenantry_describe;
GRANT USAGE ON SCHEMA tenantry_arguments, tenantry_result, tenantry_describe TO PUBLIC;

-- `arguments` is a parameter list with defaults, `returns` a type, `void` or `TABLE (...)`.
-- A scalar result is given as that JSON value, rows as an array of objects.
CREATE FUNCTION tenantry.provide(name text, arguments text, returns text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    described oid;
    pairs text;
    body text;
BEGIN
    EXECUTE format('CREATE FUNCTION tenantry_describe.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', name, arguments, returns,
        format('BEGIN RAISE EXCEPTION USING ERRCODE = ''feature_not_supported'', MESSAGE = %L, HINT = %L; END',
            format('cannot call %s here', name), format('Call it in a statement of its own: SELECT %s(...).', name)));
    SELECT oid INTO described FROM pg_proc
        WHERE pronamespace = 'tenantry_describe'::regnamespace AND proname = provide.name ORDER BY oid DESC LIMIT 1;
    -- Objects by oid: their names mean what they mean in the caller's session.
    SELECT string_agg(format('%L, $%s%s', p.proargnames[i], i,
            CASE WHEN p.proargtypes[i - 1] IN ('regclass'::regtype, 'regnamespace'::regtype, 'regproc'::regtype,
                    'regprocedure'::regtype, 'regrole'::regtype, 'regtype'::regtype)
                THEN '::pg_catalog.oid::pg_catalog.int8' ELSE '' END), ', ' ORDER BY i)
        INTO pairs FROM pg_proc p, generate_series(1, p.pronargs) i WHERE p.oid = described;
    EXECUTE format('CREATE FUNCTION tenantry_arguments.%I(%s) RETURNS jsonb LANGUAGE sql STABLE AS %L', name, arguments,
        format('SELECT pg_catalog.jsonb_build_object(%s)', coalesce(pairs, '')));
    IF returns = 'void' THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION tenantry_result.%I(jsonb) RETURNS void LANGUAGE plpgsql AS %L',
            name, 'BEGIN END');
        RETURN;
    END IF;
    body := CASE
        WHEN returns ~* '^TABLE' THEN format('SELECT * FROM pg_catalog.jsonb_to_recordset($1) AS r %s', substr(returns, 6))
        WHEN returns = 'jsonb' THEN 'SELECT $1'
        ELSE format('SELECT ($1 #>> ''{}'')::%s', returns) END;
    EXECUTE format('CREATE OR REPLACE FUNCTION tenantry_result.%I(jsonb) RETURNS %s LANGUAGE sql STABLE AS %L',
        name, returns, body);
END $$;
REVOKE EXECUTE ON FUNCTION tenantry.provide(text, text, text) FROM PUBLIC;

CREATE TYPE tenantry.shard_transfer_mode AS ENUM ('auto', 'force_logical', 'block_writes');
CREATE TYPE tenantry.distribution_type AS ENUM ('hash', 'range', 'append');

SELECT tenantry.provide(prefix || '_add_node',
    'nodename text, nodeport int, groupid int DEFAULT -1, noderole tenantry.noderole DEFAULT ''primary'', '
    'nodecluster name DEFAULT ''default''', 'int') FROM (VALUES ('citus'), ('master')) v (prefix);
SELECT tenantry.provide(prefix || '_remove_node', 'nodename text, nodeport int', 'void')
    FROM (VALUES ('citus'), ('master')) v (prefix);
SELECT tenantry.provide('citus_set_coordinator_host',
    'host text, port int DEFAULT pg_catalog.current_setting(''port'')::int, '
    'node_role tenantry.noderole DEFAULT ''primary'', node_cluster name DEFAULT ''default''', 'void');
SELECT tenantry.provide(prefix || '_set_node_property', 'nodename text, nodeport int, property text, value boolean', 'void')
    FROM (VALUES ('citus'), ('master')) v (prefix);
SELECT tenantry.provide(prefix || '_drain_node',
    'nodename text, nodeport int, shard_transfer_mode tenantry.shard_transfer_mode DEFAULT ''auto'', '
    'rebalance_strategy name DEFAULT NULL', 'void') FROM (VALUES ('citus'), ('master')) v (prefix);

SELECT tenantry.provide('create_distributed_table',
    'table_name regclass, distribution_column text, distribution_type tenantry.distribution_type DEFAULT ''hash'', '
    'colocate_with text DEFAULT ''default'', shard_count int DEFAULT NULL', 'void');
SELECT tenantry.provide('create_reference_table', 'table_name regclass', 'void');
SELECT tenantry.provide('truncate_local_data_after_distributing_table', 'function_name regclass', 'void');

SELECT tenantry.provide('citus_total_relation_size', 'relation_name regclass, fail_on_error boolean DEFAULT true', 'bigint');
SELECT tenantry.provide('citus_relation_size', 'relation_name regclass', 'bigint');
SELECT tenantry.provide('citus_table_size', 'relation_name regclass', 'bigint');

SELECT tenantry.provide(name,
    'shard_id bigint, source_node_name text, source_node_port int, target_node_name text, target_node_port int, '
    'shard_transfer_mode tenantry.shard_transfer_mode DEFAULT ''auto''', 'void')
    FROM (VALUES ('citus_move_shard_placement'), ('master_move_shard_placement')) v (name);
SELECT tenantry.provide('citus_move_shard_placement',
    'shard_id bigint, source_node_id int, target_node_id int, '
    'shard_transfer_mode tenantry.shard_transfer_mode DEFAULT ''auto''', 'void');
SELECT tenantry.provide('rebalance_table_shards',
    'relation regclass DEFAULT NULL, threshold float4 DEFAULT NULL, max_shard_moves int DEFAULT 1000000, '
    'excluded_shard_list bigint[] DEFAULT ''{}'', shard_transfer_mode tenantry.shard_transfer_mode DEFAULT ''auto'', '
    'drain_only boolean DEFAULT false, rebalance_strategy name DEFAULT NULL', 'void');
SELECT tenantry.provide('get_rebalance_table_shards_plan',
    'relation regclass DEFAULT NULL, threshold float4 DEFAULT NULL, max_shard_moves int DEFAULT 1000000, '
    'excluded_shard_list bigint[] DEFAULT ''{}'', drain_only boolean DEFAULT false, rebalance_strategy name DEFAULT NULL, '
    'improvement_threshold float4 DEFAULT NULL',
    'TABLE (table_name regclass, shardid bigint, shard_size bigint, sourcename text, sourceport int, targetname text, '
    'targetport int)');
SELECT tenantry.provide('citus_rebalance_start',
    'rebalance_strategy name DEFAULT NULL, drain_only boolean DEFAULT false, '
    'shard_transfer_mode tenantry.shard_transfer_mode DEFAULT ''auto'', '
    'parallel_transfer_reference_tables boolean DEFAULT false, parallel_transfer_colocated_shards boolean DEFAULT false',
    'bigint');
SELECT tenantry.provide('citus_rebalance_status', 'raw boolean DEFAULT false',
    'TABLE (job_id bigint, state tenantry.citus_job_status, job_type name, description text, started_at timestamptz, '
    'finished_at timestamptz, details jsonb)');
SELECT tenantry.provide('citus_rebalance_wait', '', 'void');
SELECT tenantry.provide('citus_rebalance_stop', '', 'void');
SELECT tenantry.provide('tenantry_cluster_edit', 'workers int', 'bigint');
SELECT tenantry.provide('tenantry_cluster_status', '',
    'TABLE (node text, role text, status text, shards bigint, detail text)');
