-- Partitioned tables: by range with a default, by list with a level below, by hash; filled before and after.
CREATE TABLE happenings (tenant bigint NOT NULL, id bigint NOT NULL, at date NOT NULL, kind text DEFAULT 'plain', amount numeric,
    CONSTRAINT positive CHECK (amount >= 0), CONSTRAINT happenings_key PRIMARY KEY (tenant, id, at)) PARTITION BY RANGE (at);
CREATE TABLE happenings_q1 PARTITION OF happenings FOR VALUES FROM ('2026-01-01') TO ('2026-04-01');
-- Its columns stand in another order, and its index has a name of its own.
CREATE TABLE happenings_q2 (at date NOT NULL, amount numeric, gone int, kind text DEFAULT 'plain', id bigint NOT NULL, tenant bigint NOT NULL,
    CONSTRAINT positive CHECK (amount >= 0), CONSTRAINT known CHECK (kind <> 'unknown'));
ALTER TABLE happenings_q2 DROP COLUMN gone;
CREATE INDEX second_quarter_kinds ON happenings_q2 (kind, tenant);
ALTER TABLE happenings ATTACH PARTITION happenings_q2 FOR VALUES FROM ('2026-04-01') TO ('2026-07-01');
CREATE TABLE happenings_rest PARTITION OF happenings DEFAULT;
CREATE INDEX happenings_kinds ON happenings (kind, tenant);
INSERT INTO happenings SELECT i % 7, i, date '2026-01-01' + i % 250, 'k' || i % 3, i / 4.0 FROM generate_series(1, 500) i;
CREATE TABLE places (tenant bigint NOT NULL, region text NOT NULL, n int) PARTITION BY LIST (region);
CREATE TABLE places_north PARTITION OF places FOR VALUES IN ('n', 'nn') PARTITION BY RANGE (n);
CREATE TABLE places_north_low PARTITION OF places_north FOR VALUES FROM (MINVALUE) TO (50);
CREATE TABLE places_north_high PARTITION OF places_north FOR VALUES FROM (50) TO (MAXVALUE);
CREATE TABLE places_south PARTITION OF places FOR VALUES IN ('s');
CREATE TABLE buckets (tenant bigint NOT NULL, v text) PARTITION BY HASH (v);
CREATE TABLE buckets_0 PARTITION OF buckets FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE buckets_1 PARTITION OF buckets FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT create_distributed_table('happenings', 'tenant');
SELECT create_distributed_table('places', 'tenant', colocate_with => 'happenings');
SELECT create_distributed_table('buckets', 'tenant', colocate_with => 'happenings');

-- Reading: the whole, one tenant, one partition, pruned.
SELECT count(*), sum(amount), min(at), max(at) FROM happenings;
SELECT count(*), sum(amount) FROM happenings_q1;
SELECT count(*), sum(amount) FROM happenings_q2;
SELECT count(*), sum(amount) FROM happenings_rest;
SELECT count(*) FROM ONLY happenings;
SELECT tenant, kind, count(*), avg(amount) FROM happenings GROUP BY tenant, kind ORDER BY tenant, kind;
SELECT id, at, kind FROM happenings WHERE tenant = 3 ORDER BY id LIMIT 5;
SELECT id, at FROM happenings WHERE tenant = 3 AND at >= '2026-05-01' ORDER BY at, id LIMIT 5;
SELECT * FROM happenings_q1 WHERE tenant = 3 ORDER BY id LIMIT 2;
SELECT date_trunc('month', at) AS month, count(*) FROM happenings GROUP BY 1 ORDER BY 1;
SELECT kind FROM happenings_rest ORDER BY id DESC LIMIT 3;

