-- The timeline that a node's primary writes. Every promotion begins a new one: of two servers that both take writes the one on the newer
-- timeline was promoted last, and is the node. NULL: nobody has looked yet.
ALTER TABLE tenantry.node ADD COLUMN timeline int;
