-- For statements that go to all nodes, whoever may run them: no node comes or goes until the transaction ends. The lock itself takes
-- more rights than reading tenantry.node does.
CREATE FUNCTION tenantry.keep_nodes() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE tenantry.node IN SHARE MODE;
END $$;
