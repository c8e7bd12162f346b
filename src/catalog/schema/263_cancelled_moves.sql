-- A move under way can be given up from anywhere.

-- Somebody wants it to end; the proxy that drives it looks here.
ALTER TABLE tenantry.shard_move ADD COLUMN cancelled boolean NOT NULL DEFAULT false;

SELECT tenantry.provide('tenantry_cancel_move', 'move_id bigint', 'void');
REVOKE EXECUTE ON FUNCTION tenantry_arguments.tenantry_cancel_move(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry_arguments.tenantry_cancel_move(bigint) TO tenantry_admin;
