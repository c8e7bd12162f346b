//! Drivers and tools as applications use them: the programs of tests/drivers, psql, pgbench.
//!
//! The programs of the matrix run against Tenantry and against one Postgres, so that what fails is known to be ours.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use support::serve::Serve;
use support::{Cluster, ended_in_time, python, wait_until};

/// Programs that take the arguments which tests/drivers/matrix.py names.
const MATRIX: [&str; 12] = [
    "use_psycopg2.py",
    "use_pg8000.py",
    "use_sqlalchemy.py",
    "use_django.py",
    "use_node_postgres.mjs",
    "use_postgres_js.mjs",
    "UseJdbc.java",
    "use_ruby_pg.rb",
    "use_dbd_pg.pl",
    "use_pdo.php",
    "use_pgx.go",
    "use_pq.go",
];

/// Where Debian's packages of Go libraries are.
const GO_PATH: &str = "/usr/share/gocode";

const PHP_DRIVERS: &str = "exit(extension_loaded('pdo_pgsql') && extension_loaded('pgsql') ? 0 : 1);";

/// One cluster for the whole file, so one test that runs every part, and tells of all that failed.
#[test]
fn drivers_and_tools_work_unchanged() {
    let cluster = Cluster::start(2);
    println!("{}", python("use_psycopg.py", &[&cluster.dsn()]));
    println!("{}", python("use_asyncpg.py", &[&cluster.dsn()]));
    println!("{}", python("use_admin_database.py", &[&cluster.dsn()]));
    psql_works(&cluster);
    pgbench_works(&cluster);
    matrix_passes(&cluster);
    assert!(!cluster.log().contains("panicked"), "{}", cluster.log());
}

