-- Schema changes of distributed and reference tables, and COPY.
CREATE TABLE events (tenant uuid, id int, kind text, body jsonb, PRIMARY KEY (tenant, id));
CREATE TABLE kinds (kind text PRIMARY KEY, label text);
SELECT create_reference_table('kinds');
SELECT create_distributed_table('events', 'tenant');
COPY kinds FROM STDIN (FORMAT csv);
a,"Label, with comma"
b,
\.
COPY events (id, tenant, kind, body) FROM STDIN;
1	00000000-0000-0000-0000-000000000001	a	{"x": 1}
2	00000000-0000-0000-0000-000000000002	b	\N
3	00000000-0000-0000-0000-000000000003	a	{"t": "tab\\t"}
\.
COPY events FROM STDIN (FORMAT csv, HEADER, NULL 'nil');
tenant,id,kind,body
00000000-0000-0000-0000-000000000001,4,"multi
line",nil
{00000000-0000-0000-0000-000000000004},5,"q""uote","{""a"": [1, 2]}"
\.
SELECT * FROM events ORDER BY id;
COPY (SELECT id, kind FROM events WHERE tenant = '00000000-0000-0000-0000-000000000001' ORDER BY id) TO STDOUT (FORMAT csv);
COPY (SELECT kind, count(*) FROM events GROUP BY kind ORDER BY kind) TO STDOUT (FORMAT csv, HEADER);
COPY kinds TO STDOUT;
ALTER TABLE events ADD COLUMN size int DEFAULT 7, ADD COLUMN seen boolean;
ALTER TABLE events ALTER COLUMN seen SET DEFAULT false;
ALTER TABLE events RENAME COLUMN body TO payload;
ALTER TABLE events ADD CONSTRAINT positive CHECK (size > 0);
ALTER TABLE events ADD CONSTRAINT kind_known FOREIGN KEY (kind) REFERENCES kinds (kind) NOT VALID;
\set VERBOSITY terse
INSERT INTO events (tenant, id, kind) VALUES ('00000000-0000-0000-0000-000000000009', 1, 'zzz');
INSERT INTO events (tenant, id, kind, size) VALUES ('00000000-0000-0000-0000-000000000009', 1, 'a', 0);
INSERT INTO events (tenant, id, kind) VALUES ('00000000-0000-0000-0000-000000000009', 1, 'a') RETURNING size, seen;
CREATE INDEX events_kind ON events (kind);
CREATE INDEX ON events USING gin (payload jsonb_path_ops);
CREATE UNIQUE INDEX events_unique ON events (tenant, id, kind);
ALTER INDEX events_unique RENAME TO events_uniq;
DROP INDEX events_uniq;
ALTER TABLE events DROP CONSTRAINT positive;
ALTER TABLE events DROP COLUMN size;
ALTER TABLE kinds ADD COLUMN rank int DEFAULT 1;
UPDATE kinds SET rank = 2 WHERE kind = 'b';
SELECT * FROM kinds ORDER BY 1;
SELECT column_name, data_type, column_default FROM information_schema.columns WHERE table_name = 'events' ORDER BY ordinal_position;
SELECT indexname FROM pg_indexes WHERE tablename = 'events' ORDER BY 1;
BEGIN;
ALTER TABLE events ADD COLUMN extra text;
INSERT INTO events (tenant, id, kind, extra) VALUES ('00000000-0000-0000-0000-000000000010', 1, 'a', 'x'), ('00000000-0000-0000-0000-000000000011', 1, 'b', 'y');
SELECT extra, count(*) FROM events GROUP BY extra ORDER BY 1;
ROLLBACK;
SELECT extra FROM events;
SELECT count(*) FROM events;
BEGIN;
CREATE TABLE late (tenant uuid, v int);
SELECT create_distributed_table('late', 'tenant');
INSERT INTO late VALUES ('00000000-0000-0000-0000-000000000001', 1), ('00000000-0000-0000-0000-000000000002', 2);
SELECT sum(v) FROM late;
COMMIT;
SELECT sum(v) FROM late JOIN events USING (tenant);
CREATE TABLE filled (tenant uuid, v int);
INSERT INTO filled SELECT tenant, 5 FROM events;
SELECT create_distributed_table('filled', 'tenant');
SELECT count(*), sum(v) FROM filled;
TRUNCATE late, filled;
SELECT count(*) FROM late;
DROP TABLE late;
SELECT count(*) FROM late;
DROP TABLE IF EXISTS late, filled, nothing;
CREATE SCHEMA app;
CREATE TABLE app.events (tenant uuid, v int);
SELECT create_distributed_table('app.events', 'tenant');
INSERT INTO app.events VALUES ('00000000-0000-0000-0000-000000000001', 42);
SELECT v FROM app.events WHERE tenant = '00000000-0000-0000-0000-000000000001';
SET search_path = app, public;
SELECT v FROM events WHERE tenant = '00000000-0000-0000-0000-000000000001';
SELECT count(*) FROM public.events;
RESET search_path;
SELECT count(*) FROM events;
DROP TABLE app.events;
DROP SCHEMA app CASCADE;
VACUUM events;
ANALYZE events;
DROP TABLE events, kinds;
