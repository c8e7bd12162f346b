-- A request for another size can be paused, resumed and cancelled by its number while others are before it.
DROP FUNCTION tenantry.tenantry_cluster_pause(), tenantry.tenantry_cluster_resume(), tenantry.tenantry_cluster_cancel();
DROP FUNCTION tenantry.wish_of_cluster_request(text);

-- Of this request, or else of the one that is carried out, or of the next one. Cancelled at once is what nobody has begun.
CREATE FUNCTION tenantry.wish_of_cluster_request(wish text, request bigint DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_id bigint;
BEGIN
    UPDATE tenantry.cluster_request r SET wish = $1,
            state = CASE WHEN $1 = 'cancel' AND r.started_at IS NULL THEN 'Cancelled' ELSE r.state END,
            detail = CASE WHEN $1 = 'cancel' AND r.started_at IS NULL THEN 'cancelled by an operator' ELSE r.detail END,
            finished_at = CASE WHEN $1 = 'cancel' AND r.started_at IS NULL THEN pg_catalog.now() END
        WHERE r.id = coalesce($2, (SELECT min(o.id) FROM tenantry.cluster_request o WHERE o.finished_at IS NULL))
            AND r.finished_at IS NULL AND r.wish <> 'cancel'
        RETURNING r.id INTO found_id;
    IF found_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = coalesce('request ' || $2 || ' is not under way, and does not wait',
                               'no change of the cluster''s size is under way'),
            HINT = 'tenantry cluster list shows the requests and their states.';
    END IF;
    RETURN found_id;
END $$;
REVOKE EXECUTE ON FUNCTION tenantry.wish_of_cluster_request(text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.wish_of_cluster_request(text, bigint) TO tenantry_admin;

CREATE FUNCTION tenantry.tenantry_cluster_pause(request bigint DEFAULT NULL) RETURNS bigint
    LANGUAGE sql AS $$ SELECT tenantry.wish_of_cluster_request('pause', request) $$;
CREATE FUNCTION tenantry.tenantry_cluster_resume(request bigint DEFAULT NULL) RETURNS bigint
    LANGUAGE sql AS $$ SELECT tenantry.wish_of_cluster_request('run', request) $$;
CREATE FUNCTION tenantry.tenantry_cluster_cancel(request bigint DEFAULT NULL) RETURNS bigint
    LANGUAGE sql AS $$ SELECT tenantry.wish_of_cluster_request('cancel', request) $$;
