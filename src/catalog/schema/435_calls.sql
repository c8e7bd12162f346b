-- Calls of management functions: Citus's names of arguments, and who may not call one is told so by the function's own name.

-- `provide` has its functions checked; PL/pgSQL takes no argument with the name of a column, Postgres does.
SET LOCAL check_function_bodies TO off;
DROP FUNCTION tenantry_arguments.citus_job_status(bigint, boolean), tenantry_describe.citus_job_status(bigint, boolean);
SELECT tenantry.provide('citus_job_status', 'job_id bigint, raw boolean DEFAULT false',
    'TABLE (job_id bigint, state tenantry.citus_job_status, job_type name, description text, started_at timestamptz, '
    'finished_at timestamptz, details jsonb)');
SET LOCAL check_function_bodies TO on;

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc
        WHERE pronamespace = 'tenantry_arguments'::regnamespace
                AND proname IN ('create_distributed_table', 'create_reference_table', 'undistribute_table')
            OR pronamespace = 'tenantry'::regnamespace
                AND proname IN ('tenantry_cluster_pause', 'tenantry_cluster_resume', 'tenantry_cluster_cancel')
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
    FOR f IN SELECT oid FROM pg_catalog.pg_proc
        WHERE pronamespace = 'tenantry'::regnamespace AND proname = 'citus_add_rebalance_strategy'
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$;
