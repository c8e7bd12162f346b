-- Shard groups whose statements the other proxies are asked to hold, for as long as the row is there: rung by channel
-- tenantry_hold. Without shard groups it only asks who is there. Rows are for the control channel alone: who could write
-- them could keep everybody waiting.
CREATE UNLOGGED TABLE tenantry.hold (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Instances: of the proxy that asks, and of those that have done so. Rung by channel tenantry_held.
    asker text NOT NULL,
    answered text[] NOT NULL DEFAULT '{}',
    shard_groups bigint[] NOT NULL,
    -- However long the row is there: the asker may stand still.
    milliseconds bigint NOT NULL
);
