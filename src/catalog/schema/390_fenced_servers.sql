-- Servers that citus_update_node has taken out of use while they were alive: for as long as one may have a part of that very transaction
-- prepared, which nobody else looks for there. A row goes when nothing of the kind is left on the server.
CREATE TABLE tenantry.fenced_server (
    nodeid int NOT NULL,
    nodename text NOT NULL,
    nodeport int NOT NULL,
    fenced_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (nodename, nodeport)
);
GRANT SELECT, INSERT, UPDATE ON tenantry.fenced_server TO tenantry_admin;
