-- A distributed or reference table can become a local one again.

SELECT tenantry.provide('undistribute_table',
    'table_name regclass, cascade_via_foreign_keys boolean DEFAULT false', 'void');

-- Errors: 42501 unless the role that calls may have its way with the managed table. For functions that run as another one.
CREATE FUNCTION tenantry.require_callers_table(relation oid) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tenantry.distributed_table t JOIN pg_class c ON c.oid = t.logicalrelid
        WHERE c.oid = relation AND pg_has_role(
            CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END, c.relowner, 'USAGE'))
    THEN
        RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
            MESSAGE = format('must be owner of table %s', relation::regclass);
    END IF;
END $$;

-- Rows that come back to a shell were checked where they were written: meanwhile its own triggers and those that check its foreign
-- keys are disabled, the latter being a superuser's to disable. Answers how they stood, for restore_triggers.
CREATE FUNCTION tenantry.silence_triggers(relation oid) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    states jsonb := '{}';
    fires record;
BEGIN
    PERFORM tenantry.require_callers_table(relation);
    FOR fires IN SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = relation AND tgenabled <> 'D'
        AND (NOT tgisinternal OR tgfoid = '"RI_FKey_check_ins"'::regproc)
    LOOP
        EXECUTE format('ALTER TABLE ONLY %s DISABLE TRIGGER %I', relation::regclass, fires.tgname);
        states := states || jsonb_build_object(fires.tgname, fires.tgenabled);
    END LOOP;
    RETURN states;
END $$;

CREATE FUNCTION tenantry.restore_triggers(relation oid, states jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fires record;
BEGIN
    PERFORM tenantry.require_callers_table(relation);
    FOR fires IN SELECT key AS name, value AS state FROM jsonb_each_text(states) LOOP
        EXECUTE format('ALTER TABLE ONLY %s ENABLE %s TRIGGER %I', relation::regclass,
            CASE fires.state WHEN 'R' THEN 'REPLICA' WHEN 'A' THEN 'ALWAYS' ELSE '' END, fires.name);
    END LOOP;
END $$;

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'tenantry'::regnamespace
        AND proname IN ('silence_triggers', 'restore_triggers')
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO tenantry_admin', f);
    END LOOP;
END $$;
