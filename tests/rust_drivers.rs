//! tokio-postgres and sqlx as applications use them.

mod support;

use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use sqlx::types::Json;
use sqlx::types::chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use sqlx::{Connection, Row};
use support::Cluster;
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};
use tokio_postgres::{NoTls, error::SqlState};

#[tokio::test]
async fn rust_drivers_work_unchanged() {
    let cluster = Cluster::start(2);
    let (mut client, connection) = tokio_postgres::connect(&cluster.dsn(), NoTls).await.expect("it logs in");
    tokio::spawn(connection);
    client
        .batch_execute("CREATE TABLE orders (tenant bigint, id int, note text, at timestamptz, day date, doc jsonb, PRIMARY KEY (tenant, id)); CREATE TABLE plain (id int)")
        .await
        .unwrap();
    client.query_one("SELECT create_distributed_table('orders', 'tenant')", &[]).await.unwrap();
    statements(&mut client).await;
    dates_and_json(&client).await;
    arrays_of_enums(&client).await;
    copies(&client).await;
    transactions(&mut client).await;
    cancels(&client).await;
    sqlx_works(&cluster.dsn()).await;
}

async fn statements(client: &mut tokio_postgres::Client) {
    let insert = client.prepare("INSERT INTO orders VALUES ($1, $2, $3) RETURNING id").await.unwrap();
    assert_eq!(insert.params(), [Type::INT8, Type::INT4, Type::TEXT]);
    assert_eq!((insert.columns()[0].name(), insert.columns()[0].type_()), ("id", &Type::INT4));
    // All of them leave before the first answer is read.
    let values: Vec<(i64, i32)> = (0..200).map(|i| (i64::from(i) % 4, i)).collect();
    let client = &*client;
    let done = join_all(values.iter().map(|(tenant, id)| {
        let insert = &insert;
        async move { client.query_one(insert, &[tenant, id, &"x"]).await.unwrap().get::<_, i32>(0) }
    }));
    assert_eq!(done.await, (0..200).collect::<Vec<_>>());
    let typed = client.prepare_typed("SELECT id FROM orders WHERE tenant = $1 AND id < $2 ORDER BY id", &[Type::INT8]);
    let typed = typed.await.unwrap();
    for tenant in 0..4i64 {
        let rows = client.query(&typed, &[&tenant, &12i32]).await.unwrap();
        let ids: Vec<i32> = rows.iter().map(|r| r.get(0)).collect();
        assert_eq!(ids, (0..12).filter(|i| i64::from(*i) % 4 == tenant).collect::<Vec<_>>());
    }
    let all: i64 = client.query_one("SELECT count(*) FROM orders WHERE note = $1", &[&"x"]).await.unwrap().get(0);
    assert_eq!(all, 200);
    let error = client.query("SELECT nothing FROM orders WHERE tenant = $1", &[&1i64]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_COLUMN));
    let error = client.execute(&insert, &[&1i64, &1i32, &"again"]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
    assert_eq!(client.simple_query("SELECT 1; SELECT 2").await.unwrap().len(), 6);
}

/// tokio-postgres reads JSON and dates with other crates' types; its own are the system's time and text.
async fn dates_and_json(client: &tokio_postgres::Client) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_735_687_800_123_456);
    let doc = r#"{"a": [1, null, "ü"]}"#;
    let change = "UPDATE orders SET at = $3, doc = $4::text::jsonb WHERE tenant = $1 AND id = $2 RETURNING at";
    for tenant in 0..4i64 {
        let row = client.query_one(change, &[&tenant, &(tenant as i32), &at, &doc]).await.unwrap();
        assert_eq!(row.get::<_, SystemTime>(0), at);
    }
    let find = "SELECT doc::text, doc->'a'->>2 FROM orders WHERE at = $1 AND tenant < 9";
    let found = client.query(find, &[&at]).await.unwrap();
    assert_eq!(found.len(), 4);
    assert!(found.iter().all(|row| row.get::<_, &str>(0) == doc && row.get::<_, &str>(1) == "ü"));
}

#[derive(Debug, Clone, PartialEq)]
struct Mood(String);

impl ToSql for Mood {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Enum(_))
    }

    to_sql_checked!();
}

impl FromSql<'_> for Mood {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Enum(_))
    }
}

