-- Wished sizes of the cluster, with their history. Written by users, carried out by whoever can start servers.
CREATE TABLE tenantry.cluster_request (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workers int NOT NULL CHECK (workers > 0),
    state text NOT NULL DEFAULT 'Pending' CHECK (state IN ('Pending', 'Progressing', 'Successful', 'Failed')),
    -- what is being done, or what went wrong
    detail text NOT NULL DEFAULT '',
    -- servers that are part of the cluster, of those that shall be, the coordinator counted in
    ready int,
    wanted int,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX ON tenantry.cluster_request (id) WHERE finished_at IS NULL;
GRANT SELECT ON tenantry.cluster_request TO PUBLIC;
