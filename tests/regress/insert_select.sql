-- INSERT ... SELECT whose rows change shards: what NULL and strings without a type are, the target's columns say.
CREATE TYPE mood AS ENUM ('calm', 'cross');
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE DOMAIN brief AS varchar(3);
CREATE TABLE visits (tenant int, id int, what text);
CREATE TABLE kinds (
    owner bigint, id int, day date DEFAULT '2026-01-01', note varchar(4), price numeric(6, 2), tags text[], feeling mood,
    size small, label brief, data jsonb, plain json, span interval year, bits bit(4), letters char(3), flag boolean,
    stamp timestamptz, name text);
SELECT create_distributed_table('visits', 'tenant');
SELECT create_distributed_table('kinds', 'owner');
SET TimeZone = 'UTC';
INSERT INTO visits SELECT n % 4, n, 'w' || n FROM generate_series(1, 12) n;
\set VERBOSITY terse
INSERT INTO kinds SELECT id, tenant, '2026-02-03', 'four', '1.239', '{a,b}', 'cross', '42', 'abc', '{"a": 1}', '[ 1]', '5', '1011', 'x', 'yes', '2026-01-01 12:00', 'n' FROM visits WHERE id < 3;
INSERT INTO kinds SELECT id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM visits WHERE id = 3;
INSERT INTO kinds (note, owner, feeling, size) SELECT ('it''s'), id, E'ca\154m', $$7$$ FROM visits WHERE id = 4;
INSERT INTO kinds (price, owner, name) SELECT '10', id, what FROM visits ORDER BY id DESC LIMIT 2;
INSERT INTO kinds (day, owner, size) SELECT NULL, count(*), '5' FROM visits;
INSERT INTO kinds (day, owner, size) SELECT '2026-05-05', max(id), '6' FROM visits GROUP BY tenant HAVING max(id) > 10;
INSERT INTO kinds (day, owner, size) SELECT '2026-06-06' AS "when", tenant, count(*) FROM visits GROUP BY tenant ORDER BY tenant LIMIT 1;
INSERT INTO kinds (owner, size, data) SELECT 77, '8', '{}' FROM visits WHERE tenant = 1 LIMIT 1;
INSERT INTO kinds (owner, data, size) (SELECT 78, '[1, 2]', NULL FROM visits WHERE tenant = 1 ORDER BY id LIMIT 1);
INSERT INTO kinds (owner, size, name, day) SELECT v.id, '9', v.what, NULL FROM visits v WHERE v.id = 5;
INSERT INTO kinds (day, price, owner, id, name) SELECT '2026-07-07', NULL, id, tenant, what FROM visits WHERE id IN (6, 7);
INSERT INTO kinds (bits, span, owner, id, name, flag) SELECT NULL, '7', v.id, x.*, 'off' FROM visits v, LATERAL (SELECT tenant, what) x WHERE id = 8;
INSERT INTO kinds (owner, size) WITH few AS (SELECT id FROM visits WHERE id < 3) SELECT id, '11' FROM few;
INSERT INTO kinds (owner, size, name) SELECT id, '12', what FROM visits WHERE id = 1 UNION ALL SELECT 2, 13, NULL;
PREPARE with_both(int) AS INSERT INTO kinds (owner, size, price, day) SELECT id, $1, '3', NULL FROM visits WHERE id = $1;
EXECUTE with_both(9);
SELECT * FROM kinds ORDER BY owner, id, size, day;
\set VERBOSITY sqlstate
INSERT INTO kinds (owner, size) SELECT id, 'many' FROM visits;
INSERT INTO kinds (owner, size) SELECT id, 'many' FROM visits WHERE id > 1000;
INSERT INTO kinds (owner, size) SELECT id, '100' FROM visits;
INSERT INTO kinds (owner, note) SELECT id, 'long one' FROM visits;
INSERT INTO kinds (owner, label) SELECT id, 'long one' FROM visits;
INSERT INTO kinds (owner, bits) SELECT id, '1010' FROM visits WHERE id = 1;
INSERT INTO kinds (owner, bits) SELECT id, '10101' FROM visits;
INSERT INTO kinds (owner, feeling) SELECT id, 'glad' FROM visits;
INSERT INTO kinds (owner, data) SELECT id, '{' FROM visits;
INSERT INTO kinds (owner, letters) SELECT id, 'abcd' FROM visits;
INSERT INTO kinds (owner, price) SELECT id, '12345.6' FROM visits;
INSERT INTO kinds (owner, name, size) SELECT id, '1', '2', '3' FROM visits;
INSERT INTO kinds (owner, name, size) SELECT id, '1' FROM visits;
-- Here they are text on one Postgres too.
INSERT INTO kinds (owner, size) SELECT DISTINCT id, '5' FROM visits;
INSERT INTO kinds (owner, size) SELECT id, '5' FROM visits ORDER BY 2;
INSERT INTO kinds (owner, size) SELECT id, '5' AS five FROM visits ORDER BY id, five;
INSERT INTO kinds (owner, size) SELECT max(id), '5' FROM visits GROUP BY 2;
INSERT INTO kinds (owner, size) SELECT max(id), '5' AS five FROM visits GROUP BY tenant, five;
INSERT INTO kinds (owner, size) SELECT id, '5' FROM visits UNION ALL SELECT 3, NULL;
INSERT INTO kinds (owner, size) SELECT * FROM (SELECT id, '5' FROM visits) s;
INSERT INTO kinds (owner, size) SELECT id, (SELECT '5') FROM visits;
INSERT INTO kinds (owner, size) SELECT id, coalesce(NULL, '5') FROM visits;
SELECT count(*) FROM kinds;
DROP TABLE visits, kinds;
DROP DOMAIN small, brief;
DROP TYPE mood;
