-- Names that scripts and dashboards written for Citus ask for.

-- No task of a job waits for another.
CREATE VIEW tenantry.pg_dist_background_task_depend AS
    SELECT t.job_id, t.id AS task_id, t.id AS depends_on FROM tenantry.job_task t WHERE false;
GRANT SELECT ON tenantry.pg_dist_background_task_depend TO PUBLIC;

SELECT tenantry.provide('replicate_reference_tables',
    'shard_transfer_mode tenantry.shard_transfer_mode DEFAULT ''auto''', 'void');
