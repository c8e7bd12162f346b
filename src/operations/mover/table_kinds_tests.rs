//! Every kind of table and of change arrives at the target, on real servers.

use std::sync::Arc;

use super::tests::*;
use super::*;

/// Everything that Postgres lets a shard have, or nearly.
const RICH_TABLES: &str = r#"
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := coalesce(NEW.note, ''stamped''); RETURN NEW; END';
    CREATE TABLE kinds (id bigint GENERATED ALWAYS AS IDENTITY (START WITH 100) PRIMARY KEY, ref int REFERENCES public.ref,
        note text, doc json, tags text[], mood public.mood, at interval, big text, CONSTRAINT short CHECK (length(note) < 99))
        WITH (fillfactor = 80);
    ALTER TABLE kinds ADD CONSTRAINT later CHECK (id > 0) NOT VALID;
    ALTER TABLE kinds ALTER COLUMN big SET STORAGE EXTERNAL;
    CREATE TRIGGER stamp BEFORE INSERT ON kinds FOR EACH ROW EXECUTE FUNCTION stamp();
    CREATE INDEX kinds_partial ON kinds (note) WHERE ref IS NOT NULL;
    CREATE STATISTICS kinds_stats ON note, ref FROM kinds;
    CREATE VIEW noted AS SELECT id, note FROM kinds WHERE note IS NOT NULL;
    ALTER TABLE kinds ENABLE ROW LEVEL SECURITY;
    CREATE POLICY mine ON kinds FOR SELECT TO reader USING (ref = 1);
    GRANT SELECT ON kinds TO reader;
    CREATE TABLE codes ("Code ""x""" text NOT NULL, value int, UNIQUE ("Code ""x"""));
    ALTER TABLE codes REPLICA IDENTITY USING INDEX "codes_Code ""x""_key";
    CREATE TABLE days (day date, n int, PRIMARY KEY (day)) PARTITION BY RANGE (day);
    CREATE TABLE days_old PARTITION OF days FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE days_rest PARTITION OF days DEFAULT;
    CREATE INDEX days_n ON days (n);
    CREATE TABLE bag (a int, b json, c float8);
    CREATE TABLE years (year int PRIMARY KEY) PARTITION BY RANGE (year);
    CREATE TABLE years_2000 PARTITION OF years FOR VALUES FROM (2000) TO (2100);
    INSERT INTO years VALUES (2020);
    CREATE TABLE loose (n int, big text, twice int GENERATED ALWAYS AS (n * 2) STORED);
    CREATE TABLE swaps (id int UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
    CREATE TABLE parts (id int PRIMARY KEY, of int REFERENCES parts DEFERRABLE INITIALLY DEFERRED, year int REFERENCES years);
    INSERT INTO kinds (ref, note, doc, big) SELECT 1, 'n' || i, '{"b":  1}', repeat('x', 9000) FROM generate_series(1, 9) i;
    INSERT INTO codes SELECT 'c' || i, i FROM generate_series(1, 9) i;
    INSERT INTO days SELECT date '2020-12-28' + i, i FROM generate_series(1, 9) i;
    INSERT INTO loose SELECT i, repeat(md5(i::text), 400) FROM generate_series(1, 9) i;
    INSERT INTO swaps SELECT generate_series(1, 9);
    INSERT INTO bag SELECT i % 2, '{"k":  [1]}', i / 3.0 FROM generate_series(1, 9) i; INSERT INTO bag SELECT * FROM bag"#;

/// Each of these reaches the target through the stream.
const CHANGES: &str = r#"
    SET search_path TO public_102008;
    INSERT INTO kinds (ref, doc, tags, mood, at, big) VALUES
        (1, '[1,  2]', ARRAY['a,"b', NULL, '{}'], 'sad', '-1 day 02:03:04.5', repeat('y', 9000));
    UPDATE kinds SET note = 'changed', mood = 'happy' WHERE id = 101;
    UPDATE kinds SET big = repeat('z', 9000) WHERE id = 102;
    DELETE FROM kinds WHERE id = 103;
    UPDATE codes SET "Code ""x""" = 'other' WHERE value = 1;
    DELETE FROM codes WHERE value = 2;
    UPDATE days SET day = '2020-02-03' WHERE n = 9;
    UPDATE bag SET c = 'NaN' WHERE a = 1;
    DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag);
    INSERT INTO bag VALUES (NULL, NULL, NULL), (NULL, NULL, '-0'), (NULL, NULL, 0);
    DELETE FROM bag WHERE a IS NULL AND c IS NULL;
    UPDATE loose SET n = n + 1;
    DELETE FROM loose WHERE n = 10;
    UPDATE swaps SET id = id % 9 + 1;
    BEGIN; INSERT INTO parts VALUES (2, 3, 2020); INSERT INTO parts VALUES (3, 2); COMMIT;
    BEGIN; INSERT INTO codes VALUES ('gone', 1); SAVEPOINT s; INSERT INTO codes VALUES ('kept', 1); ROLLBACK TO s;
    INSERT INTO codes VALUES ('stays', 5); COMMIT;
    BEGIN; INSERT INTO codes SELECT 'bulk' || i, i FROM generate_series(1, 5000) i; COMMIT;
    TRUNCATE days_rest; INSERT INTO days VALUES ('2030-01-01', 7)"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_table_and_of_change_arrives() {
    let stage = Stage::set(0, "").await;
    for worker in &stage.workers {
        worker
            .batch_execute(
                "CREATE TABLE public.ref (id int PRIMARY KEY); INSERT INTO public.ref VALUES (1);
                 CREATE TYPE public.mood AS ENUM ('happy', 'sad'); CREATE ROLE reader",
            )
            .await
            .unwrap();
    }
    let schema = format!("CREATE SCHEMA public_102008; SET search_path TO public_102008; {RICH_TABLES}");
    stage.workers[0].batch_execute(&schema).await.unwrap();
    stage.give_one_shard_group().await;
    stage.environment.catalog.refresh().await.unwrap();
    let mv = Move::new(ColocationId(1), GROUP, (SOURCE, TARGET), vec!["public".into()]);
    let source = session::connect(&stage.environment, SOURCE).await.unwrap();
    let before = definition::read(&source, &mv).await.unwrap();
    // The foreign key has to wait for this, and with it the move, while changes are applied.
    let target = session::connect(&stage.environment, TARGET).await.unwrap();
    target.batch_execute("BEGIN; LOCK TABLE public.ref IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let stage = Arc::new(stage);
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
    };
    let waiting = "SELECT count(*) FROM tenantry.shard_move WHERE phase = 'Creating Foreign Keys'";
    while stage.coordinator.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for change in CHANGES.split("TRUNCATE") {
        let change = if change.starts_with(" days") { format!("TRUNCATE{change}") } else { change.to_owned() };
        stage.workers[0].batch_execute(&change).await.unwrap();
    }
    target.batch_execute("COMMIT").await.unwrap();
    let report = moving.await.unwrap().unwrap().unwrap();
    assert!(report.rows_applied > 5000, "{report:?}");
    let after = definition::read(&target, &mv).await.unwrap();
    let sorted = |mut statements: Vec<String>| {
        statements.sort();
        statements
    };
    assert_eq!(sorted(after.tables), sorted(before.tables));
    assert_eq!(sorted(after.keys_and_indexes), sorted(before.keys_and_indexes));
    assert_eq!(after.foreign_keys, before.foreign_keys);
    assert_eq!(sorted(after.rest), sorted(before.rest));
    assert_eq!(stage.number(TARGET, "SELECT count(*) FROM kinds WHERE note = 'stamped'").await, 1);
    assert_eq!(stage.number(TARGET, "SELECT count(*) FROM codes").await, 8 + 2 + 5000);
    let loose = "SELECT count(*) FROM loose WHERE length(big) = 12800 AND twice = 2 * n AND n BETWEEN 2 AND 9";
    assert_eq!(stage.number(TARGET, loose).await, 8, "also large values of tables without a key");
    assert_eq!(stage.number(TARGET, "SELECT count(DISTINCT id) FROM swaps").await, 9);
    assert_eq!(stage.number(TARGET, "SELECT count(*) FROM parts a JOIN parts b ON a.of = b.id").await, 2);
    let next = "INSERT INTO kinds DEFAULT VALUES RETURNING id";
    assert_eq!(stage.number(TARGET, next).await, 110, "the identity column goes on where it was");
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}
