-- What is being done: transactions over several nodes, things to drop, background jobs.

-- The decision on a two-phase transaction, written before the first COMMIT PREPARED. No row: abort.
CREATE TABLE tenantry.two_phase (
    txn text PRIMARY KEY,
    decision text NOT NULL CHECK (decision IN ('commit', 'abort')),
    nodes int[] NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- For the coordinator's own part of such a transaction: its commit is the decision. The coordinator is never prepared,
-- because what has run NOTIFY (every change of the catalog does) or used a temporary table cannot be.
CREATE FUNCTION tenantry.decide_commit(txn text, nodes int[]) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO tenantry.two_phase (txn, decision, nodes) VALUES ($1, 'commit', $2)
$$;

-- Written (and committed) before the object is created anywhere, so that a crash leaves nothing unknown.
CREATE TABLE tenantry.cleanup (
    record_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation_id bigint NOT NULL,
    object_type text NOT NULL CHECK (object_type IN ('schema', 'slot', 'publication', 'subscription', 'role', 'table')),
    object_name text NOT NULL,
    nodeid int NOT NULL,
    policy text NOT NULL CHECK (policy IN ('always', 'on_failure', 'on_success')),
    UNIQUE (operation_id, object_type, object_name, nodeid)
);
CREATE SEQUENCE tenantry.operation_id;

CREATE TYPE tenantry.citus_job_status AS ENUM
    ('scheduled', 'running', 'finished', 'cancelling', 'cancelled', 'failing', 'failed');

CREATE TABLE tenantry.job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    state tenantry.citus_job_status NOT NULL DEFAULT 'scheduled',
    arguments jsonb NOT NULL DEFAULT '{}',
    description text NOT NULL DEFAULT '',
    error text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX ON tenantry.job (id) WHERE finished_at IS NULL;

CREATE FUNCTION tenantry.ring_jobs() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('tenantry_jobs', '');
    RETURN NULL;
END $$;
CREATE TRIGGER ring AFTER INSERT OR UPDATE ON tenantry.job
    FOR EACH STATEMENT EXECUTE FUNCTION tenantry.ring_jobs();

GRANT SELECT ON tenantry.job TO PUBLIC;

-- Members may distribute their own tables and change nodes: operations write these rows as the client's own role.
DO $$
BEGIN
    IF pg_catalog.to_regrole('tenantry_admin') IS NULL THEN
        CREATE ROLE tenantry_admin NOLOGIN;
    END IF;
END $$;
GRANT INSERT, UPDATE, DELETE ON tenantry.node, tenantry.colocation, tenantry.distributed_table, tenantry.shard_group,
    tenantry.shard TO tenantry_admin;
GRANT SELECT, INSERT, UPDATE ON tenantry.job TO tenantry_admin;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA tenantry TO tenantry_admin;
