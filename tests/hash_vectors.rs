//! Hashes of many random values, and rows of random COPY data, against a real Postgres.
//!
//! Whatever `shard_map::hash` or `wire::copy_rows` says must be what Postgres says. Values come from a fixed seed.

mod support;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use support::ports::PortRange;
use tenantry::auth::verifier::{RolePassword, hash_password};
use tenantry::auth::{ScramClient, ScramServer, md5};
use tenantry::dev_cluster::{DevCluster, Settings};
use tenantry::shard_map::HashType;
use tenantry::wire::copy_rows::{CopyFormat, CopyTarget, CsvOptions, FieldValue, Header, RowSplitter};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// One Postgres and a connection to it.
struct Postgres {
    client: Client,
    runtime: Runtime,
    _cluster: DevCluster,
}

impl Postgres {
    fn start() -> Self {
        let ports = PortRange::reserve();
        let settings = Settings { base_port: ports.first, workers: 0, ..Settings::default() };
        let cluster = DevCluster::start(settings).expect("Postgres is installed");
        let runtime = Runtime::new().expect("threads can be made");
        let address = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", cluster.coordinator().port());
        let (client, connection) =
            runtime.block_on(tokio_postgres::connect(&address, NoTls)).expect("the server answers");
        runtime.spawn(connection);
        Self { client, runtime, _cluster: cluster }
    }

    fn run(&self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(sql)).expect(sql);
    }

    fn query(&self, sql: &str, values: &[String]) -> Vec<tokio_postgres::Row> {
        self.runtime.block_on(self.client.query(sql, &[&values])).expect(sql)
    }
}

fn samples(strategy: impl Strategy<Value = String>, count: usize) -> Vec<String> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("nothing is filtered").current()).collect()
}

/// Texts of a type, right ones and broken ones, and the functions that hash and send it.
struct TypeCase {
    hash_type: HashType,
    hash: &'static str,
    send: &'static str,
    texts: Vec<&'static str>,
    /// Every text that Postgres takes must be hashed, not only the common forms.
    is_exact: bool,
}

