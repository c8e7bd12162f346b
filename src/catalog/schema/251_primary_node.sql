-- Citus asks this of each of its nodes; who asks a proxy is never at a standby.
CREATE FUNCTION tenantry.citus_is_primary_node() RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true';
