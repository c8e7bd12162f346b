-- Names that older scripts for Citus call.

CREATE FUNCTION tenantry.master_copy_shard_placement(
    shard_id bigint, source_node_name text, source_node_port int, target_node_name text, target_node_port int,
    do_repair boolean DEFAULT true, transfer_mode tenantry.shard_transfer_mode DEFAULT 'auto')
    RETURNS void LANGUAGE sql AS 'SELECT tenantry.citus_copy_shard_placement($1, $2, $3, $4, $5, $7)';

-- Nothing to do: sizes are those of the moment at which they are read.
CREATE FUNCTION tenantry.citus_update_table_statistics(relation regclass) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION tenantry.master_update_table_statistics(relation regclass) RETURNS void LANGUAGE sql AS 'SELECT';
