//! Tables without a primary key under many updates: rows are found fast, or the move says why it gives up.

use std::sync::Arc;

use super::tests::{GROUP, SOURCE, Stage, TARGET};
use super::*;

/// Each kind of column that has a hash, and some that have not.
const HASHED: &str = "
    CREATE TABLE orders (tenant bigint, n int, name varchar(20), kind char(3), price numeric(10, 2), at timestamptz, f float8,
        mood public.mood, short public.short, tags text[], doc json, alike text COLLATE public.blind,
        twice int GENERATED ALWAYS AS (n * 2) STORED);
    INSERT INTO orders SELECT i % 5, i, 'n' || i, 'x', i / 7.0, to_timestamp(i), i / 3.0, 'sad', 's', ARRAY['a'], '{}', 'A'
        FROM generate_series(1, 4000) i;
    INSERT INTO orders SELECT 1, NULL, NULL, NULL, NULL, NULL, '-0', NULL, NULL, NULL, NULL, NULL FROM generate_series(1, 50)";

const TYPES: &str = "
    CREATE TYPE public.mood AS ENUM ('happy', 'sad'); CREATE DOMAIN public.short AS varchar(9);
    CREATE COLLATION public.blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";

/// A move whose slot exists, and which waits for `reader` at its cut-over.
async fn moving(stage: &Arc<Stage>) -> (tokio::task::JoinHandle<Result<Option<MoveReport>>>, tokio_postgres::Client) {
    let reader = stage.connect(SOURCE).await;
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
    };
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL";
    while stage.number(SOURCE, slots).await == 0 {
        assert!(!moving.is_finished(), "{:?}", moving.await);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    reader.batch_execute(&format!("BEGIN; SELECT count(*) FROM public_{GROUP}.orders")).await.unwrap();
    (moving, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_table_without_a_key_find_their_rows_by_an_index() {
    let stage = Arc::new(Stage::set(1, "").await);
    for worker in &stage.workers {
        worker.batch_execute(TYPES).await.unwrap();
    }
    stage.workers[0].batch_execute(HASHED).await.unwrap();
    let (moving, reader) = moving(&stage).await;
    let began = Instant::now();
    for change in ["n = n + 1, doc = '[]'", "name = name || 'x', alike = 'a'", "f = f + 1, mood = 'happy'"] {
        stage.workers[0].batch_execute(&format!("UPDATE public_{GROUP}.orders SET {change}")).await.unwrap();
    }
    let delete = format!(
        "DELETE FROM public_{GROUP}.orders WHERE n % 4 = 0 OR ctid = (SELECT max(ctid) FROM public_{GROUP}.orders)"
    );
    stage.workers[0].batch_execute(&delete).await.unwrap();
    let rows = stage.number(SOURCE, &format!("SELECT count(*) FROM public_{GROUP}.orders")).await;
    reader.batch_execute("COMMIT").await.unwrap();
    // Compares both sides.
    let report = moving.await.unwrap().unwrap().unwrap();
    println!("{report:?} after {:?}", began.elapsed());
    assert!(report.rows_applied > 12_000, "{report:?}");
    assert_eq!(stage.number(TARGET, &format!("SELECT count(*) FROM public_{GROUP}.orders")).await, rows);
    let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'orders'";
    let scans = stage.number(TARGET, scans).await;
    assert!(scans < 100, "{scans} times all rows were read");
    let indexes =
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'tenantry%' AND relkind = 'i' AND relnamespace > 16383";
    assert_eq!(stage.number(TARGET, indexes).await, 0);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_nothing_to_find_rows_by_is_named() {
    let tables = "CREATE TABLE orders (doc json); INSERT INTO orders SELECT to_json(i) FROM generate_series(1, 6000) i";
    let mut stage = Stage::set(1, tables).await;
    (stage.environment.settings.catch_up_patience, stage.environment.settings.verify) = (Duration::from_secs(1), false);
    let stage = Arc::new(stage);
    let moving = {
        let stage = stage.clone();
        tokio::spawn(async move { stage.move_to(SOURCE, TARGET).await })
    };
    let other = stage.connect(SOURCE).await;
    while !moving.is_finished() {
        let sql = format!("UPDATE public_{GROUP}.orders SET doc = to_json(doc::text::int + 1)");
        other.batch_execute(&sql).await.unwrap();
    }
    let error = moving.await.unwrap().unwrap_err();
    assert_eq!(error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error}");
    assert!(error.to_string().contains("has no primary key, and no column to find rows by"), "{error}");
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    Arc::into_inner(stage).unwrap().strike().await;
}
