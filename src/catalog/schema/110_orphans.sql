-- CALL citus_cleanup_orphaned_resources(): Postgres runs the statement with a procedure in the call's place.
SELECT tenantry.provide('citus_cleanup_orphaned_resources', '', 'void');
DROP FUNCTION tenantry_result.citus_cleanup_orphaned_resources(jsonb);
CREATE PROCEDURE tenantry_result.citus_cleanup_orphaned_resources(jsonb) LANGUAGE plpgsql AS 'BEGIN END';
DROP FUNCTION tenantry_describe.citus_cleanup_orphaned_resources();
CREATE PROCEDURE tenantry_describe.citus_cleanup_orphaned_resources() LANGUAGE plpgsql AS 'BEGIN END';
REVOKE EXECUTE ON FUNCTION tenantry_arguments.citus_cleanup_orphaned_resources() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry_arguments.citus_cleanup_orphaned_resources() TO tenantry_admin;