-- Writing through the parent and by partition.
INSERT INTO happenings VALUES (1, 1001, '2026-02-02', 'new', 1), (2, 1002, '2026-05-05', 'new', 2), (3, 1003, '2027-01-01', 'new', 3);
INSERT INTO happenings (tenant, id, at) VALUES (4, 1004, '2026-03-31') RETURNING *;
INSERT INTO happenings_q1 VALUES (1, 1005, '2026-01-31', 'direct', 5) RETURNING tenant, id;
INSERT INTO happenings_q1 VALUES (1, 1006, '2026-06-30', 'wrong', 5);
INSERT INTO happenings VALUES (1, 1007, '2026-05-06', 'unknown', 5);
INSERT INTO happenings VALUES (1, 1001, '2026-02-02', 'again', 1);
INSERT INTO happenings VALUES (1, 1001, '2026-02-02', 'again', 1) ON CONFLICT (tenant, id, at) DO UPDATE SET kind = excluded.kind RETURNING kind;
PREPARE add (bigint, bigint, date) AS INSERT INTO happenings VALUES ($1, $2, $3, 'prepared', 1);
EXECUTE add (5, 1010, '2026-01-10');
EXECUTE add (6, 1011, '2026-04-11');
EXECUTE add (0, 1012, '2031-01-12');
SELECT kind, count(*) FROM happenings GROUP BY kind ORDER BY kind;
-- Rows go from one partition to another.
UPDATE happenings SET at = '2026-06-15' WHERE tenant = 1 AND id = 1001 RETURNING id, at;
UPDATE happenings SET at = at + 90 WHERE kind = 'prepared';
SELECT tenant, id, at FROM happenings_q2 WHERE id > 1000 ORDER BY id;
SELECT tenant, id, at FROM happenings_rest WHERE id > 1000 ORDER BY id;
UPDATE happenings_q1 SET kind = 'first' WHERE tenant = 2 AND amount < 5;
DELETE FROM happenings WHERE tenant = 6 AND id < 20 RETURNING id;
DELETE FROM happenings_rest WHERE id = 1012;
COPY happenings FROM STDIN;
1	2001	2026-01-05	copied	1.5
2	2002	2026-05-05	copied	2.5
3	2003	1999-01-01	copied	\N
\.
COPY happenings_q2 (tenant, id, at, kind) FROM STDIN (FORMAT csv);
6,2004,2026-04-04,copied
\.
COPY (SELECT tenant, id, at FROM happenings WHERE kind = 'copied' ORDER BY id) TO STDOUT;
COPY (SELECT tenant, id FROM happenings_q2 WHERE kind = 'copied' ORDER BY id) TO STDOUT;
COPY happenings TO STDOUT;
SELECT count(*), sum(amount) FROM happenings;

-- Joins, levels, hashes.
INSERT INTO places SELECT i % 7, (ARRAY['n', 'nn', 's'])[i % 3 + 1], i FROM generate_series(1, 100) i;
INSERT INTO places VALUES (1, 'e', 1);
INSERT INTO buckets SELECT i % 7, 'v' || i FROM generate_series(1, 100) i;
SELECT h.tenant, count(*) FROM happenings h JOIN places_north p ON p.tenant = h.tenant AND p.n = h.id GROUP BY h.tenant ORDER BY h.tenant;
SELECT count(*) FROM happenings h JOIN places p USING (tenant) WHERE tenant = 2 AND p.region = 's';
SELECT region, count(*) FROM places GROUP BY region ORDER BY region;
SELECT count(*) FROM places_north_low;
UPDATE places SET n = n + 40 WHERE region = 'n';
SELECT count(*) FROM places_north_low;
SELECT count(*), min(v), max(v) FROM buckets;
SELECT (SELECT count(*) FROM buckets_0) + (SELECT count(*) FROM buckets_1) AS both;

