//! A row lives where the value that is stored says, not the value that was written: types with a modifier cut and round.

mod support;

use bytes::Bytes;
use futures_util::SinkExt;
use support::Cluster;
use tokio_postgres::NoTls;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_found_by_the_value_that_was_stored() {
    let cluster = Cluster::start(2);
    cluster.psql("CREATE DOMAIN code AS varchar(3)");
    for (table, key) in
        [("prices", "numeric(10,2)"), ("codes", "varchar(3)"), ("times", "timestamp(0)"), ("domains", "code")]
    {
        cluster.psql(&format!("CREATE TABLE {table} (k {key}, how text)"));
        cluster.psql(&format!("SELECT create_distributed_table('{table}', 'k')"));
    }
    let (client, connection) = tokio_postgres::connect(&cluster.dsn(), NoTls).await.unwrap();
    tokio::spawn(connection);
    // (table, written, stored); the values differ in their hash.
    let cases = [
        ("prices", "1.005", "1.01"),
        ("prices", "7", "7.00"),
        ("codes", "abc   ", "abc"),
        ("codes", "x", "x"),
        ("times", "2024-01-01 10:00:00.6", "2024-01-01 10:00:01"),
        ("domains", "abc  ", "abc"),
    ];
    for (table, written, stored) in cases {
        cluster.psql(&format!("INSERT INTO {table} VALUES ('{written}', 'literal')"));
        cluster.psql(&format!("INSERT INTO {table} VALUES ('{written}', 'rows'), ('{written}', 'rows')"));
        cluster
            .psql_script(&format!("PREPARE p AS INSERT INTO {table} VALUES ($1, 'execute');\nEXECUTE p('{written}');"));
        cluster.psql_script(&format!("COPY {table} FROM STDIN;\n{written}\tcopy\n\\.\n"));
        cluster.psql(&format!("INSERT INTO {table} SELECT '{written}', 'select'"));
        let explained = format!("EXPLAIN ANALYZE INSERT INTO {table} VALUES ('{written}', 'explain')");
        if client.batch_execute(&explained).await.is_err() {
            assert!(cluster.psql_error(&explained).contains("0A000"), "{explained}");
        }
        // Text and binary parameters of the column's own type, whatever the driver chooses.
        let sql = format!("INSERT INTO {table} VALUES ($1, 'parameter')");
        let key = if table == "times" { "timestamp" } else { "text" };
        let cast = sql.replace("$1", &format!("'{written}'::{key}"));
        if let Err(error) = client.batch_execute(&cast).await {
            let code = error.code().map(|c| c.code().to_owned());
            assert!(code.as_deref() == Some("0A000") || code.as_deref() == Some("42804"), "{cast}: {error}");
        }
        if table == "codes" {
            client.execute(&sql, &[&written]).await.unwrap();
        }
        let count = |filter: &str| cluster.psql(&format!("SELECT count(*) FROM {table} WHERE {filter}"));
        let all = count(&format!("k::text = '{stored}'::{}::text OR k = '{stored}'", key_type(table)));
        assert_eq!(count(&format!("k = '{stored}'")), all, "{table} {written}: every row is on its shard");
        assert!(all.parse::<i64>().unwrap() >= 6, "{table} {written}: {all}");
    }
    // Fields of a binary COPY are rounded too. 1.005 as numeric: weight 0, scale 3, digits 1, 50.
    let sink = client.copy_in("COPY prices (k) FROM STDIN (FORMAT binary)").await.unwrap();
    tokio::pin!(sink);
    let mut data = b"PGCOPY\n\xff\r\n\0".to_vec();
    data.extend([0u8; 8]);
    data.extend([0, 1, 0, 0, 0, 12]);
    for part in [2i16, 0, 0, 3, 1, 50] {
        data.extend(part.to_be_bytes());
    }
    data.extend((-1i16).to_be_bytes());
    sink.send(Bytes::from(data)).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 1);
    assert_eq!(cluster.psql("SELECT count(*) FROM prices WHERE k = 1.01 AND how IS NULL"), "1");

    // Comparisons know nothing of the modifier.
    assert_eq!(cluster.psql("SELECT count(*) FROM prices WHERE k = 1.005"), "0");
    // Rows that come out of a table whose column is finer.
    cluster.psql("CREATE TABLE fine (k numeric, how text)");
    cluster.psql("SELECT create_distributed_table('fine', 'k', colocate_with => 'prices')");
    cluster.psql("INSERT INTO fine VALUES (2.005, 'fine')");
    cluster.psql("INSERT INTO prices SELECT k, how FROM fine");
    cluster.psql("INSERT INTO prices SELECT k, how FROM fine WHERE k = 2.005");
    assert_eq!(cluster.psql("SELECT count(*) FROM prices WHERE k = 2.01"), "2");
}

fn key_type(table: &str) -> &'static str {
    match table {
        "prices" => "numeric(10,2)",
        "times" => "timestamp(0)",
        _ => "varchar(3)",
    }
}
