-- Row triggers of distributed tables: those that stand there before, and those that come later.
CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at = '2026-01-01'; RETURN NEW; END $$;
CREATE FUNCTION check_seats() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.seats < OLD.seats THEN
        RAISE EXCEPTION 'seats of % only grow', NEW.name USING ERRCODE = 'check_violation', DETAIL = format('%s < %s', NEW.seats, OLD.seats),
            HINT = 'Ask for a smaller plan.';
    END IF;
    IF NEW.seats > 100 THEN
        RETURN NULL;
    END IF;
    NEW.name := initcap(NEW.name);
    RETURN NEW;
END $$;
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.seats > 50 THEN RAISE EXCEPTION 'team % is too large to go', OLD.id; END IF;
    RETURN OLD;
END $$;
CREATE FUNCTION even() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.seats % 2 <> 0 THEN RAISE EXCEPTION '% seats of % are not even', NEW.seats, TG_TABLE_NAME; END IF;
    RETURN NULL;
END $$;
CREATE TABLE teams (company int NOT NULL, id int NOT NULL, name text, seats int DEFAULT 2, updated_at date, PRIMARY KEY (company, id));
CREATE TRIGGER seats BEFORE INSERT OR UPDATE ON teams FOR EACH ROW EXECUTE FUNCTION check_seats();
CREATE TRIGGER set_updated_at BEFORE UPDATE ON teams FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
INSERT INTO teams SELECT i % 5, i, 'team ' || i, i FROM generate_series(1, 30) i;
SELECT create_distributed_table('teams', 'company');

INSERT INTO teams VALUES (1, 101, 'red birds', 4) RETURNING *;
INSERT INTO teams VALUES (1, 102, 'too many', 101), (2, 103, 'blue birds', 6) RETURNING *;
INSERT INTO teams VALUES (1, 101, 'again', 8) ON CONFLICT (company, id) DO UPDATE SET seats = excluded.seats RETURNING *;
UPDATE teams SET seats = seats + 1 WHERE company = 3 RETURNING id, name, seats, updated_at;
UPDATE teams SET seats = 1 WHERE company = 1 AND id = 101;
UPDATE teams SET name = name WHERE company = 2 AND id = 103 RETURNING updated_at;
UPDATE teams SET seats = seats + 2;
SELECT updated_at, count(*), sum(seats) FROM teams GROUP BY updated_at ORDER BY updated_at;
COPY teams (company, id, name, seats) FROM STDIN;
1	201	copied here	10
2	202	copied there	1000
3	203	copied elsewhere	60
\.
SELECT company, id, name, seats FROM teams WHERE id > 200 ORDER BY id;

-- Later ones.
CREATE TRIGGER keep BEFORE DELETE ON teams FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TRIGGER keep BEFORE DELETE ON teams FOR EACH ROW EXECUTE FUNCTION keep();
DELETE FROM teams WHERE company = 3 AND id = 203;
DELETE FROM teams WHERE company = 1 AND id = 201 RETURNING id;
ALTER TABLE teams DISABLE TRIGGER keep;
DELETE FROM teams WHERE company = 3 AND id = 203 RETURNING id;
ALTER TABLE teams ENABLE TRIGGER keep;
ALTER TRIGGER keep ON teams RENAME TO stay;
ALTER TRIGGER keep ON teams RENAME TO stay;
DROP TRIGGER keep ON teams;
CREATE OR REPLACE TRIGGER set_updated_at BEFORE UPDATE OF name ON teams FOR EACH ROW EXECUTE FUNCTION set_updated_at();
UPDATE teams SET updated_at = NULL;
UPDATE teams SET seats = seats + 2 WHERE company = 4 AND id = 4 RETURNING updated_at;
UPDATE teams SET name = 'named' WHERE company = 4 AND id = 4 RETURNING name, updated_at;
CREATE TRIGGER nobody BEFORE UPDATE OF missing ON teams FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER nobody BEFORE UPDATE ON teams FOR EACH ROW EXECUTE FUNCTION not_there();
COMMENT ON TRIGGER stay ON teams IS 'a word';
COMMENT ON TRIGGER keep ON teams IS 'a word';
DROP TRIGGER IF EXISTS stay ON teams;
DELETE FROM teams WHERE seats % 2 <> 0;

-- Deferred ones.
CREATE CONSTRAINT TRIGGER even AFTER INSERT OR UPDATE ON teams DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION even();
INSERT INTO teams VALUES (1, 301, 'odd', 7);
BEGIN;
INSERT INTO teams VALUES (1, 302, 'even', 8);
INSERT INTO teams VALUES (2, 303, 'odd', 9);
INSERT INTO teams VALUES (3, 304, 'even', 10);
SELECT count(*) FROM teams WHERE id > 300;
COMMIT;
SELECT count(*) FROM teams WHERE id > 300;
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
INSERT INTO teams VALUES (2, 303, 'odd', 9);
ROLLBACK;
CREATE OR REPLACE FUNCTION even() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
INSERT INTO teams VALUES (1, 301, 'odd', 7) RETURNING *;
DROP FUNCTION even();
DROP FUNCTION even() CASCADE;
INSERT INTO teams VALUES (1, 302, 'odd', 7) RETURNING *;

-- Of partitioned tables.
CREATE TABLE visits (company int NOT NULL, at date NOT NULL, name text, seats int DEFAULT 2, updated_at date) PARTITION BY RANGE (at);
CREATE TABLE visits_2026 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE visits_rest PARTITION OF visits DEFAULT;
CREATE TRIGGER seats BEFORE INSERT OR UPDATE ON visits FOR EACH ROW EXECUTE FUNCTION check_seats();
SELECT create_distributed_table('visits', 'company');
CREATE TRIGGER set_updated_at BEFORE INSERT OR UPDATE ON visits_rest FOR EACH ROW EXECUTE FUNCTION set_updated_at();
INSERT INTO visits VALUES (1, '2026-02-02', 'a guest'), (1, '2020-02-02', 'another guest');
INSERT INTO visits VALUES (2, '2026-02-02', 'many', 101);
SELECT company, at, name, seats, updated_at FROM visits ORDER BY at;
UPDATE visits SET seats = 1 WHERE company = 1 AND at = '2026-02-02';
DROP TRIGGER seats ON visits_2026;
DROP TRIGGER seats ON visits;
UPDATE visits SET seats = 1 WHERE company = 1 RETURNING at, seats;
DROP TABLE teams, visits;
DROP FUNCTION set_updated_at(), check_seats(), keep();
