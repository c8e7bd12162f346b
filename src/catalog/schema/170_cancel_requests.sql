-- Cancel requests for sessions that the proxy which got them does not have: another one may. Their keys are secrets, so
-- they are for the control channel alone, and not part of what rings.
CREATE UNLOGGED TABLE tenantry.cancel_request (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pid bigint NOT NULL,
    key bytea NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
