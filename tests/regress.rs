//! One script, two databases: through Tenantry over two workers, and on a plain Postgres. The answers must be the same.
//!
//! The scripts in `tests/regress` say nothing of Tenantry but the calls that distribute tables, which are no-ops on the
//! plain side. Errors are compared too: SQLSTATE, message, position. NOTICEs of the distribution are left out.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::Cluster;

#[test]
fn every_script_gives_the_answers_of_a_single_postgres() {
    let cluster = Cluster::start(2);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regress");
    let mut scripts: Vec<_> = fs::read_dir(&folder)
        .expect("the folder of scripts is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "sql"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let mut failures = Vec::new();
    for script in &scripts {
        let name = script.file_stem().and_then(|s| s.to_str()).expect("scripts have plain names");
        support::psql(&cluster.coordinator_dsn(), &format!("CREATE DATABASE plain_{name}"));
        let plain_dsn = other_database(&cluster, &format!("plain_{name}"));
        support::psql(&plain_dsn, STUBS);
        let wanted = answers(&plain_dsn, script);
        let found = answers(&cluster.dsn(), script);
        if let Some(difference) = first_difference(&wanted, &found) {
            failures.push(format!("{name}: {difference}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

#[test]
fn the_ad_analytics_tutorial_gives_the_answers_of_a_single_postgres() {
    let (Some(compare), Some(script)) =
        (support::shared("acceptance/compare"), support::shared("acceptance/ad_analytics.sql"))
    else {
        return;
    };
    let cluster = Cluster::start(2);
    support::psql(&cluster.coordinator_dsn(), "CREATE DATABASE plain");
    let plain = other_database(&cluster, "plain");
    let output = Command::new(compare).arg(script).args([cluster.dsn(), plain]).output().expect("bash runs it");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A database of the coordinator that Tenantry does not know.
fn other_database(cluster: &Cluster, name: &str) -> String {
    let dsn = cluster.coordinator_dsn();
    let (server, _) = dsn.rsplit_once('/').expect("a DSN ends with the database");
    format!("{server}/{name}")
}

fn answers(dsn: &str, script: &Path) -> Vec<String> {
    let output =
        Command::new("psql").args(["-X", "-q", "-a", "-d", dsn, "-f"]).arg(script).output().expect("psql is installed");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let noise = |line: &str| {
        line.contains("NOTICE:") || line.contains("_distributed_table") || line.contains("_reference_table")
    };
    text.lines().filter(|line| !noise(line)).map(str::to_owned).collect()
}

fn first_difference(wanted: &[String], found: &[String]) -> Option<String> {
    let at = (0..wanted.len().max(found.len())).find(|at| wanted.get(*at) != found.get(*at))?;
    let around =
        |lines: &[String]| lines[at.saturating_sub(12).min(lines.len())..(at + 4).min(lines.len())].join("\n    ");
    Some(format!("line {at} differs\n  Postgres:\n    {}\n  Tenantry:\n    {}", around(wanted), around(found)))
}

const STUBS: &str = "
    CREATE FUNCTION create_distributed_table(table_name regclass, distribution_column text,
        distribution_type text DEFAULT 'hash', colocate_with text DEFAULT 'default', shard_count int DEFAULT NULL)
        RETURNS void LANGUAGE sql AS 'SELECT';
    CREATE FUNCTION create_reference_table(table_name regclass) RETURNS void LANGUAGE sql AS 'SELECT';";