/// Their binary values name the enum by an OID, which is another one on each server.
async fn arrays_of_enums(client: &tokio_postgres::Client) {
    let made = "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE felt (tenant int PRIMARY KEY, moods mood[])";
    client.batch_execute(made).await.unwrap();
    client.query_one("SELECT create_distributed_table('felt', 'tenant')", &[]).await.unwrap();
    let moods: Vec<Mood> = ["bad", "good"].map(|mood| Mood(mood.to_owned())).into();
    for tenant in 0..8i32 {
        client.execute("INSERT INTO felt VALUES ($1, $2)", &[&tenant, &moods]).await.unwrap();
    }
    for found in ["moods = $1 AND tenant = 3", "moods = $1"] {
        let rows = client.query(&format!("SELECT moods FROM felt WHERE {found}"), &[&moods]).await.unwrap();
        assert_eq!(rows.len(), if found.contains("tenant") { 1 } else { 8 });
        assert!(rows.iter().all(|row| row.get::<_, Vec<Mood>>(0) == moods));
    }
}

async fn copies(client: &tokio_postgres::Client) {
    for (table, row) in [("orders (tenant, id)", "7\t1\n"), ("plain", "1\n")] {
        let sink = client.copy_in::<_, bytes::Bytes>(&format!("COPY {table} FROM STDIN")).await.unwrap();
        let mut sink = std::pin::pin!(sink);
        sink.send(bytes::Bytes::from_static(row.as_bytes())).await.unwrap();
        assert_eq!(sink.as_mut().finish().await.unwrap(), 1);
        // One that is dropped is given up.
        let sink = client.copy_in::<_, bytes::Bytes>(&format!("COPY {table} FROM STDIN")).await.unwrap();
        drop(sink);
    }
    let count = |table: &'static str| async move {
        client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!((count("orders").await, count("plain").await), (201, 1));
    let rows = client.copy_out("COPY orders TO STDOUT").await.unwrap();
    let bytes: Vec<_> = rows.map(|piece| piece.unwrap()).collect().await;
    assert_eq!(bytes.concat().iter().filter(|b| **b == b'\n').count(), 201);
}

async fn transactions(client: &mut tokio_postgres::Client) {
    let transaction = client.transaction().await.unwrap();
    for tenant in 20..24i64 {
        transaction.execute("INSERT INTO orders VALUES ($1, 1, 'x')", &[&tenant]).await.unwrap();
    }
    let portal = transaction.bind("SELECT id FROM orders WHERE tenant = $1 ORDER BY id", &[&1i64]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 20).await.unwrap().len(), 20);
    assert_eq!(transaction.query_portal(&portal, 0).await.unwrap().len(), 30);
    let many = transaction.bind("SELECT tenant, id FROM orders", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&many, 100).await.unwrap().len(), 100);
    assert_eq!(transaction.query_portal(&many, 0).await.unwrap().len(), 105);
    transaction.rollback().await.unwrap();
    let left = client.query_one("SELECT count(*) FROM orders WHERE tenant >= 20", &[]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0);
}

