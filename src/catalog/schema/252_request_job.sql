-- The rebalance that was started for a request: whoever takes the request over goes on with it.
ALTER TABLE tenantry.cluster_request ADD COLUMN job_id bigint;
