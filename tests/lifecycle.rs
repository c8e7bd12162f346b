//! A proxy's life as its operator sees it: settings read again, and its end.

mod support;

use std::collections::BTreeSet;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::SinkExt;
use support::serve::psql_says;
use support::served::{Served, Stop, connect};
use support::wait_until;

const PATIENCE: Duration = Duration::from_secs(20);

/// Goal: operators change settings of a running proxy, and are told what happened. Method: the file is edited, SIGHUP is
/// sent, and the log and the proxy's behaviour are looked at.
#[test]
fn settings_are_read_again_on_sighup() {
    let served = Served::start_with(1, 1, "[pool]\nsize = 7\n[log]\nformat = \"json\"\n");
    let file = served.config_file(0);
    let first = std::fs::read_to_string(&file).expect("it was written");
    let hang_up = |text: &str, said: &str| {
        std::fs::write(&file, text).expect("the folder can be written");
        let times = || served.logged(0).matches(said).count();
        let before = times();
        served.signal_proxy(0, "HUP");
        assert!(wait_until(PATIENCE, || times() > before), "{said} in\n{}", served.logged(0));
    };

    // Something of everything that is counted.
    served.psql("SELECT 1");
    support::psql_error(&served.dsn(0), "SELECT 1 / 0");
    let page = served.metrics(0);
    assert_eq!(told_metrics(&page), documented_metrics(), "docs/operations.md lists every metric");
    for (heading, what) in [("# HELP ", "a meaning"), ("# TYPE ", "a kind")] {
        assert_eq!(headed_metrics(&page, heading), told_metrics(&page), "each metric has {what}");
    }
    what_is_done_is_counted(&served);

    let changed = first.replace("size = 7", "size = 3").replace("threads = 1", "threads = 2");
    hang_up(&changed, r#""changed":"pool.size","need_restart":"listen.threads""#);
    assert_eq!(served.psql("SELECT 1"), "1", "sessions go on");

    served.psql("CREATE ROLE operator LOGIN; CREATE ROLE watcher LOGIN");
    let admin = |role: &str| format!("postgresql://{role}@127.0.0.1:{}/tenantry", served.proxy_port(0));
    let refused = support::psql_error(&admin("operator"), "SHOW POOLS");
    assert!(
        refused.contains("permission denied for database") && refused.contains("admin.users"),
        "nobody is listed: {refused}"
    );
    let listed = "[admin]\nusers = [\"operator\"]\nstats_users = [\"watcher\"]";
    let changed = changed.replace("[admin]", listed);
    hang_up(&changed, r#""changed":"admin.stats_users, admin.users""#);
    for role in ["operator", "watcher"] {
        let config = support::psql(&admin(role), "SHOW CONFIG");
        assert!(config.contains("pool.size|3|32|yes") && config.contains("listen.threads|1|0|no"), "{config}");
    }
    let refused = support::psql_error(&admin("watcher"), "RELOAD");
    assert!(refused.contains("42501") && refused.contains("admin.users"), "{refused}");
    let changed = changed.replace("size = 3", "size = 4");
    std::fs::write(&file, &changed).expect("the folder can be written");
    let notices = || {
        let said = psql_says(&admin("operator"), "RELOAD");
        let notices = said.lines().filter_map(|line| line.strip_prefix("NOTICE:  00000: "));
        notices.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(notices(), ["in force now: pool.size", "in force after a restart: listen.threads"]);
    assert_eq!(notices(), ["in force after a restart: listen.threads"]);
    assert!(support::psql(&admin("watcher"), "SHOW CONFIG").contains("pool.size|4|32|yes"));
    let pools = support::psql(&admin("watcher"), "SHOW POOLS");
    assert!(pools.lines().any(|pool| pool.starts_with("postgres|postgres|0|0|0|")), "{pools}");
    std::fs::write(&file, "[pool]\nsise = 1\n").expect("the folder can be written");
    let refused = support::psql_error(&admin("operator"), "RELOAD");
    assert!(refused.contains("F0000") && refused.contains("unknown field `sise`"), "{refused}");

    sessions_are_logged(&served, &hang_up, &changed);

    hang_up(&changed.replace("size = 4", "size = 0"), "must be at least 1");
    hang_up("[pool\n", "the old settings stay in force");
    // What can be tried from outside: the login by trust is in force until the file says otherwise.
    assert_eq!(served.psql("SELECT 1"), "1", "a broken file changes nothing");
    hang_up(&changed.replace("trust-loopback", "scram"), r#""changed":"listen.auth""#);
    let refused = support::psql_error(&served.dsn(0), "SELECT 1");
    assert!(refused.contains("password"), "{refused}");
    // The servers trust everybody, so only the proxy's own rule is in the way.
    hang_up(&changed.replace("[log]", "[log] # again"), r#""changed":"listen.auth","need_restart":"listen.threads""#);
    assert_eq!(served.psql("SELECT 1"), "1");
}

/// Goal: what operators watch moves when something happens. Method: samples are compared before and after.
fn what_is_done_is_counted(served: &Served) {
    served.psql("CREATE TABLE counted (tenant int PRIMARY KEY, note text)");
    served.psql("SELECT create_distributed_table('counted', 'tenant')");
    served.psql("CREATE TABLE beside (id int)");
    let page = || served.metrics(0);
    let before = page();
    served.psql("INSERT INTO counted VALUES (1, 'one')");
    served.psql("INSERT INTO counted VALUES (2, 'two')");
    served.psql("SELECT note FROM counted WHERE tenant = 1");
    served.psql("SELECT count(*) FROM counted");
    served.psql("BEGIN; INSERT INTO counted VALUES (3, 'three'); INSERT INTO beside VALUES (3); COMMIT");
    support::psql_error(&served.dsn(0), "INSERT INTO counted VALUES (1, 'one')");
    let after = page();
    let worker = format!("node=\"127.0.0.1:{}\"", served.worker_port(0));
    for (sample, at_least) in [
        ("tenantry_session_statements_total{plan=\"insert\"}", 4.0),
        ("tenantry_session_statements_total{plan=\"router\"}", 1.0),
        ("tenantry_session_statements_total{plan=\"combine\"}", 1.0),
        ("tenantry_session_statements_total{plan=\"transaction\"}", 2.0),
        ("tenantry_session_request_seconds_count", 6.0),
        ("tenantry_session_transactions_total", 6.0),
        ("tenantry_session_plan_cache_total{cache=\"shape\",outcome=\"hit\"}", 1.0),
        ("tenantry_session_plan_cache_total{cache=\"shape\",outcome=\"miss\"}", 2.0),
        ("tenantry_session_bytes_total{direction=\"received\"}", 200.0),
        ("tenantry_session_bytes_total{direction=\"sent\"}", 200.0),
        ("tenantry_session_errors_total{sqlstate_class=\"23\"}", 1.0),
        ("tenantry_two_phase_commits_total{outcome=\"committed\"}", 1.0),
        (&format!("tenantry_pool_answer_seconds_count{{{worker}}}"), 5.0),
        (&format!("tenantry_pool_bytes_total{{{worker},direction=\"sent\"}}"), 200.0),
        (&format!("tenantry_pool_wait_seconds_count{{{worker}}}"), 0.0),
    ] {
        let grown = Served::metric(&after, sample).unwrap_or_else(|| panic!("{sample} in\n{after}"))
            - Served::metric(&before, sample).unwrap_or_default();
        assert!(grown >= at_least, "{sample} has grown by {grown}");
    }
    assert_eq!(Served::metric(&after, "tenantry_moves_total{outcome=\"done\"}"), Some(0.0));
}

/// Names of the metrics on a page. Only samples count, not headings; those of a histogram are one metric.
fn told_metrics(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| line.starts_with("tenantry_"));
    let names = samples.filter_map(|line| line.split(['{', ' ']).next());
    let of_metric = |name: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
    };
    names.map(of_metric).collect()
}

/// Names behind such a heading that says something of them, in a page where each stands once.
fn headed_metrics(page: &str, heading: &str) -> BTreeSet<String> {
    let headings = || page.lines().filter_map(|line| line.strip_prefix(heading)?.split_once(' '));
    let names: BTreeSet<_> = headings().filter(|(_, said)| !said.is_empty()).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names.len(), headings().count(), "{heading}");
    names
}

/// Goal: operators see who comes, goes and takes long, and nothing of the data unless they ask for it. Method: the lines
/// of the log are read as JSON.
fn sessions_are_logged(served: &Served, hang_up: &dyn Fn(&str, &str), original: &str) {
    let dsn = format!("{}?application_name=reports", served.dsn(0));
    let slow = "SELECT pg_sleep(0.5), 'acme' AS name -- of acme";
    support::psql(&dsn, slow);
    assert!(!served.logged(0).contains("reports"), "nothing is logged of sessions by default");

    let log = "[log]\nconnections = true\ndisconnections = true\nslow_statement = \"400ms\"";
    let config = original.replace("[log]", log);
    hang_up(&config, "log.connections, log.disconnections, log.slow_statement");
    support::psql(&dsn, slow);
    support::psql(&dsn, "SELECT 'acme'");
    let refused = dsn.replace("postgres@", "acme_nobody@");
    support::psql_error(&refused, "SELECT 1");
    assert!(wait_until(PATIENCE, || lines(served, "client disconnected").len() == 2), "{}", served.logged(0));
    let (came, told) = (lines(served, "client connected"), lines(served, "slow statement"));
    assert!(came.len() == 2 && !told.is_empty(), "{}", served.logged(0));
    for line in [&came[0], &told[0], &lines(served, "client disconnected")[0]] {
        assert_eq!((&line["role"], &line["database"]), (&"postgres".into(), &"postgres".into()), "{line}");
        assert_eq!((&line["application"], &line["session"]), (&"reports".into(), &came[0]["session"]), "{line}");
    }
    assert_eq!(lines(served, "client disconnected")[0].get("sqlstate"), None, "it ended well");
    assert_eq!(told[0]["statement"], "SELECT pg_sleep(?), ? AS name");
    assert!(told[0]["milliseconds"].as_u64().is_some_and(|took| took >= 400), "{}", told[0]);
    assert_eq!(told[0]["fingerprint"].as_str().map(str::len), Some(16), "{}", told[0]);
    assert_eq!(lines(served, "client refused")[0]["sqlstate"], "28000");
    assert!(!served.logged(0).replace("acme_nobody", "").contains("acme"), "nothing of the data is in the log");

    hang_up(&config.replace("[log]", "[log]\nstatement_texts = true"), r#""changed":"log.statement_texts""#);
    support::psql(&dsn, slow);
    let told = lines(served, "slow statement");
    assert_eq!(told.last().expect("one more")["statement"], slow);
    hang_up(original, "log.connections, log.disconnections, log.slow_statement, log.statement_texts");
}

/// The log's lines with this message.
fn lines(served: &Served, message: &str) -> Vec<serde_json::Value> {
    let lines: Vec<_> = served.logged(0).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    lines.into_iter().filter(|line: &serde_json::Value| line["message"] == message).collect()
}

fn documented_metrics() -> BTreeSet<String> {
    let manual = include_str!("../docs/operations.md");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `tenantry_"));
    rows.filter_map(|row| row.split(['{', '`']).next()).map(|name| format!("tenantry_{name}")).collect()
}

/// The port is the successor's, the session its predecessor's.
async fn a_cancel_reaches_the_old_process(served: &Served, session: &tokio_postgres::Client) {
    let known = "SELECT count(*) FROM tenantry.tenantry_proxies";
    assert!(wait_until(PATIENCE, || support::psql(&served.coordinator_dsn(), known) == "2"));
    session.batch_execute("SAVEPOINT before").await.expect("it is open");
    let cancelling = async {
        tokio::task::block_in_place(|| assert!(wait_until(PATIENCE, || served.running("SELECT 31,") == 1)));
        session.cancel_token().cancel_query(tokio_postgres::NoTls).await.expect("the port takes it");
    };
    let asleep = session.batch_execute("SELECT 31, pg_sleep(60) FROM visits WHERE tenant = 9");
    let (slept, ()) = tokio::join!(asleep, cancelling);
    assert_eq!(slept.expect_err("it is cancelled").code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED));
    session.batch_execute("ROLLBACK TO before").await.expect("the rest goes on");
}

/// Goal: a new process replaces a running one and no client notices (T50); a stop lets transactions end. Method: clients
/// connect, commit and go, all the time, while the port changes hands; what they were told is compared with the rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_taken_over_and_stopped_without_a_loss() {
    let mut served = Served::start_with(1, 2, "[log]\nfilter = \"info\"\n[pool]\nsize = 8\n");
    served.psql("CREATE TABLE visits (tenant int, number int)");
    served.psql("SELECT create_distributed_table('visits', 'tenant')");

    let mut mistaken = served.spawn(0, &[]);
    assert!(!ended(&mut mistaken).success(), "a second start is refused");
    assert!(served.logged(0).contains("is in use"), "{}", served.logged(0));

    let stop = Arc::new(Stop::default());
    let connected: Vec<_> = (0..4).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let comes = |tenant: usize| come_and_go(served.dsn(0), tenant as i32, stop.clone(), connected[tenant].clone());
    let load: Vec<_> = (0..4).map(|tenant| tokio::spawn(comes(tenant))).collect();
    let mut committed = 0;
    for round in 1..=3 {
        let open = connect(&served.dsn(0)).await;
        open.batch_execute(&format!("BEGIN; INSERT INTO visits VALUES (9, {round})")).await.expect("it is open");
        let successor = served.spawn(0, &["--take-over"]);
        let mut old = served.replace_proxy(0, Some(successor));
        let taken = || served.logged(0).matches("another process has taken over the port").count() == round;
        assert!(wait_until(PATIENCE, taken), "{}", served.logged(0));
        assert!(old.try_wait().expect("it is our child").is_none(), "its open transaction goes on");
        if round == 1 {
            a_cancel_reaches_the_old_process(&served, &open).await;
        }
        if round == 2 {
            // It need not wait for sessions, but for transactions: those of the load, which stand between two statements now and
            // then, have gone when each client has come to the successor.
            let count = || connected.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
            let before = count();
            let has_come = || count().iter().zip(&before).all(|(now, then)| *now > then + 1);
            assert!(wait_until(PATIENCE, has_come), "the load goes on");
            support::signal(old.id(), "TERM");
            assert!(wait_until(PATIENCE, || served.logged(0).matches(" stopping").count() == round));
        }
        open.batch_execute("COMMIT").await.expect("nothing of an open transaction is lost");
        committed += 1;
        drop(open);
        assert!(ended(&mut old).success(), "it ends with its last session");
    }
    stop.set();
    for client in load {
        committed += client.await.expect("no client met an error");
    }
    assert!(committed > 20, "there was load: {committed}");
    assert_eq!(served.psql("SELECT count(*) FROM visits"), committed.to_string());

    // The stop: an idle session ends at once, a transaction and a COPY come to their end.
    let (idle, idle_told) = watched(&served.dsn(0)).await;
    let (busy, copying) = (connect(&served.dsn(0)).await, connect(&served.dsn(0)).await);
    idle.batch_execute("SELECT 1").await.expect("it answers");
    busy.batch_execute("BEGIN; INSERT INTO visits VALUES (1, -1), (2, -1)").await.expect("it is open");
    let copy = copying.copy_in("COPY visits FROM STDIN").await.expect("it begins");
    let mut copy = std::pin::pin!(copy);
    copy.send(bytes::Bytes::from_static(b"3\t-1\n")).await.expect("it is taken");
    served.signal_proxy(0, "TERM");
    assert_eq!(told(idle_told).await, "57P01");
    drop(idle);
    assert!(tokio_postgres::connect(&served.dsn(0), tokio_postgres::NoTls).await.is_err(), "nobody is accepted");
    copy.send(bytes::Bytes::from_static(b"4\t-1\n")).await.expect("it is taken");
    assert_eq!(copy.finish().await.expect("a COPY comes to its end"), 2);
    busy.batch_execute("COMMIT").await.expect("a transaction comes to its end");
    let mut old = served.replace_proxy(0, None);
    assert!(ended(&mut old).success());

    served.start_proxy(0);
    assert_eq!(served.psql("SELECT count(*) FROM visits WHERE number = -1"), "4");
    // The second signal waits for nobody.
    let (busy, busy_told) = watched(&served.dsn(0)).await;
    busy.batch_execute("BEGIN; DELETE FROM visits WHERE tenant = 1").await.expect("it is open");
    let running = connect(&served.dsn(0)).await;
    let slow = tokio::spawn(async move { running.batch_execute("SELECT pg_sleep(600)").await });
    assert!(wait_until(PATIENCE, || served
        .everywhere("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        .contains(&"1".to_owned())));
    served.signal_proxy(0, "TERM");
    assert!(wait_until(PATIENCE, || served.logged(0).matches(" stopping").count() == 5), "{}", served.logged(0));
    served.signal_proxy(0, "TERM");
    let mut old = served.replace_proxy(0, None);
    assert!(ended(&mut old).success());
    assert_eq!(told(busy_told).await, "57P01");
    drop(busy);
    assert!(slow.await.expect("it does not panic").is_err());
    assert!(served.logged(0).contains("told to hurry"));
    served.start_proxy(0);
    assert_ne!(served.psql("SELECT count(*) FROM visits WHERE tenant = 1"), "0", "it was rolled back");
}

/// Goal: operators used to PgBouncer end sessions, keep clients out and end the process by its commands. Method: a session that is idle,
/// one in a transaction and one that runs a statement, for each command that ends some or all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_end_sessions_and_the_process() {
    let mut served = Served::start_with(1, 2, "[log]\nfilter = \"info\"\n");
    served.psql("CREATE TABLE visits (tenant int, number int)");
    served.psql("SELECT create_distributed_table('visits', 'tenant')");
    let_operator_in(&served);
    let console = format!("postgresql://postgres@127.0.0.1:{}/tenantry", served.proxy_port(0));
    let operator = connect(&console).await;
    let begun = "BEGIN; INSERT INTO visits VALUES (1, 1)";
    let sleepers = || served.everywhere("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");

    operators_are_shown_the_name_that_holds(&served, &operator).await;

    // One session.
    let victim = format!("{}?application_name=victim", served.dsn(0));
    for sql in ["SELECT 1", begun, "SELECT 1 / 0", "SELECT pg_sleep(600)"] {
        let (client, end) = watched(&victim).await;
        let runs = tokio::spawn(async move { (client.batch_execute(sql).await, client) });
        let is_asleep = sql.contains("sleep");
        if is_asleep {
            assert!(wait_until(PATIENCE, || sleepers().contains(&"1".to_owned())));
        }
        let id = field(&operator, "SHOW CLIENTS", "application_name", "victim", "id").await.expect("it is shown");
        let client = if is_asleep { None } else { Some(runs.await.expect("it does not panic").1) };
        operator.batch_execute(&format!("KILL_CLIENT {id}")).await.expect("it is there");
        assert_eq!(told(end).await, "57P01", "{sql}");
        drop(client);
    }
    assert!(wait_until(PATIENCE, || !sleepers().contains(&"1".to_owned())));
    assert_eq!(served.psql("SELECT count(*) FROM visits"), "0", "it was rolled back");
    assert_eq!(refused(&operator, "KILL_CLIENT 999999").await, "42704");

    // All of them.
    let (idle, idle_ended) = watched(&victim).await;
    let (busy, busy_ended) = watched(&victim).await;
    idle.batch_execute("SELECT 1").await.expect("it answers");
    busy.batch_execute(begun).await.expect("it is open");
    assert_eq!(refused(&operator, "KILL elsewhere").await, "3D000");
    operator.batch_execute("KILL").await.expect("it does");
    assert_eq!((told(idle_ended).await, told(busy_ended).await), ("57P01".to_owned(), "57P01".to_owned()));
    let dsn = served.dsn(0);
    let newcomer = tokio::spawn(async move { connect(&dsn).await.batch_execute("SELECT 1").await });
    assert_eq!(field(&operator, "SHOW STATE", "key", "paused", "value").await.as_deref(), Some("yes"));
    assert!(!newcomer.is_finished());
    operator.batch_execute("RESUME").await.expect("it was paused");
    newcomer.await.expect("it does not panic").expect("it has waited");

    // Nobody new; who is there goes on.
    let inside = connect(&served.dsn(0)).await;
    operator.batch_execute("DISABLE postgres").await.expect("it does");
    let outside = tokio_postgres::connect(&served.dsn(0), tokio_postgres::NoTls).await.err().expect("it is closed");
    assert_eq!(outside.code().expect("it is told").code(), "55000");
    assert_eq!(field(&operator, "SHOW DATABASES", "name", "postgres", "disabled").await.as_deref(), Some("1"));
    inside.batch_execute(begun).await.expect("it goes on");
    operator.batch_execute("ENABLE postgres").await.expect("it does");
    connect(&served.dsn(0)).await.batch_execute("SELECT 1").await.expect("it is open again");

    // Connections that RECONNECT has found.
    operator.batch_execute("WAIT_CLOSE; RECONNECT").await.expect("it does");
    let waiter = connect(&console).await;
    let waiter = tokio::spawn(async move { waiter.batch_execute("WAIT_CLOSE").await });
    assert!(
        field(&operator, "SHOW SERVERS", "close_needed", "1", "state").await.is_some(),
        "a transaction keeps its own"
    );
    assert!(!waiter.is_finished());
    inside.batch_execute("ROLLBACK").await.expect("it is open");
    waiter.await.expect("it does not panic").expect("they are gone");
    assert_eq!(field(&operator, "SHOW SERVERS", "close_needed", "1", "state").await, None);
    drop(inside);

    // The process, when the last client has gone.
    let busy = connect(&served.dsn(0)).await;
    busy.batch_execute("SELECT 1").await.expect("it answers");
    operator.batch_execute("SHUTDOWN WAIT_FOR_CLIENTS").await.expect("it does");
    let port = served.proxy_port(0);
    let is_closed = || std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).is_err();
    assert!(wait_until(PATIENCE, is_closed), "nobody is accepted");
    busy.batch_execute("INSERT INTO visits VALUES (2, 2)").await.expect("it goes on");
    let mut old = served.replace_proxy(0, None);
    assert!(old.try_wait().expect("it is our child").is_none());
    drop((busy, operator));
    assert!(ended(&mut old).success());

    // When transactions have ended; and at once.
    for (command, outcome) in [("SHUTDOWN WAIT_FOR_SERVERS", Ok(())), ("SHUTDOWN", Err("57P01"))] {
        served.start_proxy(0);
        let_operator_in(&served);
        let operator = connect(&console).await;
        let (idle, idle_ended) = watched(&served.dsn(0)).await;
        let (busy, busy_ended) = watched(&served.dsn(0)).await;
        idle.batch_execute("SELECT 1").await.expect("it answers");
        busy.batch_execute(begun).await.expect("it is open");
        operator.batch_execute(command).await.expect("it does");
        assert_eq!(told(idle_ended).await, "57P01", "{command}");
        match outcome {
            Ok(()) => busy.batch_execute("COMMIT").await.expect("it comes to its end"),
            Err(code) => assert_eq!(told(busy_ended).await, code),
        }
        let mut old = served.replace_proxy(0, None);
        assert!(ended(&mut old).success(), "{command}");
    }
    served.start_proxy(0);
    assert_eq!(served.psql("SELECT count(*) FROM visits WHERE tenant = 1"), "1");
}

/// Lists the role in `admin.users`, of which a proxy that was just started has none.
fn let_operator_in(served: &Served) {
    let file = served.config_file(0);
    let text = std::fs::read_to_string(&file).expect("it was written");
    let times = || served.logged(0).matches("admin.users").count();
    let before = times();
    std::fs::write(&file, text.replace("[admin]", "[admin]\nusers = [\"postgres\"]"))
        .expect("the folder can be written");
    served.signal_proxy(0, "HUP");
    assert!(wait_until(PATIENCE, || times() > before), "{}", served.logged(0));
}

/// Of the row of a table of the admin database whose column `key` is `value`, the column `wanted`.
/// As the client itself is told of it, whoever has set it and whatever became of that.
async fn operators_are_shown_the_name_that_holds(served: &Served, operator: &tokio_postgres::Client) {
    let body = "BEGIN PERFORM set_config('application_name', 'by code', false); RETURN 1; END";
    served.psql(&format!("CREATE FUNCTION renames() RETURNS int LANGUAGE plpgsql AS $$ {body} $$"));
    let client = connect(&format!("{}?application_name=first", served.dsn(0))).await;
    for (sql, name) in [
        ("SELECT 1", "first"),
        ("SET application_name = 'second'", "second"),
        ("BEGIN; SET application_name = 'third'", "third"),
        ("ROLLBACK", "second"),
        ("BEGIN; SET LOCAL application_name = 'third'; COMMIT", "second"),
        ("SELECT renames() FROM visits WHERE tenant = 1", "second"),
        ("SELECT renames()", "by code"),
        ("DISCARD ALL", "first"),
        ("BEGIN; SELECT renames(); ROLLBACK", "first"),
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let shown = field(operator, "SHOW CLIENTS", "application_name", name, "id").await;
        assert!(shown.is_some(), "{name} behind {sql}");
    }
}

async fn field(operator: &tokio_postgres::Client, show: &str, key: &str, value: &str, wanted: &str) -> Option<String> {
    use tokio_postgres::SimpleQueryMessage::Row;
    let answer = operator.simple_query(show).await.expect("it is shown");
    answer.iter().find_map(|message| match message {
        Row(row) if row.get(key) == Some(value) => row.get(wanted).map(str::to_owned),
        _ => None,
    })
}

async fn refused(operator: &tokio_postgres::Client, command: &str) -> String {
    let error = operator.batch_execute(command).await.expect_err("it is refused");
    error.code().expect("by the proxy").code().to_owned()
}

/// Connects, commits one row, goes, until `stop`; counts its connections. The number of rows; panics at any error.
async fn come_and_go(dsn: String, tenant: i32, stop: Arc<Stop>, connected: Arc<AtomicUsize>) -> usize {
    let mut committed = 0;
    while !stop.is_set() {
        let client = connect(&dsn).await;
        connected.fetch_add(1, Ordering::SeqCst);
        client
            .execute("INSERT INTO visits VALUES ($1, $2)", &[&tenant, &(committed as i32)])
            .await
            .expect("it commits");
        committed += 1;
    }
    committed
}

type Watched = tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>;

/// A session, and what its connection ends with.
async fn watched(dsn: &str) -> (tokio_postgres::Client, Watched) {
    let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.expect("it can be reached");
    (client, tokio::spawn(connection))
}

/// The SQLSTATE that a session was ended with.
async fn told(connection: Watched) -> String {
    let ended = tokio::time::timeout(PATIENCE, connection).await.expect("it ends").expect("it does not panic");
    ended.expect_err("it is told why").code().expect("by the proxy").code().to_owned()
}

fn ended(process: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    let end = wait_until(PATIENCE, || {
        status = process.try_wait().expect("it is our child");
        status.is_some()
    });
    if !end {
        let _ = process.kill();
        let _ = process.wait();
    }
    status.expect("it ends by itself")
}
