-- One command on many servers or shards, outside of the transaction of who asks.
SELECT tenantry.provide('run_command_on_workers', 'command text, parallel boolean DEFAULT true',
    'TABLE (nodename text, nodeport int, success boolean, result text)');
SELECT tenantry.provide('run_command_on_all_nodes',
    'command text, parallel boolean DEFAULT true, give_warning_for_connection_errors boolean DEFAULT false',
    'TABLE (nodeid int, success boolean, result text)');
SELECT tenantry.provide('run_command_on_coordinator',
    'command text, give_warning_for_connection_errors boolean DEFAULT false',
    'TABLE (nodeid int, success boolean, result text)');
SELECT tenantry.provide('run_command_on_shards', 'table_name regclass, command text, parallel boolean DEFAULT true',
    'TABLE (shardid bigint, success boolean, result text)');
SELECT tenantry.provide('run_command_on_placements', 'table_name regclass, command text, parallel boolean DEFAULT true',
    'TABLE (nodename text, nodeport int, shardid bigint, success boolean, result text)');
SELECT tenantry.provide('run_command_on_colocated_placements',
    'table_name1 regclass, table_name2 regclass, command text, parallel boolean DEFAULT true',
    'TABLE (nodename text, nodeport int, shardid1 bigint, shardid2 bigint, success boolean, result text)');

-- Whatever a role may do on a server, also what no statement through a proxy would do there.
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc
        WHERE pronamespace = 'tenantry_arguments'::regnamespace AND proname LIKE 'run\_command\_on\_%' LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
END $$;
