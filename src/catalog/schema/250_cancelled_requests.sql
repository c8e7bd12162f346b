-- A request for another size that nobody has begun is cancelled at once: where nobody starts servers it would wait for ever.
CREATE OR REPLACE FUNCTION tenantry.wish_of_cluster_request(wish text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    request bigint;
BEGIN
    UPDATE tenantry.cluster_request r SET wish = $1,
            state = CASE WHEN $1 = 'cancel' AND r.started_at IS NULL THEN 'Cancelled' ELSE r.state END,
            detail = CASE WHEN $1 = 'cancel' AND r.started_at IS NULL THEN 'cancelled by an operator' ELSE r.detail END,
            finished_at = CASE WHEN $1 = 'cancel' AND r.started_at IS NULL THEN pg_catalog.now() END
        WHERE r.id = (SELECT min(o.id) FROM tenantry.cluster_request o WHERE o.finished_at IS NULL) AND r.wish <> 'cancel'
        RETURNING r.id INTO request;
    IF request IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'no change of the cluster''s size is under way',
            HINT = 'tenantry cluster list shows the requests and their states.';
    END IF;
    RETURN request;
END $$;