-- Columns, keys and indexes reach all partitions.
ALTER TABLE happenings ADD COLUMN note text DEFAULT 'none';
ALTER TABLE happenings ADD CONSTRAINT short CHECK (length(note) < 10);
CREATE UNIQUE INDEX happenings_notes ON happenings (tenant, note, id, at);
INSERT INTO happenings_q1 VALUES (1, 3001, '2026-01-01', 'noted', 1, 'much too long');
SELECT note, count(*) FROM happenings_q2 GROUP BY note;
ALTER TABLE happenings RENAME COLUMN note TO remark;
UPDATE happenings SET remark = 'x' WHERE tenant = 1;
SELECT remark, count(*) FROM happenings GROUP BY remark ORDER BY remark;
ALTER TABLE happenings ALTER COLUMN amount TYPE numeric(20, 2);
SELECT sum(amount) FROM happenings_q2;
DROP INDEX happenings_notes;
ALTER TABLE happenings_q1 ADD CONSTRAINT early CHECK (id < 9000);
INSERT INTO happenings VALUES (1, 9000, '2026-01-01');
ALTER TABLE happenings_q1 DROP COLUMN remark;
ALTER TABLE happenings DROP COLUMN remark;

-- Partitions come and go.
CREATE TABLE happenings_2027 PARTITION OF happenings FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
DELETE FROM happenings WHERE at >= '2027-01-01';
CREATE TABLE happenings_2027 PARTITION OF happenings FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
CREATE TABLE IF NOT EXISTS happenings_2027 PARTITION OF happenings FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
CREATE TABLE happenings_2028 PARTITION OF happenings (CONSTRAINT late CHECK (id > 0)) FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')
    PARTITION BY LIST (kind);
CREATE TABLE happenings_2028_a PARTITION OF happenings_2028 FOR VALUES IN ('a');
INSERT INTO happenings SELECT i, i, '2027-03-03', 'later' FROM generate_series(1, 20) i;
INSERT INTO happenings SELECT i, i, '2028-03-03', 'a' FROM generate_series(1, 20) i;
INSERT INTO happenings VALUES (1, 1, '2028-03-03', 'b');
SELECT count(*) FROM happenings_2027;
SELECT count(*) FROM happenings_2028_a WHERE tenant = 3;
CREATE TABLE happenings_old (LIKE happenings_pattern);
CREATE TABLE happenings_old (tenant bigint NOT NULL, id bigint NOT NULL, at date NOT NULL, kind text DEFAULT 'plain', amount numeric(20, 2),
    CONSTRAINT positive CHECK (amount >= 0));
INSERT INTO happenings_old SELECT i % 7, i, '2025-05-05', 'old', 1 FROM generate_series(1, 50) i;
DELETE FROM happenings WHERE at < '2026-01-01';
ALTER TABLE happenings ATTACH PARTITION happenings_old FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
SELECT kind, count(*) FROM happenings WHERE at < '2026-01-01' GROUP BY kind;
ALTER TABLE happenings DETACH PARTITION happenings_old;
SELECT count(*) FROM happenings WHERE at < '2026-01-01';
SELECT count(*) FROM happenings_old WHERE tenant = 3;
INSERT INTO happenings_old VALUES (1, 60, '2031-01-01', 'free');
ALTER TABLE happenings ATTACH PARTITION happenings_old FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
DELETE FROM happenings_old WHERE kind = 'free';
ALTER TABLE happenings ATTACH PARTITION happenings_old FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
SELECT count(*) FROM happenings WHERE at < '2026-01-01';
ALTER TABLE happenings DETACH PARTITION happenings_nobody;
ALTER TABLE happenings DETACH PARTITION places_south;
DROP TABLE happenings_q1;
SELECT count(*) FROM happenings WHERE at < '2026-04-01';
BEGIN;
DROP TABLE happenings_2027;
ROLLBACK;
SELECT count(*) FROM happenings_2027;
BEGIN;
CREATE TABLE happenings_2029 PARTITION OF happenings FOR VALUES FROM ('2029-01-01') TO ('2030-01-01');
INSERT INTO happenings VALUES (1, 1, '2029-01-01', 'then');
SELECT count(*) FROM happenings_2029;
ROLLBACK;
INSERT INTO happenings_2029 VALUES (1, 1, '2029-01-01', 'then');
TRUNCATE happenings_2027;
SELECT count(*) FROM happenings;
TRUNCATE happenings;
SELECT count(*) FROM happenings;
DROP TABLE happenings;
SELECT count(*) FROM happenings_2028;
DROP TABLE places, buckets;
