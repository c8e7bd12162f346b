-- A request for another size can be paused, resumed and cancelled while it is carried out or waits.
ALTER TABLE tenantry.cluster_request
    -- What the operator wants of it now. What is under way (a server that starts, a move) comes to its end first.
    ADD COLUMN wish text NOT NULL DEFAULT 'run' CHECK (wish IN ('run', 'pause', 'cancel')),
    DROP CONSTRAINT cluster_request_state_check,
    ADD CONSTRAINT cluster_request_state_check
        CHECK (state IN ('Pending', 'Progressing', 'Successful', 'Failed', 'Cancelled'));

-- Sets the wish of the request that is carried out, or of the next one. Answers its number.
CREATE FUNCTION tenantry.wish_of_cluster_request(wish text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    request bigint;
BEGIN
    UPDATE tenantry.cluster_request r SET wish = $1
        WHERE r.id = (SELECT min(o.id) FROM tenantry.cluster_request o WHERE o.finished_at IS NULL) AND r.wish <> 'cancel'
        RETURNING r.id INTO request;
    IF request IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'no change of the cluster''s size is under way',
            HINT = 'tenantry cluster list shows the requests and their states.';
    END IF;
    RETURN request;
END $$;
REVOKE EXECUTE ON FUNCTION tenantry.wish_of_cluster_request(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.wish_of_cluster_request(text) TO tenantry_admin;

CREATE FUNCTION tenantry.tenantry_cluster_pause() RETURNS bigint
    LANGUAGE sql AS $$ SELECT tenantry.wish_of_cluster_request('pause') $$;
CREATE FUNCTION tenantry.tenantry_cluster_resume() RETURNS bigint
    LANGUAGE sql AS $$ SELECT tenantry.wish_of_cluster_request('run') $$;
CREATE FUNCTION tenantry.tenantry_cluster_cancel() RETURNS bigint
    LANGUAGE sql AS $$ SELECT tenantry.wish_of_cluster_request('cancel') $$;
