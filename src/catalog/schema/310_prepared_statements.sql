-- What a session has prepared. The proxy knows it and lends it to the statement that reads the view; servers keep statements of several
-- clients, under names of the proxy's own. How often plans were made is known to nobody: NULL.
CREATE VIEW tenantry.pg_prepared_statements AS
    SELECT * FROM pg_catalog.jsonb_populate_recordset(NULL::pg_catalog.pg_prepared_statements,
        coalesce(nullif(pg_catalog.current_setting('tenantry.prepared_statements', true), ''), '[]')::pg_catalog.jsonb);
GRANT SELECT ON tenantry.pg_prepared_statements TO PUBLIC;
