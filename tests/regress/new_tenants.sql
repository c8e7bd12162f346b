-- New tenants: the distribution column is left to its default.
CREATE TABLE firms (id bigserial PRIMARY KEY, name text NOT NULL, plan varchar(8) DEFAULT 'free', CHECK (name <> ''));
CREATE TABLE teams (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
CREATE TABLE keyed (name text, id uuid DEFAULT gen_random_uuid() PRIMARY KEY);
CREATE TABLE own (note text, tenant int DEFAULT current_setting('app.tenant')::int, PRIMARY KEY (tenant, note));
CREATE TABLE late (name text, id bigserial, more int DEFAULT 3);
CREATE TABLE "Odd ""ones""" ("the ""id""" serial, "b c" text);
SELECT create_distributed_table('firms', 'id');
SELECT create_distributed_table('teams', 'id');
SELECT create_distributed_table('keyed', 'id');
SELECT create_distributed_table('own', 'tenant');
SELECT create_distributed_table('late', 'id');
SELECT create_distributed_table('"Odd ""ones"""', '"the ""id"""');
INSERT INTO firms (name) VALUES ('a') RETURNING *;
INSERT INTO firms (name) VALUES ('b'), ('c''s (1, 2)'), ('d') RETURNING id, name;
INSERT INTO firms (plan, name) VALUES ('paid', 'e');
INSERT INTO firms VALUES (DEFAULT, 'f', 'paid'), (DEFAULT, 'g', DEFAULT) RETURNING *;
INSERT INTO firms AS f (name) VALUES (upper('h')) RETURNING f.id, (SELECT 5);
INSERT INTO firms (name) VALUES ((SELECT 'i')) ON CONFLICT (id) DO UPDATE SET name = excluded.name || '!' RETURNING name, id;
insert /* a comment */ into only_letters (name) values ('x');
INSERT INTO firms (name) VALUES (nobody);
INSERT INTO firms (name) VALUES ('too long', 1);
INSERT INTO firms (name, plan) VALUES ('one'), ('two', 'x');
INSERT INTO firms (name, nothing) VALUES ('one', 2);
INSERT INTO firms (name, plan) VALUES ('one', 'much too long');
\set VERBOSITY terse
INSERT INTO firms (name) VALUES ('');
INSERT INTO firms DEFAULT VALUES;
\set VERBOSITY default
SELECT setval('firms_id_seq', 100);
INSERT INTO firms (id, name) VALUES (1000, 'given');
INSERT INTO firms (id, name) VALUES (1000, 'twice');
INSERT INTO firms (name) SELECT 's' || i FROM generate_series(1, 5) i;
INSERT INTO firms (name) SELECT name || '+' FROM firms WHERE name IN ('a', 'b') ORDER BY name;
INSERT INTO firms (name, plan) SELECT 'r' || i, NULL FROM generate_series(1, 3) i ON CONFLICT DO NOTHING RETURNING name, plan;
PREPARE named (text) AS INSERT INTO firms (name) VALUES ($1) RETURNING name;
EXECUTE named ('p1');
EXECUTE named ('p2');
BEGIN;
INSERT INTO firms (name) VALUES ('gone');
SAVEPOINT s;
INSERT INTO firms (name) VALUES ('');
ROLLBACK TO s;
INSERT INTO firms (name) VALUES ('also gone');
SELECT count(*) FROM firms WHERE name LIKE '%gone';
ROLLBACK;
COPY firms (name, plan) FROM STDIN;
copied	paid
\\t	\N
\.
COPY firms (name) FROM STDIN (FORMAT csv);
"with, comma"
\.
\set VERBOSITY terse
COPY firms (name) FROM STDIN;

\.
\set VERBOSITY default
COPY firms (name, plan) FROM STDIN;
ok	x
long	much too long
\.
COPY firms (name, plan) FROM STDIN;
one
\.
SELECT count(*), count(DISTINCT id), min(id) FROM firms;
SELECT name, plan FROM firms ORDER BY name;
INSERT INTO teams DEFAULT VALUES RETURNING *;
INSERT INTO teams (name) VALUES ('x'), ('y') RETURNING *;
INSERT INTO teams (id, name) VALUES (DEFAULT, 'z') RETURNING *;
INSERT INTO teams (id, name) VALUES (5, 'z');
INSERT INTO teams (id, name) OVERRIDING SYSTEM VALUE VALUES (50, 'q') RETURNING *;
INSERT INTO teams (name) SELECT 't' || i FROM generate_series(1, 2) i;
SELECT * FROM teams ORDER BY id;
INSERT INTO keyed (name) VALUES ('u'), ('v') RETURNING name, id IS NULL;
INSERT INTO keyed VALUES ('w');
INSERT INTO keyed SELECT 'x';
SELECT count(*), count(DISTINCT id), max(name) FROM keyed;
SET app.tenant = '7';
INSERT INTO own (note) VALUES ('n') RETURNING *;
INSERT INTO own VALUES ('m') RETURNING *;
INSERT INTO own (note) VALUES ('n') ON CONFLICT DO NOTHING RETURNING *;
SET app.tenant = '8';
INSERT INTO own (note) SELECT note FROM own WHERE tenant = 7;
SET app.tenant = 'none';
INSERT INTO own (note) VALUES ('n');
SELECT * FROM own ORDER BY tenant, note;
INSERT INTO late VALUES ('only') RETURNING *;
INSERT INTO late VALUES ('p', DEFAULT, 4), ('q', DEFAULT, DEFAULT) RETURNING *;
INSERT INTO late SELECT 'selected';
SELECT * FROM late ORDER BY id;
INSERT INTO "Odd ""ones""" ("b c") VALUES ('x') RETURNING *;
INSERT INTO "Odd ""ones""" ("b c") SELECT 'y' RETURNING *;
DROP TABLE firms, teams, keyed, own, late, "Odd ""ones""";
