-- On a worker, for who may have his way with all tables of a shard: its schema goes with them, although it belongs to whoever has
-- distributed the first of its tables.
--
-- Errors: 42501 for all others, and for what is no shard.
CREATE FUNCTION tenantry.drop_shard_schema(shard pg_catalog.text) RETURNS pg_catalog.void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    caller name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;
BEGIN
    IF shard ~ '_[0-9]+$' AND (SELECT bool_and(pg_has_role(caller, c.relowner, 'USAGE'))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = shard)
    THEN
        EXECUTE format('DROP SCHEMA %I CASCADE', shard);
    ELSE
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('must be owner of schema %s', shard);
    END IF;
END $$