fn matrix_passes(cluster: &Cluster) {
    cluster.psql("CREATE ROLE app LOGIN PASSWORD 'correct horse'");
    support::psql(&cluster.coordinator_dsn(), "CREATE DATABASE plain");
    let with_passwords = Serve::start(cluster, cluster.port() + 12, "auth = \"scram\"", "");
    let mut failed = Vec::new();
    for program in MATRIX {
        let Some(command) = command(program) else { continue };
        let schema = program.split('.').next().expect("the name before the ending").to_lowercase();
        let password_dsn = driver_dsn(program, "app:correct%20horse", with_passwords.port, "postgres", &schema);
        let runs = |behind: &'static str, port: u16, database: &'static str| {
            make_tables(&schema, behind, port, database);
            let password_dsn = if behind == "tenantry" { &*password_dsn } else { "" };
            let dsn = driver_dsn(program, "postgres", port, database, &schema);
            let start = Instant::now();
            let output = run_with(&command, &[&dsn, behind, password_dsn]);
            println!("{program} on {behind}: {:.1} s", start.elapsed().as_secs_f32());
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            (!output.status.success()).then(|| format!("{program} on {behind}, {}:\n{said}", output.status))
        };
        // Side by side: they share nothing but the machine.
        std::thread::scope(|scope| {
            let plain = scope.spawn(|| runs("postgres", cluster.port() + 1, "plain"));
            failed.extend(runs("tenantry", cluster.port(), "postgres"));
            failed.extend(plain.join().expect("a thread of the test"));
        });
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// How a program of tests/drivers starts; None, with a line that says so, where its language or driver is missing.
fn command(program: &str) -> Option<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("tests/drivers").join(program);
    let jar = Path::new("/usr/share/java/postgresql.jar");
    let (starter, question): (PathBuf, &[&str]) = match program.rsplit('.').next() {
        Some("py") => (root.join(".venv/bin/python"), &["-c", "import django, pg8000, psycopg2, sqlalchemy"]),
        Some("mjs") => ("node".into(), &["--version"]),
        Some("rb") => ("ruby".into(), &["-e", "require 'pg'"]),
        Some("pl") => ("perl".into(), &["-MDBD::Pg", "-MJSON::PP", "-e", "1"]),
        Some("php") => ("php".into(), &["-r", PHP_DRIVERS]),
        Some("go") => ("go".into(), &["list", "github.com/jackc/pgx/v4", "github.com/lib/pq"]),
        _ => ("java".into(), &["--list-modules"]),
    };
    let answer = go_settings(&mut Command::new(&starter)).args(question).stderr(Stdio::null()).output();
    let is_there = answer.is_ok_and(|answer| {
        answer.status.success()
            && match program.rsplit('.').next() {
                Some("mjs") => {
                    let driver = if program.contains("postgres_js") { "postgres" } else { "pg" };
                    path.with_file_name("node_modules").join(driver).exists()
                }
                // `java File.java` compiles it.
                Some("java") => jar.exists() && String::from_utf8_lossy(&answer.stdout).contains("jdk.compiler"),
                _ => true,
            }
    });
    if !is_there {
        println!("skipped: {program}, because its language or driver is not installed: run scripts/setup.sh");
        return None;
    }
    if program.ends_with(".go") {
        return Some(vec![go_build(&path)]);
    }
    let mut command = vec![starter];
    if program.ends_with(".java") {
        command.extend(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"].map(PathBuf::from));
        command.push(jar.to_owned());
    }
    command.push(path);
    Some(command)
}

fn go_build(path: &Path) -> PathBuf {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(path.file_stem().expect("a file's name"));
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&built).arg(path.with_file_name("matrix.go")).arg(path);
    let output = go_settings(&mut go).output().expect("go runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    built
}

/// The libraries are Debian's, without modules, which would be downloaded.
fn go_settings(command: &mut Command) -> &mut Command {
    command.env("GO111MODULE", "off").env("GOPATH", GO_PATH)
}

fn run_with(command: &[PathBuf], arguments: &[&str]) -> std::process::Output {
    let (program, first) = command.split_first().expect("a program");
    ended_in_time(program).args(first).args(arguments).output().expect("timeout is one of the coreutils")
}

fn make_tables(schema: &str, behind: &str, port: u16, database: &str) {
    let distributed = if behind == "tenantry" { "on" } else { "off" };
    let mut psql = ended_in_time("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", &format!("schema={schema}")])
        .args(["-v", &format!("distributed={distributed}"), "-f", "tests/drivers/tables.sql"])
        .arg(format!("host=127.0.0.1 port={port} user=postgres dbname={database}"))
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = psql.output().expect("psql runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A URI as the program's driver takes it, with the program's schema as search_path. `user` may hold a password.
fn driver_dsn(program: &str, user: &str, port: u16, database: &str, schema: &str) -> String {
    if program.ends_with(".java") {
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        return format!(
            "jdbc:postgresql://127.0.0.1:{port}/{database}?user={user}&password={password}&currentSchema={schema}"
        );
    }
    format!("postgresql://{user}@127.0.0.1:{port}/{database}?options=-csearch_path%3D{schema}")
}

fn psql_works(cluster: &Cluster) {
    cluster.psql_script(
        "CREATE TABLE notes (tenant int, id int, note text DEFAULT 'none', PRIMARY KEY (tenant, id));
         CREATE INDEX notes_by_note ON notes (note);
         SELECT create_distributed_table('notes', 'tenant');",
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "1,1,one\n2,1,\"two, with comma\"\n3,1,three\n").expect("it can be written");
    let said = cluster.psql_script(
        &format!(
            "\\copy notes FROM '{}' WITH (FORMAT csv)
         SELECT note AS found FROM notes WHERE tenant = 2 \\gset
         \\echo :found
         SELECT 7 AS seven, 8 AS eight \\gset my_
         SELECT :my_seven + :my_eight;
         SELECT $1::int + 1 \\bind 4 \\g
         \\copy (SELECT tenant, note FROM notes ORDER BY tenant) TO STDOUT WITH (FORMAT csv)
         \\d notes
         \\dt notes
         \\di notes*
         \\dn public
         \\df create_distributed_table
         SELECT 'one' \\; SELECT 'two';
         SELECT format('SELECT %s', n) FROM generate_series(1, 2) n \\gexec
         SELECT note FROM notes WHERE tenant = 1 \\gdesc",
            file.path().display()
        )
        .replace(
            "         SELECT $1::int + 1 \\bind 4 \\g\n",
            if psql_has_bind() { "         SELECT $1::int + 1 \\bind 4 \\g\n" } else { "" },
        ),
    );
    for expected in [
        "two, with comma",
        "15",
        "3,three",
        "notes_pkey",
        "notes_by_note",
        "table|postgres",
        "one\ntwo\n1\n2",
        "note|text",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing in:\n{said}");
    }
    let rolled_back = cluster.psql_script(
        "\\set ON_ERROR_STOP off
         \\set ON_ERROR_ROLLBACK on
         BEGIN;
         INSERT INTO notes VALUES (1, 2);
         INSERT INTO notes VALUES (1, 2);
         SELECT nothing FROM notes WHERE tenant = 2;
         INSERT INTO notes VALUES (2, 2);
         COMMIT;
         SELECT count(*) FROM notes WHERE id = 2;",
    );
    assert_eq!(rolled_back, "2");
    assert_eq!(
        cluster.psql("BEGIN; INSERT INTO notes VALUES (1, 3), (2, 3), (3, 3); SELECT count(*) FROM notes; COMMIT"),
        "8"
    );
}

/// psql 16 and later.
fn psql_has_bind() -> bool {
    let said = Command::new("psql").arg("--version").output().expect("psql runs");
    let version =
        String::from_utf8_lossy(&said.stdout).split_whitespace().nth(2).map(str::to_owned).unwrap_or_default();
    version.split('.').next().and_then(|v| v.parse::<u32>().ok()).is_some_and(|v| v >= 16)
}

/// Its own script knows the account, teller and branch by their ids alone, so each table is distributed by its id, and
/// each transaction writes on several tenants.
fn pgbench_works(cluster: &Cluster) {
    pgbench(cluster, &["-i", "-s", "1", "-q"]);
    for (table, column) in [("accounts", "aid"), ("tellers", "tid"), ("branches", "bid"), ("history", "aid")] {
        cluster
            .psql(&format!("SELECT create_distributed_table('pgbench_{table}', '{column}', colocate_with := 'none')"));
    }
    let mut done = 0;
    for protocol in ["simple", "extended", "prepared"] {
        let said = pgbench(cluster, &["-n", "-M", protocol, "-c", "4", "-j", "2", "-t", "25"]);
        assert!(said.contains("100/100"), "{protocol}: {said}");
        done += 100;
        let said = pgbench(cluster, &["-n", "-S", "-M", protocol, "-c", "8", "-j", "2", "-t", "200"]);
        assert!(said.contains("1600/1600"), "{protocol}: {said}");
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
                    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)";
        let sums = cluster.psql(sums);
        assert!(sums.split('|').all(|sum| Some(sum) == sums.split('|').next()), "{protocol}: {sums}");
        assert_eq!(cluster.psql("SELECT count(*) FROM pgbench_history"), done.to_string());
    }
    for worker in 0..2 {
        let none_left = || support::psql(&cluster.worker_dsn(worker), "SELECT count(*) FROM pg_prepared_xacts") == "0";
        assert!(wait_until(std::time::Duration::from_secs(5), none_left), "a prepared transaction was left behind");
    }
}

fn pgbench(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = ended_in_time(pgbench_program())
        .args(arguments)
        .args(["-h", "127.0.0.1", "-p", &cluster.port().to_string(), "-U", "postgres", "postgres"])
        .output()
        .expect("pgbench runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pgbench {arguments:?} failed:\n{said}");
    said
}

fn pgbench_program() -> std::path::PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|v| v.path().join("bin/pgbench")).find(|p| p.exists()).unwrap_or_else(|| "pgbench".into())
}
