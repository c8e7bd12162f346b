-- Stored passwords that the running transaction has set: its own role's, or others' for a role that may create roles.
-- They must be the same on every server. Rows that are newer than the transaction are its own, or were committed since.
CREATE FUNCTION tenantry.passwords_set_here() RETURNS TABLE (role text, stored text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.rolname::text, a.rolpassword FROM pg_authid a, pg_authid me
    WHERE me.rolname = session_user AND a.rolpassword IS NOT NULL
      AND (me.rolsuper OR a.oid = me.oid OR me.rolcreaterole AND NOT a.rolsuper)
      AND a.xmin::text::bigint >= (pg_current_xact_id()::text::bigint & 4294967295)
$$;
