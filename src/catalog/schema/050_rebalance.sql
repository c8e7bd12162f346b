-- How a rebalance weighs shard groups and nodes, and the tasks of background jobs.

CREATE FUNCTION tenantry.citus_shard_cost_1(shardid bigint) RETURNS float4 LANGUAGE sql IMMUTABLE AS 'SELECT 1.0::float4';
CREATE FUNCTION tenantry.citus_node_capacity_1(nodeid int) RETURNS float4 LANGUAGE sql IMMUTABLE AS 'SELECT 1.0::float4';
CREATE FUNCTION tenantry.citus_shard_allowed_on_node_true(shardid bigint, nodeid int) RETURNS boolean
    LANGUAGE sql IMMUTABLE AS 'SELECT true';
-- The proxy measures sizes itself, on the workers; the coordinator has no rows to measure.
CREATE FUNCTION tenantry.citus_shard_cost_by_disk_size(shardid bigint) RETURNS float4 LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
        MESSAGE = 'citus_shard_cost_by_disk_size cannot be called here',
        HINT = 'Name it as a strategy''s cost function, or see get_rebalance_table_shards_plan for sizes.';
END $$;

-- Rows are changed by the functions below only. Cost, capacity and placement functions run as the proxy's control user,
-- a superuser: so superusers add them, and own them.
CREATE TABLE tenantry.rebalance_strategy (
    name name PRIMARY KEY,
    default_strategy boolean NOT NULL DEFAULT false,
    shard_cost_function regproc NOT NULL,
    node_capacity_function regproc NOT NULL,
    shard_allowed_on_node_function regproc NOT NULL,
    default_threshold float4 NOT NULL,
    minimum_threshold float4 NOT NULL DEFAULT 0,
    improvement_threshold float4 NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX ON tenantry.rebalance_strategy (default_strategy) WHERE default_strategy;
INSERT INTO tenantry.rebalance_strategy VALUES
    ('by_shard_count', false, 'tenantry.citus_shard_cost_1', 'tenantry.citus_node_capacity_1',
        'tenantry.citus_shard_allowed_on_node_true', 0, 0, 0),
    ('by_disk_size', true, 'tenantry.citus_shard_cost_by_disk_size', 'tenantry.citus_node_capacity_1',
        'tenantry.citus_shard_allowed_on_node_true', 0.1, 0.01, 0.5);
CREATE VIEW tenantry.pg_dist_rebalance_strategy AS SELECT * FROM tenantry.rebalance_strategy;

-- The function of this name, with or without Tenantry's schema, if its arguments and result fit.
CREATE FUNCTION tenantry.strategy_function(role text, name text, arguments pg_catalog.regtype[], result pg_catalog.regtype)
    RETURNS regproc LANGUAGE plpgsql STABLE AS $$
DECLARE
    routine pg_catalog.pg_proc;
BEGIN
    SELECT p.* INTO routine FROM pg_catalog.pg_proc p
        WHERE p.oid = coalesce(pg_catalog.to_regproc(name), pg_catalog.to_regproc('tenantry.' || name))::pg_catalog.oid;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_function', MESSAGE = pg_catalog.format('function "%s" does not exist', name);
    END IF;
    IF routine.pronargs <> pg_catalog.cardinality(arguments) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = pg_catalog.format('signature for %s is incorrect', role),
            DETAIL = pg_catalog.format('number of arguments of %s should be %s, not %s', routine.proname,
                pg_catalog.cardinality(arguments), routine.pronargs);
    END IF;
    -- As text: the bounds of an oidvector begin at 0, and arrays with other bounds are other arrays.
    IF routine.proargtypes::text <> pg_catalog.array_to_string(arguments::pg_catalog.oid[], ' ')
        OR routine.prorettype <> result OR routine.proretset THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = pg_catalog.format('signature for %s is incorrect', role),
            DETAIL = pg_catalog.format('It should take (%s) and return %s.', pg_catalog.array_to_string(arguments, ', '), result);
    END IF;
    RETURN routine.oid;
END $$;

CREATE FUNCTION tenantry.citus_add_rebalance_strategy(name name, shard_cost_function text, node_capacity_function text,
        shard_allowed_on_node_function text, default_threshold float4, minimum_threshold float4 DEFAULT 0,
        improvement_threshold float4 DEFAULT 0)
    RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    cost regproc := tenantry.strategy_function('shard_cost_function', shard_cost_function, '{bigint}', 'float4');
    capacity regproc := tenantry.strategy_function('node_capacity_function', node_capacity_function, '{int}', 'float4');
    allowed regproc := tenantry.strategy_function('shard_allowed_on_node_function', shard_allowed_on_node_function,
        '{bigint,int}', 'boolean');
BEGIN
    IF default_threshold < minimum_threshold THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'default_threshold cannot be smaller than minimum_threshold';
    END IF;
    INSERT INTO tenantry.rebalance_strategy VALUES
        (name, false, cost, capacity, allowed, default_threshold, minimum_threshold, improvement_threshold);
END $$;
CREATE FUNCTION tenantry.citus_add_rebalance_strategy(name name, shard_cost_function regproc, node_capacity_function regproc,
        shard_allowed_on_node_function regproc, default_threshold float4, minimum_threshold float4 DEFAULT 0,
        improvement_threshold float4 DEFAULT 0)
    RETURNS void LANGUAGE sql AS $$
    SELECT tenantry.citus_add_rebalance_strategy(name, shard_cost_function::text, node_capacity_function::text,
        shard_allowed_on_node_function::text, default_threshold, minimum_threshold, improvement_threshold)
$$;

CREATE FUNCTION tenantry.citus_set_default_rebalance_strategy(name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- One after the other, whoever wants another default at the same moment.
    LOCK TABLE tenantry.rebalance_strategy IN SHARE ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM tenantry.rebalance_strategy s WHERE s.name = $1) THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = format('strategy with specified name does not exist'),
            DETAIL = format('There is no rebalance strategy "%s".', name);
    END IF;
    UPDATE tenantry.rebalance_strategy SET default_strategy = false WHERE default_strategy;
    UPDATE tenantry.rebalance_strategy s SET default_strategy = true WHERE s.name = $1;
END $$;
REVOKE EXECUTE ON FUNCTION tenantry.citus_set_default_rebalance_strategy(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.citus_set_default_rebalance_strategy(text) TO tenantry_admin;

CREATE TYPE tenantry.citus_task_status AS ENUM
    ('blocked', 'runnable', 'running', 'done', 'cancelling', 'error', 'unscheduled', 'cancelled');

-- One move of a job.
CREATE TABLE tenantry.job_task (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES tenantry.job ON DELETE CASCADE,
    colocationid int NOT NULL,
    shard_group_id bigint NOT NULL,
    source_node int NOT NULL,
    target_node int NOT NULL,
    state tenantry.citus_task_status NOT NULL DEFAULT 'runnable',
    retries int NOT NULL DEFAULT 0,
    -- Not to be tried again before.
    not_before timestamptz,
    message text,
    -- Whose rights it runs with: the control user's.
    owner regrole NOT NULL DEFAULT pg_catalog.to_regrole(pg_catalog.quote_ident(current_user)),
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX ON tenantry.job_task (job_id);
INSERT INTO tenantry.job_task (job_id, colocationid, shard_group_id, source_node, target_node, state)
    SELECT j.id, (m ->> 'colocation')::int, (m ->> 'group')::bigint, (m ->> 'source')::int, (m ->> 'target')::int,
        CASE WHEN j.finished_at IS NULL THEN 'runnable' WHEN j.state = 'finished' THEN 'done' ELSE 'unscheduled' END
            ::tenantry.citus_task_status
    FROM tenantry.job j, jsonb_array_elements(j.arguments -> 'moves') m WHERE j.kind = 'rebalance' ORDER BY j.id;

CREATE VIEW tenantry.pg_dist_background_job AS
    SELECT id AS job_id, state, kind::name AS job_type, description, started_at, finished_at FROM tenantry.job;
CREATE VIEW tenantry.pg_dist_background_task AS
    SELECT t.job_id, t.id AS task_id, t.owner, NULL::int AS pid, t.state AS status,
        pg_catalog.format('SELECT pg_catalog.citus_move_shard_placement(%s,%s,%s,''auto'')',
            (SELECT min(s.shardid) FROM tenantry.shard s WHERE s.shard_group_id = t.shard_group_id),
            t.source_node, t.target_node) AS command,
        nullif(t.retries, 0) AS retry_count, t.not_before, coalesce(t.message, '') AS message,
        ARRAY[t.source_node, t.target_node] AS nodes_involved
    FROM tenantry.job_task t;

CREATE FUNCTION tenantry.citus_job_list(OUT job_id bigint, OUT state tenantry.citus_job_status, OUT job_type name,
        OUT description text, OUT started_at timestamptz, OUT finished_at timestamptz) RETURNS SETOF record
    LANGUAGE sql STABLE AS 'SELECT * FROM tenantry.pg_dist_background_job ORDER BY job_id';

GRANT SELECT ON tenantry.rebalance_strategy, tenantry.pg_dist_rebalance_strategy, tenantry.job_task,
    tenantry.pg_dist_background_job, tenantry.pg_dist_background_task TO PUBLIC;

SELECT tenantry.provide('citus_job_status', 'jobid bigint, raw boolean DEFAULT false',
    'TABLE (job_id bigint, state tenantry.citus_job_status, job_type name, description text, started_at timestamptz, '
    'finished_at timestamptz, details jsonb)');
SELECT tenantry.provide('citus_job_wait', 'jobid bigint, desired_status tenantry.citus_job_status DEFAULT NULL', 'void');
SELECT tenantry.provide('citus_job_cancel', 'jobid bigint', 'void');
SELECT tenantry.provide('citus_task_wait', 'taskid bigint, desired_status tenantry.citus_task_status DEFAULT NULL', 'void');
SELECT tenantry.provide('get_rebalance_progress', '',
    'TABLE (sessionid int, table_name regclass, shardid bigint, shard_size bigint, sourcename text, sourceport int, '
    'targetname text, targetport int, progress bigint, source_shard_size bigint, target_shard_size bigint, '
    'operation_type text, source_lsn pg_lsn, target_lsn pg_lsn, status text)');
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc
        WHERE pronamespace = 'tenantry_arguments'::regnamespace AND proname = 'citus_job_cancel'
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
END $$;
