-- The proxies that live on this catalog, and what each of them may take of the nodes' connections.
--
-- A proxy is there for as long as its session holds the advisory lock (number below, id): nothing has to be renewed, and
-- a process that has died is gone at once. One that stands still keeps its lock, and its connections.

CREATE TABLE tenantry.proxy (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance text NOT NULL,
    -- It keeps to one part in so many of each node's connections; none: it has just come.
    divisor int CHECK (divisor > 0),
    joined_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- For a proxy that keeps to one part in `kept`: how many proxies there are, and which part it may take. The parts that
-- are taken never sum up to more than the whole, unless `anyway`. NULL when the proxy is not known (any more).
CREATE FUNCTION tenantry.share_connections(proxy int, kept int, may_grow boolean, anyway boolean,
    OUT proxies int, OUT part int)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old int;
    taken numeric;
BEGIN
    -- One at a time: each sees what the one before has taken.
    PERFORM pg_advisory_xact_lock(1953720434, 0);
    DELETE FROM tenantry.proxy p WHERE NOT EXISTS (
        SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = 1953720434 AND l.objid = p.id::oid
            AND l.objsubid = 2 AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()));
    SELECT count(*), coalesce(sum(1.0 / p.divisor) FILTER (WHERE p.id <> proxy), 0), max(p.divisor) FILTER (WHERE p.id = proxy)
        INTO proxies, taken, old FROM tenantry.proxy p
        HAVING bool_or(p.id = proxy);
    part := old;
    IF kept > coalesce(old, 0) THEN
        part := kept;
    ELSIF may_grow AND (old IS NULL OR proxies < old) AND (anyway OR taken + 1.0 / proxies <= 1.000001) THEN
        part := proxies;
    END IF;
    IF part IS DISTINCT FROM old THEN
        UPDATE tenantry.proxy p SET divisor = part WHERE p.id = proxy;
    END IF;
END $$;
REVOKE ALL ON FUNCTION tenantry.share_connections(int, int, boolean, boolean) FROM PUBLIC;