fn type_cases() -> Vec<TypeCase> {
    let case = |hash_type, hash, send, texts: &[&'static str], is_exact| TypeCase {
        hash_type,
        hash,
        send,
        texts: texts.to_vec(),
        is_exact,
    };
    let date = "(19|20)[0-9][0-9]-(0[1-9]|1[0-3])-([0-2][0-9]|3[01])";
    let old_date = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])( BC)?";
    let moment = "[012][0-9][0-9][0-9]-(0[1-9]|1[0-2])-[0-2][0-9][ T]([01][0-9]|2[0-4]):[0-6][0-9](:[0-6][0-9](\\.[0-9]{1,7})?)?";
    let zoned = "[12][0-9]{3}-(0[1-9]|1[0-2])-[0-2][0-9][ T][0-2][0-9]:[0-5][0-9](:[0-5][0-9](\\.[0-9]{1,6})?)? ?(Z|z|[+-][01][0-9](:?[0-6][0-9])?)( BC)?";
    vec![
        case(HashType::Int2, "hashint2", "int2send", &["[ \t]?[+-]?[0-9]{1,5}[ \n]?", "[-+ 0-9.ex]{0,4}"], true),
        case(HashType::Int4, "hashint4", "int4send", &["[+-]?[0-9]{1,10}", "-?[0-9]{1,4}", "[-+ 0-9.ex]{0,4}"], true),
        case(HashType::Int8, "hashint8", "int8send", &["[+-]?[0-9]{1,19}", "-?[0-9]{1,12}", "[-+ 0-9.ex]{0,4}"], true),
        case(HashType::Oid, "hashoid", "oidsend", &["[0-9]{1,10}", "[ +0-9a]{0,4}"], false),
        case(HashType::Text, "hashtext", "textsend", &["[a-z]{0,40}", "[^\\x00]{0,20}"], true),
        case(HashType::Varchar, "hashtext", "varcharsend", &["[^\\x00]{0,20}"], true),
        case(HashType::Bpchar, "hashbpchar", "bpcharsend", &["[a-z ]{0,20}", "[^\\x00]{0,20} {0,3}"], true),
        case(HashType::Name, "hashname", "namesend", &["[a-zé]{0,80}"], true),
        case(
            HashType::Bytea,
            "",
            "byteasend",
            &["\\\\x([0-9a-fA-F]{2} ?){0,20}", "[a-z\\\\0-7]{0,9}", "[^\\x00]{0,9}"],
            true,
        ),
        case(
            HashType::Uuid,
            "uuid_hash",
            "uuid_send",
            &[
                "[0-9a-fA-F]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
                "\\{?([0-9a-f]{4}-?){8}\\}?",
                "[0-9a-f]{32}",
            ],
            true,
        ),
        case(
            HashType::Numeric,
            "hash_numeric",
            "numeric_send",
            &[
                "-?[0-9]{1,30}(\\.[0-9]{0,30})?",
                "-?[0-9]{0,9}\\.[0-9]{1,9}(e-?[0-9]{1,2})?",
                "0*[0-9]{0,5}0*\\.0*[0-9]{0,3}0*",
                "[-+ 0-9.eE]{0,6}",
                "[+-]?(NaN|inf|Infinity)",
            ],
            false,
        ),
        case(
            HashType::Bool,
            "hashchar",
            "boolsend",
            &["[tfynTFYN]", " ?(true|false|yes|no|on|off|1|0|of|o|fals|tr|ye|OFF) ?", "[truefalsyno01]{0,5}"],
            true,
        ),
        case(HashType::Char, "hashchar", "charsend", &["[ -~]{0,2}"], false),
        case(HashType::Date, "hashint4", "date_send", &[date, old_date, "-?infinity"], false),
        case(HashType::Timestamp, "timestamp_hash", "timestamp_send", &[moment, old_date, zoned, "-?infinity"], false),
        case(
            HashType::Timestamptz,
            "timestamp_hash",
            "timestamptz_send",
            &[zoned, moment, old_date, "-?infinity"],
            false,
        ),
        case(HashType::Time, "time_hash", "time_send", &["[0-2][0-9]:[0-6][0-9](:[0-6][0-9](\\.[0-9]{1,7})?)?"], false),
        case(
            HashType::Float4,
            "hashfloat4",
            "float4send",
            &["-?[0-9]{1,9}(\\.[0-9]{1,9})?(e-?[0-9]{1,2})?", "[-+ 0-9.eE]{0,6}", "[+-]?(NaN|inf|Infinity)"],
            false,
        ),
        case(
            HashType::Float8,
            "hashfloat8",
            "float8send",
            &["-?[0-9]{1,18}(\\.[0-9]{1,18})?(e-?[0-9]{1,3})?", "[-+ 0-9.eE]{0,6}", "[+-]?(NaN|inf|Infinity)"],
            false,
        ),
    ]
}