async fn cancels(client: &tokio_postgres::Client) {
    let token = client.cancel_token();
    let query = client.query("SELECT pg_sleep(30) FROM orders WHERE tenant = $1", &[&7i64]);
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (result, ()) = tokio::join!(query, cancel);
    assert_eq!(result.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    client.query_one("SELECT 1", &[]).await.unwrap();
}

async fn sqlx_works(dsn: &str) {
    let mut one = sqlx::PgConnection::connect(dsn).await.unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM orders WHERE tenant = $1")
        .bind(1i64)
        .fetch_one(&mut one)
        .await
        .unwrap();
    assert_eq!(count, 50);
    let mut transaction = one.begin().await.unwrap();
    for tenant in 30..34i64 {
        let insert = sqlx::query("INSERT INTO orders VALUES ($1, $2, $3)").bind(tenant).bind(1i32).bind("sqlx");
        assert_eq!(insert.execute(&mut *transaction).await.unwrap().rows_affected(), 1);
    }
    transaction.commit().await.unwrap();
    sqlx_dates_and_json(&mut one).await;
    let rows = sqlx::query("SELECT tenant FROM orders WHERE note = $1 ORDER BY tenant").bind("sqlx");
    let tenants: Vec<i64> = rows.fetch_all(&mut one).await.unwrap().iter().map(|r| r.get(0)).collect();
    assert_eq!(tenants, [30, 31, 32, 33]);
    let error = sqlx::query("INSERT INTO orders VALUES (30, 1)").execute(&mut one).await.unwrap_err();
    assert!(error.as_database_error().is_some_and(|e| e.is_unique_violation()), "{error}");
    let mut copy = one.copy_in_raw("COPY orders (tenant, id) FROM STDIN (FORMAT csv)").await.unwrap();
    copy.send("40,1\n41,1\n".as_bytes()).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 2);
    for (what, rows) in [("orders (tenant, id)", 207), ("(SELECT tenant, id FROM orders WHERE tenant = 41)", 1)] {
        let out = one.copy_out_raw(&format!("COPY {what} TO STDOUT (FORMAT csv)")).await.unwrap();
        let bytes: Vec<_> = out.map(|piece| piece.unwrap()).collect().await;
        let bytes = bytes.concat();
        let lines: Vec<_> = std::str::from_utf8(&bytes).unwrap().lines().collect();
        assert!(lines.len() == rows && lines.contains(&"41,1"), "{what}: {lines:?}");
    }
    // sqlx leaves a connection unusable on which a COPY was refused.
    let mut other = sqlx::PgConnection::connect(dsn).await.unwrap();
    let refused = other.copy_out_raw("COPY (SELECT nothing FROM orders WHERE tenant = 41) TO STDOUT").await;
    assert_eq!(refused.err().unwrap().as_database_error().and_then(|e| e.code()).as_deref(), Some("42703"));
    // sqlx cancels nothing itself: the statement's own limit does.
    sqlx::query("SET statement_timeout = '300ms'").execute(&mut one).await.unwrap();
    let error = sqlx::query("SELECT pg_sleep(30) FROM orders WHERE tenant = 1").execute(&mut one).await.unwrap_err();
    assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("57014"));
    sqlx::query("RESET statement_timeout").execute(&mut one).await.unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(6).connect(dsn).await.unwrap();
    let counts = join_all((0..60i64).map(|i| {
        let pool = &pool;
        async move {
            let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM orders WHERE tenant = $1").bind(i % 4);
            count.fetch_one(pool).await.unwrap()
        }
    }));
    assert_eq!(counts.await, [50; 60]);
}

/// As chrono's and serde_json's own types, which travel in binary.
async fn sqlx_dates_and_json(one: &mut sqlx::PgConnection) {
    let at = DateTime::<Utc>::from_timestamp_micros(1_735_687_800_123_456).unwrap();
    let day = NaiveDate::from_ymd_opt(2024, 2, 29).unwrap();
    let doc = serde_json::json!({"a": [1, null, "ü"]});
    for tenant in 30..34i64 {
        let change =
            "UPDATE orders SET at = $1, day = $2, doc = $3 WHERE tenant = $4 AND id = 1 RETURNING at, day, doc";
        let row =
            sqlx::query(change).bind(at).bind(day).bind(Json(&doc)).bind(tenant).fetch_one(&mut *one).await.unwrap();
        assert_eq!((row.get(0), row.get(1), row.get(2)), (at, day, Json(doc.clone())));
    }
    let change = "UPDATE orders SET day = $1, doc = doc || $2 WHERE at = $3 AND note = 'sqlx'";
    let change = sqlx::query(change).bind(day.succ_opt()).bind(serde_json::json!({"b": true})).bind(at);
    assert_eq!(change.execute(&mut *one).await.unwrap().rows_affected(), 4);
    for filter in ["tenant = 31 AND doc @> $1", "tenant > 29 AND doc @> $1"] {
        let sql = format!("SELECT at AT TIME ZONE 'Asia/Tokyo', day, doc->'a', doc FROM orders WHERE {filter}");
        let row = sqlx::query(&sql).bind(serde_json::json!({"b": true})).fetch_one(&mut *one).await.unwrap();
        assert_eq!(row.get::<NaiveDateTime, _>(0).to_string(), "2025-01-01 08:30:00.123456");
        assert_eq!(row.get::<NaiveDate, _>(1).to_string(), "2024-03-01");
        assert_eq!(row.get::<serde_json::Value, _>(2), doc["a"]);
        assert_eq!(row.get::<Json<HashMap<String, serde_json::Value>>, _>(3)["b"], true);
    }
}
