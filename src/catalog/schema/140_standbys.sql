-- Standbys of nodes: rows of the same group with noderole 'secondary'.

-- When a standby has taken the primary's place, their rows exchange addresses in one statement.
ALTER TABLE tenantry.node DROP CONSTRAINT node_nodename_nodeport_key;
ALTER TABLE tenantry.node ADD CONSTRAINT node_nodename_nodeport_key UNIQUE (nodename, nodeport) DEFERRABLE;

SELECT tenantry.provide(prefix || '_add_secondary_node',
    'nodename text, nodeport int, primaryname text, primaryport int, nodecluster name DEFAULT ''default''', 'int')
    FROM (VALUES ('citus'), ('master')) v (prefix);
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'tenantry_arguments'::regnamespace
        AND proname ~ '^(citus|master)_add_secondary_node$'
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
END $$;