#[test]
fn hashes_of_random_values_equal_those_of_postgres() {
    let postgres = Postgres::start();
    // Other settings than the default must not matter.
    postgres.run("SET timezone = 'Asia/Kathmandu'; SET datestyle = 'German, DMY'");
    let mut wrong = Vec::new();
    for case in type_cases() {
        let (name, hash, send) = (case.hash_type.sql_name(), case.hash, case.send);
        // hashchar takes the one-byte type; timestamps with a zone hash as those without.
        let value = match case.hash_type {
            HashType::Bool => "(v::boolean::int)::\"char\"".to_owned(),
            HashType::Timestamptz => "(v::timestamptz AT TIME ZONE 'UTC')".to_owned(),
            HashType::Date => "(v::date - date '2000-01-01')".to_owned(),
            // Only arrays show the hash of a bytea to SQL, as 31 + hash.
            HashType::Bytea => {
                "(((hash_array(ARRAY[v::bytea])::bigint - 31 + 2147483648) & 4294967295) - 2147483648)::int".to_owned()
            }
            _ => format!("v::{name}"),
        };
        let infinite = if case.hash_type == HashType::Date {
            "CASE WHEN NOT isfinite(v::date) THEN CASE WHEN v::date > 'epoch' THEN hashint4(2147483647) ELSE hashint4(-2147483648) END ELSE"
        } else {
            "CASE WHEN true THEN"
        };
        postgres.run(&format!(
            "CREATE OR REPLACE FUNCTION try_hash(v text, OUT hash int, OUT sent bytea) LANGUAGE plpgsql AS $$
             BEGIN hash := {infinite} {hash}({value}) END; sent := {send}(v::{name});
             EXCEPTION WHEN others THEN hash := NULL; sent := NULL; END $$"
        ));
        let count = 4000 / case.texts.len();
        let texts: Vec<String> = case
            .texts
            .iter()
            .flat_map(|t| samples(proptest::string::string_regex(t).expect("a pattern"), count))
            .collect();
        let rows = postgres
            .query("SELECT (try_hash(v)).* FROM unnest($1::text[]) WITH ORDINALITY u (v, n) ORDER BY n", &texts);
        let mut hashed = 0;
        for (text, row) in texts.iter().zip(rows) {
            let (want, sent): (Option<i32>, Option<Vec<u8>>) = (row.get(0), row.get(1));
            let found = case.hash_type.read_text(text).map(|v| v.hash());
            hashed += usize::from(found.is_some());
            if (found.is_some() || case.is_exact) && found != want {
                wrong.push(format!("{name} {text:?}: {found:?}, Postgres says {want:?}"));
            }
            let binary = sent
                .as_deref()
                .and_then(|bytes| case.hash_type.read_binary(case.hash_type.oid(), bytes))
                .map(|v| v.hash());
            if binary != want {
                wrong.push(format!("{name} {text:?} in binary: {binary:?}, Postgres says {want:?}"));
            }
        }
        assert!(hashed * 4 > texts.len(), "{name}: only {hashed} of {} texts were values", texts.len());
    }
    assert!(
        wrong.is_empty(),
        "{} differences, the first are\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}

#[test]
fn copy_rows_are_cut_as_postgres_cuts_them() {
    let postgres = Postgres::start();
    postgres.run("SET client_min_messages = error; CREATE TABLE t (c0 text, c1 text)");
    let csv = |change: fn(&mut CsvOptions)| match CopyFormat::csv() {
        CopyFormat::Csv(mut options) => {
            change(&mut options);
            CopyFormat::Csv(options)
        }
        other => other,
    };
    let formats = [
        (CopyFormat::text(), ""),
        (
            CopyFormat::Text { delimiter: b',', null: b"a".to_vec(), header: Header::Skip },
            "DELIMITER ',', NULL 'a', HEADER",
        ),
        (
            CopyFormat::Text { delimiter: b',', null: b"".to_vec(), header: Header::Match },
            "DELIMITER ',', NULL '', HEADER MATCH",
        ),
        (CopyFormat::csv(), "FORMAT csv"),
        (csv(|c| c.escape = b'\\'), "FORMAT csv, ESCAPE '\\'"),
        (csv(|c| c.header = Header::Match), "FORMAT csv, HEADER MATCH"),
        (csv(|c| (c.force_null, c.null) = (true, b"a".to_vec())), "FORMAT csv, NULL 'a', FORCE_NULL (c1)"),
        (csv(|c| c.force_not_null = true), "FORMAT csv, FORCE_NOT_NULL (c1)"),
    ];
    let lines = "((c0,c1\n)?([ab,\t\"\\\\.Nx1]{0,4}[\t,][ab\"\\\\.Nx1]{0,4}(\n|\r|\r\n)){0,3}|[ab,\t\"\\\\.\r\n\nNx1]{0,20}|(a[\t,][ab\"\\\\]{0,2}(\n|\r\n)){0,3}(a[\t,]b|\\\\\\.(\n|\r\n)?)?)";
    let mut compared = 0;
    for (format, options) in &formats {
        for data in samples(proptest::string::string_regex(lines).expect("a pattern"), 500) {
            let found = split(format, data.as_bytes());
            let want = copy_in(&postgres, options, data.as_bytes());
            match (found, want) {
                (Ok(rows), Ok(want)) => {
                    let values: Vec<_> = rows.iter().map(|(_, value)| value.clone()).collect();
                    assert_eq!(values, want, "{options}: {data:?}");
                    // What goes on to a shard must be the same rows there.
                    let sent: Vec<u8> = rows.into_iter().flat_map(|(bytes, _)| bytes).collect();
                    let again =
                        copy_in(&postgres, &options.replace(", HEADER MATCH", "").replace(", HEADER", ""), &sent);
                    assert_eq!(
                        again.as_ref(),
                        Ok(&want),
                        "{options}: {data:?} sent on as {:?}",
                        String::from_utf8_lossy(&sent)
                    );
                    compared += 1;
                }
                (Err(found), Err(want)) => {
                    if !want.contains("extra data after") {
                        // Postgres shows the line in some contexts where we only say its number, and a last
                        // backslash that we have cut off.
                        assert!(
                            want == found
                                || want.starts_with(&format!("{found}: "))
                                || want == format!("{}\\\"", &found[..found.len() - 1]),
                            "{options}: {data:?}\n{found}\n{want}"
                        );
                        compared += 1;
                    }
                }
                (Ok(_), Err(want)) => assert!(
                    want.contains("extra data after") || want.contains("invalid byte sequence"),
                    "{options}: {data:?} must be refused: {want}"
                ),
                (Err(found), Ok(want)) => panic!("{options}: {data:?} must give {want:?}, not {found}"),
            }
        }
    }
    assert!(compared > 2000, "only {compared} were comparable");
}

type Values = Vec<Option<String>>;

/// A row's bytes and the wanted column's value.
type SplitRow = (Vec<u8>, Option<String>);

/// The second column of each row, or "message | context".
fn split(format: &CopyFormat, data: &[u8]) -> Result<Vec<SplitRow>, String> {
    let target = CopyTarget { table: "t".into(), columns: vec!["c0".into(), "c1".into()], column: 1 };
    let mut splitter = RowSplitter::new(format.clone(), target, 1 << 20);
    let mut rows = Vec::new();
    splitter.push(data);
    splitter.finish();
    loop {
        match splitter.next_row() {
            Ok(None) => return Ok(rows),
            Ok(Some(row)) => {
                let value = match &row.value {
                    FieldValue::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                    _ => None,
                };
                rows.push((row.bytes.to_vec(), value));
            }
            Err(error) => {
                let context = error.fields().find(|f| f.0 == b'W').map_or("", |f| f.1);
                return Err(format!("{} | {context}", error.message()));
            }
        }
    }
}

/// What Postgres makes of the data.
fn copy_in(postgres: &Postgres, options: &str, data: &[u8]) -> Result<Values, String> {
    use futures_util::SinkExt;
    let options = options.trim_start_matches(", ");
    let options = if options.is_empty() { String::new() } else { format!(" ({options})") };
    let data = bytes::Bytes::copy_from_slice(data);
    let client = &postgres.client;
    postgres.runtime.block_on(async {
        client.batch_execute("TRUNCATE t").await.expect("the table is there");
        let sink = client.copy_in(&format!("COPY t FROM STDIN{options}")).await.expect("the options are right");
        let mut sink = std::pin::pin!(sink);
        let done = match sink.send(data).await {
            Ok(()) => sink.finish().await,
            Err(error) => Err(error),
        };
        match done {
            Ok(_) => {
                let rows = client.query("SELECT c1 FROM t ORDER BY ctid", &[]).await.expect("the table is there");
                Ok(rows.iter().map(|row| row.get(0)).collect())
            }
            Err(error) => {
                let error = error.as_db_error().expect("the server says so");
                Err(format!("{} | {}", error.message(), error.where_().unwrap_or_default()))
            }
        }
    })
}

#[test]
fn stored_passwords_of_postgres_are_read_and_made() {
    let postgres = Postgres::start();
    for password in ["secret", "пароль", "a b", "ﬁne", "it''s"] {
        postgres.run("DROP ROLE IF EXISTS app");
        postgres.run(&format!("SET password_encryption = 'scram-sha-256'; CREATE ROLE app PASSWORD '{password}'"));
        let stored = stored_password(&postgres);
        let password = password.replace("''", "'");
        let Some(RolePassword::Scram(verifier)) = RolePassword::parse(&stored) else { panic!("{stored}") };
        let (mut client, mut server) = (ScramClient::with_password(&password), ScramServer::new("app", verifier, None));
        let server_first = server.first(client.mechanism().as_bytes(), &client.first().unwrap()).unwrap();
        let (server_final, _) = server.last(&client.last(&server_first).unwrap()).unwrap();
        client.verify(&server_final).unwrap();

        // The way back: Postgres takes what we make for a stored password, as it is.
        let made = hash_password(&password, b"sixteen bytes :)", 4096).to_string();
        postgres.run(&format!("ALTER ROLE app PASSWORD '{made}'"));
        assert_eq!(stored_password(&postgres), made);
    }
    postgres.run("SET password_encryption = 'md5'; ALTER ROLE app PASSWORD 'secret'");
    assert_eq!(stored_password(&postgres), md5::stored("app", "secret"));
}

fn stored_password(postgres: &Postgres) -> String {
    postgres.query("SELECT rolpassword FROM pg_authid WHERE rolname = ANY($1::text[])", &["app".to_owned()])[0].get(0)
}
