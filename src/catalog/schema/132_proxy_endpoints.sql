-- Where each proxy is reached. An address that stands for all of a machine's is told as the one that the coordinator sees.
ALTER TABLE tenantry.proxy
    ADD COLUMN clients_host text,
    ADD COLUMN clients_port int,
    ADD COLUMN admin_host text,
    ADD COLUMN admin_port int;

-- The proxies that live. Their locks are those of tenantry.share_connections.
CREATE VIEW tenantry.tenantry_proxies AS
    SELECT p.id, p.instance, p.clients_host, p.clients_port, p.admin_host, p.admin_port, p.joined_at
    FROM tenantry.proxy p
    WHERE EXISTS (
        SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.classid = 1953720434 AND l.objid = p.id::oid
            AND l.objsubid = 2
            AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
    ORDER BY p.id;
GRANT SELECT ON tenantry.tenantry_proxies TO pg_monitor, tenantry_admin;
