//! Shards move, driven by one proxy, while clients work through another one over the same catalog.

mod support;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "protocol/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use support::served::{Served, Stop};
use support::wait_until;
use support::wire_client::Client as Session;
use wire::{Wire, frame};

/// Keys of `ledger`, and what was written there.
type Rows = Vec<((i64, i64), i64)>;

const PATIENCE: Duration = Duration::from_secs(60);
/// Who moves.
const TENANT: i64 = 7;
const MOVES: usize = 8;
/// Local tables that are distributed.
const TABLES: i64 = 6;
/// More than a COPY keeps back: the first rows are at their server while others have yet to come.
const COPIED: i64 = 20;

/// Goal: transactions of several tenants, COPY and UPDATEs over all shards, none of which can be repeated once a part of them
/// is done, notice nothing of moves that another proxy drives; nothing acknowledged is missing or there twice.
/// Method: clients of proxy 1 use both workers before they come to the tenant that proxy 0 moves to and fro.
#[test]
fn clients_of_the_proxy_that_does_not_drive_notice_nothing() {
    clients_notice_nothing_of_moves("auto");
}

/// Goal: the same of moves that keep writes waiting.
#[test]
fn clients_of_the_proxy_that_does_not_drive_wait_for_moves_that_block_writes() {
    clients_notice_nothing_of_moves("block_writes");
}

fn clients_notice_nothing_of_moves(mode: &str) {
    let stage = Stage::set();
    let works: [Work; 4] = [transaction, copy, update_everywhere, look_first];
    let others = stage.others;
    let clients = works.map(|work| move |wire: &mut Wire, id| work(wire, others, id));
    let clients = Client::start_all(&stage.served, &stage.stop, clients);
    for number in 0..MOVES {
        await_rounds(&clients, number);
        stage.served.psql(&stage.move_to_the_other_by(mode));
    }
    stage.stop.set();
    assert_eq!(stage.rows(), written_without_an_error(clients));
}

/// Goal: who waits for a move that keeps writes waiting does so for as long as his `lock_timeout` and `statement_timeout` say, whoever
/// has set them; who has set none waits for its end.
/// Method: a slow move; clients of the other proxy that have used another shard, so that they wait in the proxy, not for a lock.
#[test]
fn a_wait_for_a_move_that_blocks_writes_ends_when_the_client_says() {
    let mut served = Served::start_with(2, 2, "[moves]\ncopy_rate = \"64kB\"\n");
    served.start_proxy(1);
    let tenants = served.tenants();
    let (other, moving) = (&tenants[0], &tenants[1]);
    served.psql("CREATE TABLE papers (tenant int, paper text)");
    served.psql("SELECT create_distributed_table('papers', 'tenant', colocate_with => 'items')");
    served.psql(&format!("INSERT INTO papers SELECT {moving}, repeat('x', 1000) || i FROM generate_series(1, 3000) i"));
    served.psql("CREATE ROLE hasty LOGIN; GRANT ALL ON items TO hasty; ALTER ROLE hasty SET lock_timeout = '200ms'");
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {moving})"));
    let (from, to) = (served.worker_port(1), served.worker_port(0));
    let sql =
        format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to}, 'block_writes')");
    let dsn = served.dsn(0);
    let driving = std::thread::spawn(move || support::psql(&dsn, &sql));
    let copies = "SELECT count(*) FROM tenantry.shard_move WHERE bytes_copied > 0 AND finished_at IS NULL";
    let is_copied = || support::psql(&served.coordinator_dsn(), copies) == "1";
    assert!(wait_until(PATIENCE, is_copied), "it copies");

    let update = "UPDATE items SET id = id + 1 WHERE tenant = $1";
    let connect = |user| Session::connect(served.proxy_port(1), &[("user", user)]);
    let mut hasty = [connect("hasty"), connect("postgres"), connect("postgres")];
    hasty[1].query("SET lock_timeout = '200ms'");
    hasty[2].query("SET statement_timeout = '200ms'");
    for (client, code) in hasty.iter_mut().zip(["55P03", "55P03", "57014"]) {
        for is_prepared in [false, true] {
            client.query("BEGIN");
            let mut run = |tenant: &str| match is_prepared {
                false => client.query(&update.replace("$1", tenant)),
                true => client.run_prepared("", update, &[Some(tenant)]),
            };
            let said = run(other);
            assert!(said.ends_with("C(UPDATE 1) Z(T)"), "{said}");
            let said = run(moving);
            assert!(said.ends_with(&format!("E({code}) Z(E)")), "{said}");
            assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
        }
        assert_eq!(client.query("UPDATE items SET id = id + 1"), format!("E({code}) Z(I)"));
    }
    let mut patient = connect("postgres");
    patient.query("BEGIN");
    patient.query(&update.replace("$1", other));
    patient.send(&update.replace("$1", moving));
    assert!(is_copied(), "the move goes on");
    for proxy in [0, 1] {
        let file = served.config_file(proxy);
        let text = std::fs::read_to_string(&file).expect("it was written").replace("64kB", "0B");
        std::fs::write(&file, text).expect("it can be written");
        served.signal_proxy(proxy, "HUP");
    }
    driving.join().expect("it ends");
    assert_eq!(patient.answer(), "C(UPDATE 1) Z(T)");
    assert_eq!(patient.query("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(served.psql("SELECT string_agg(id::text, ' ') FROM items"), "2 2");
}

/// Goal: writers are slowed down by a move that cannot follow them also where another proxy serves them, and by nobody once it follows.
/// Method: changes are applied slowly; clients of proxy 1 alone write.
#[test]
fn clients_of_the_proxy_that_does_not_drive_are_slowed_down_with_the_others() {
    let mut served = Served::start_with(2, 2, "[moves]\nchange_rate = \"64kB\"\n");
    served.start_proxy(1);
    let tenants = served.tenants();
    served.psql("CREATE TABLE papers (tenant int, id bigint, paper text, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('papers', 'tenant', colocate_with => 'items')");
    let (stop, moving) = (Arc::<Stop>::default(), tenants[1].clone());
    let writer = {
        let (stop, port) = (stop.clone(), served.proxy_port(1));
        std::thread::spawn(move || {
            let mut client = Session::connect(port, &[]);
            let mut count = 0;
            while !stop.is_set() {
                count += 1;
                let said = client.query(&format!("INSERT INTO papers VALUES ({moving}, {count}, repeat('x', 5000))"));
                assert_eq!(said, "C(INSERT 0 1) Z(I)");
                // More than is applied, but not so much more that the first marker never comes.
                std::thread::sleep(Duration::from_millis(20));
            }
            count
        })
    };
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {})", tenants[1]));
    let (dsn, sql) = (served.dsn(0), format!("SELECT citus_move_shard_placement({shard}, 2, 1)"));
    let driving = std::thread::spawn(move || support::psql(&dsn, &sql));
    let told = |sample: &str| Served::metric(&served.metrics(1), sample).unwrap_or_default();
    let phase = "SELECT phase FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1";
    let phase = || support::psql(&served.coordinator_dsn(), phase);
    // A cutover is one hold; this is before any.
    let is_slowed_down = || told("tenantry_hold_seconds_count") > 20.0;
    assert!(wait_until(PATIENCE, is_slowed_down), "{} holds, {}", told("tenantry_hold_seconds_count"), phase());
    assert!(told("tenantry_hold_wait_seconds_count") > 10.0, "its clients wait for them");
    let phase = phase();
    assert!(["Catching Up", "Creating Foreign Keys", "Final Catchup"].contains(&&*phase), "{phase}");
    for proxy in [0, 1] {
        let file = served.config_file(proxy);
        let text = std::fs::read_to_string(&file).expect("it was written").replace("64kB", "0B");
        std::fs::write(&file, text).expect("it can be written");
        served.signal_proxy(proxy, "HUP");
    }
    driving.join().expect("it moves");
    let left = "SELECT count(*) FROM tenantry.hold";
    assert!(wait_until(PATIENCE, || support::psql(&served.coordinator_dsn(), left) == "0"), "nothing is asked for");
    assert!(wait_until(PATIENCE, || told("tenantry_holds") == 0.0), "nobody is held");
    let before = told("tenantry_hold_seconds_count");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(told("tenantry_hold_seconds_count"), before);
    stop.set();
    let count: i64 = writer.join().expect("no write fails");
    let rows = served.psql(&format!("SELECT count(*), count(DISTINCT id) FROM papers WHERE tenant = {}", tenants[1]));
    assert_eq!(rows, format!("{count}|{count}"));
}

/// Goal: what cannot be repeated notices nothing while another proxy distributes the local table that it writes: a COPY, and a
/// transaction that has used the coordinator before; nothing acknowledged is missing or there twice.
/// Method: clients of proxy 1 write table after table, each of which proxy 0 distributes meanwhile.
#[test]
fn clients_of_the_proxy_that_does_not_drive_wait_while_a_table_is_distributed() {
    let mut served = Served::start_with(2, 2, "");
    served.start_proxy(1);
    served.psql("CREATE TABLE journal (id bigint)");
    let (stop, round) = (Arc::<Stop>::default(), Arc::new(AtomicI64::new(0)));
    let works: [LocalWork; 4] = [journal_first, journal_first_by_messages, copy_local, insert_local];
    for number in 0..TABLES {
        served.psql(&format!("CREATE TABLE events_{number} (tenant bigint, id bigint, PRIMARY KEY (tenant, id))"));
    }
    let works = works.map(|work| {
        let round = round.clone();
        move |wire: &mut Wire, id| work(wire, round.load(Ordering::SeqCst), id)
    });
    let clients = Client::start_all(&served, &stop, works);
    for number in 0..TABLES {
        await_rounds(&clients, number);
        served.psql(&format!(
            "SELECT create_distributed_table_concurrently('events_{number}', 'tenant', shard_count => 4)"
        ));
        await_rounds(&clients, number);
        round.fetch_add(1, Ordering::SeqCst);
        if number + 1 == TABLES {
            stop.set();
        }
    }
    let written = written_without_an_error(clients);
    let rows = (0..TABLES).flat_map(|number| {
        let rows = rows_of(&served, &format!("SELECT {number} || ' ' || id || ' 1' FROM events_{number}"));
        let shell = format!("SELECT count(*) FROM ONLY events_{number}");
        assert_eq!(support::psql(&served.coordinator_dsn(), &shell), "0");
        rows
    });
    assert_eq!(rows.collect::<BTreeMap<_, _>>(), written);
}

fn await_rounds<T: std::fmt::Display>(clients: &[Client], number: T) {
    let before = clients.iter().map(|client| client.rounds()).collect::<Vec<_>>();
    let goes_on = || clients.iter().zip(&before).all(|(client, before)| client.rounds() > before + 2);
    assert!(wait_until(PATIENCE, goes_on), "a client stands still at {number}");
}

/// How often each row was.
fn written_without_an_error(clients: Vec<Client>) -> BTreeMap<(i64, i64), i64> {
    let ended: Vec<Told> = clients.into_iter().map(Client::end).collect();
    let errors: Vec<_> = ended.iter().flat_map(|told| &told.errors).collect();
    assert!(errors.is_empty(), "{} errors: {errors:?}", errors.len());
    assert!(ended.iter().all(|told| told.rows.len() > 3), "all have written");
    let mut written = BTreeMap::new();
    ended.iter().flat_map(|told| &told.rows).for_each(|(row, n)| *written.entry(*row).or_default() += n);
    written
}

/// Goal: statements that a cut-over holds go on in the order in which they came.
/// Method: proxy 0 is frozen while proxy 1 holds at its wish. Clients of proxy 1, which has one connection to each worker, ask one
/// after the other, and are told which of them came first, second and so on.
#[test]
fn held_statements_go_on_in_the_order_in_which_they_came() {
    let stage = Stage::set_with(1, "[pool]\nsize = 1\n");
    let update = format!("UPDATE ledger SET n = n + 1 WHERE tenant = {TENANT} AND id = 0 RETURNING n");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Wire::login(stage.served.proxy_port(1), "postgres")).collect();
    for client in &mut clients {
        client.send(&[frame(&format!("P s : {update}")), frame("S")].concat());
        assert_eq!(client.answers_until("Z"), ["1", "Z I"]);
    }
    clients[0].query(&format!("INSERT INTO ledger VALUES ({TENANT}, 0, 0)"));
    // Keeps the cut-over from its end. It has written nothing, so the copy does not wait for it.
    let mut reader = Wire::login(stage.served.worker_port(stage.home()), "postgres");
    reader.query(&format!("BEGIN; SELECT count(*) FROM public_{}.ledger", stage.shard));
    let moving = {
        let (dsn, sql) = (stage.served.dsn(0), stage.move_to_the_other());
        std::thread::spawn(move || support::psql(&dsn, &sql))
    };
    let coordinator = stage.served.coordinator_dsn();
    let asks = "SELECT count(*) FROM tenantry.hold WHERE shard_groups <> '{}'";
    let is_held = || {
        Served::metric(&stage.served.metrics(1), "tenantry_holds") == Some(1.0)
            && support::psql(&coordinator, asks) == "1"
    };
    let is_frozen = || {
        assert!(!moving.is_finished(), "the reader keeps it waiting");
        if !is_held() {
            return false;
        }
        stage.served.signal_proxy(0, "STOP");
        // It may have ended just before.
        if is_held() {
            return true;
        }
        stage.served.signal_proxy(0, "CONT");
        false
    };
    assert!(wait_until(PATIENCE, is_frozen), "proxy 1 holds");
    for (number, client) in clients.iter_mut().enumerate() {
        match number % 2 {
            0 => client.send(&frame(&format!("Q {update}"))),
            _ => client.send(&[frame("B - s"), frame("E - 0"), frame("S")].concat()),
        }
        assert!(client.is_quiet_for(Duration::from_millis(20)), "statement {number} is held");
    }
    reader.query("COMMIT");
    stage.served.signal_proxy(0, "CONT");
    for (number, client) in (1..).zip(&mut clients) {
        let answer = client.answers_until("Z");
        assert!(answer.contains(&format!("D {number}")), "{number}: {answer:?}");
    }
    moving.join().expect("it moves");
}

const CLIENTS: usize = 12;

struct Stage {
    served: Served,
    shard: String,
    /// Tenants of another shard group on each worker.
    others: [i64; 2],
    stop: Arc<Stop>,
}

impl Stage {
    fn set() -> Self {
        Self::set_with(2, "")
    }

    fn set_with(threads: u16, config: &'static str) -> Self {
        let mut served = Served::start_with(2, threads, config);
        served.start_proxy(1);
        served.psql("CREATE TABLE ledger (tenant bigint, id bigint, n bigint, note text, PRIMARY KEY (tenant, id))");
        served.psql("SELECT create_distributed_table('ledger', 'tenant', shard_count => 4)");
        let shard_of =
            |tenant: i64| served.psql(&format!("SELECT get_shard_id_for_distribution_column('ledger', {tenant})"));
        let shard = shard_of(TENANT);
        let others = [0, 1].map(|worker| {
            let home = served.worker_port(worker).to_string();
            let is_there = |tenant: &i64| {
                let of = shard_of(*tenant);
                let port = format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {of}");
                of != shard && served.psql(&port) == home
            };
            (1..100).find(is_there).expect("two groups on each worker")
        });
        Self { served, shard, others, stop: Arc::default() }
    }

    /// The number of the worker that has the tenant.
    fn home(&self) -> u16 {
        let sql = format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {}", self.shard);
        self.served.psql(&sql).parse::<u16>().expect("a port") - self.served.worker_port(0)
    }

    fn move_to_the_other(&self) -> String {
        self.move_to_the_other_by("auto")
    }

    fn move_to_the_other_by(&self, mode: &str) -> String {
        let home = self.home();
        let (from, to) = (self.served.worker_port(home), self.served.worker_port(1 - home));
        format!("SELECT citus_move_shard_placement({}, '127.0.0.1', {from}, '127.0.0.1', {to}, '{mode}')", self.shard)
    }

    /// What is there: tenant and id, with how often it was written.
    fn rows(&self) -> BTreeMap<(i64, i64), i64> {
        rows_of(&self.served, "SELECT tenant || ' ' || id || ' ' || n FROM ledger")
    }
}

fn rows_of(served: &Served, sql: &str) -> BTreeMap<(i64, i64), i64> {
    let lines = served.psql(sql);
    let rows = lines.lines().map(|line| {
        let mut numbers = line.split(' ').map(|number| number.parse::<i64>().expect("a number"));
        let mut next = || numbers.next().expect("three numbers");
        ((next(), next()), next())
    });
    rows.collect()
}

/// One round; `id` is nobody else's.
type Work = fn(&mut Wire, [i64; 2], i64) -> Result<Rows, String>;

/// The same with a local table, of that number.
type LocalWork = fn(&mut Wire, i64, i64) -> Result<Rows, String>;

/// A client at work.
struct Client {
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Told>,
}

/// What a client was told.
#[derive(Default)]
struct Told {
    /// How often rows were written.
    rows: Rows,
    errors: Vec<String>,
}

impl Client {
    /// Through proxy 1. A work gets an id that is nobody else's.
    fn start_all<W>(served: &Served, stop: &Arc<Stop>, works: impl IntoIterator<Item = W>) -> Vec<Self>
    where
        W: Fn(&mut Wire, i64) -> Result<Rows, String> + Send + 'static,
    {
        works.into_iter().zip(0..).map(|(work, number)| Self::start(served, stop, work, number)).collect()
    }

    fn start<W>(served: &Served, stop: &Arc<Stop>, work: W, number: i64) -> Self
    where
        W: Fn(&mut Wire, i64) -> Result<Rows, String> + Send + 'static,
    {
        let mut wire = Wire::login(served.proxy_port(1), "postgres");
        let (rounds, stop) = (Arc::new(AtomicU64::new(0)), stop.clone());
        let counted = rounds.clone();
        let thread = std::thread::spawn(move || {
            let mut told = Told::default();
            for round in 0.. {
                if stop.is_set() {
                    break;
                }
                match work(&mut wire, number * 1_000_000 + round * COPIED) {
                    Ok(rows) => told.rows.extend(rows),
                    Err(error) => {
                        told.errors.push(error);
                        wire.query("ROLLBACK");
                    }
                }
                counted.fetch_add(1, Ordering::SeqCst);
                // The servers need the processors too.
                std::thread::sleep(Duration::from_millis(30));
            }
            told
        });
        Self { rounds, thread }
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::SeqCst)
    }

    fn end(self) -> Told {
        self.thread.join().expect("its session goes on")
    }
}

fn run(wire: &mut Wire, statements: &[String]) -> Result<(), String> {
    for sql in statements {
        let answer = wire.query(sql);
        if answer.iter().any(|said| said.starts_with("E ")) {
            return Err(format!("{sql}: {answer:?}"));
        }
    }
    Ok(())
}

fn insert(tenant: i64, id: i64) -> String {
    format!("INSERT INTO ledger VALUES ({tenant}, {id}, 1)")
}

/// Five statements; the tenant comes last.
fn transaction(wire: &mut Wire, [a, b]: [i64; 2], id: i64) -> Result<Rows, String> {
    let update = format!("UPDATE ledger SET n = n + 1 WHERE tenant = {TENANT} AND id = {id}");
    let read = format!("SELECT n FROM ledger WHERE tenant = {a} AND id = {id}");
    let all = ["BEGIN".to_owned(), insert(a, id), insert(b, id), read, insert(TENANT, id), update, "COMMIT".to_owned()];
    run(wire, &all)?;
    Ok(vec![((a, id), 1), ((b, id), 1), ((TENANT, id), 2)])
}

/// Nothing is written before the tenant.
fn look_first(wire: &mut Wire, [a, b]: [i64; 2], id: i64) -> Result<Rows, String> {
    let read = |tenant: i64| format!("SELECT n FROM ledger WHERE tenant = {tenant} AND id = {id}");
    run(wire, &["BEGIN".to_owned(), read(a), read(b), insert(TENANT, id), "COMMIT".to_owned()])?;
    Ok(vec![((TENANT, id), 1)])
}

/// The tenant's rows come behind others of both workers.
fn copy(wire: &mut Wire, [a, b]: [i64; 2], first: i64) -> Result<Rows, String> {
    wire.send(&frame("Q COPY ledger FROM STDIN"));
    let mut rows = Vec::new();
    for tenant in [a, b, TENANT] {
        let lines = (first..first + COPIED).map(|id| format!("{tenant}\t{id}\t1\t{}\n", "x".repeat(8000)));
        wire.send(&wire::message(b'd', lines.collect::<String>().as_bytes()));
        rows.extend((first..first + COPIED).map(|id| ((tenant, id), 1)));
    }
    wire.send(&frame("c"));
    let answer = wire.answers_until("Z");
    match answer.iter().any(|said| said.starts_with("E ")) {
        true => Err(format!("COPY: {answer:?}")),
        false => Ok(rows),
    }
}

/// By itself, and in a transaction that has used both workers.
fn update_everywhere(wire: &mut Wire, [a, b]: [i64; 2], id: i64) -> Result<Rows, String> {
    let update = format!("UPDATE ledger SET n = n + 1 WHERE id = {id}");
    let read = |tenant: i64| format!("SELECT count(*) FROM ledger WHERE tenant = {tenant} AND id = {id}");
    run(wire, &[insert(a, id), insert(b, id), insert(TENANT, id), update.clone()])?;
    run(wire, &["BEGIN".to_owned(), read(a), read(b), update, "COMMIT".to_owned()])?;
    Ok([a, b, TENANT].into_iter().map(|tenant| ((tenant, id), 3)).collect())
}

fn insert_event(table: i64, id: i64) -> String {
    format!("INSERT INTO events_{table} VALUES ({}, {id})", id % 7)
}

fn insert_local(wire: &mut Wire, table: i64, id: i64) -> Result<Rows, String> {
    run(wire, &[insert_event(table, id)])?;
    Ok(vec![((table, id), 1)])
}

fn journal_first(wire: &mut Wire, table: i64, id: i64) -> Result<Rows, String> {
    let journal = format!("INSERT INTO journal VALUES ({id})");
    let (first, second) = (insert_event(table, id), insert_event(table, id + 1));
    run(wire, &["BEGIN".to_owned(), journal, first, second, "COMMIT".to_owned()])?;
    Ok(vec![((table, id), 1), ((table, id + 1), 1)])
}

fn journal_first_by_messages(wire: &mut Wire, table: i64, id: i64) -> Result<Rows, String> {
    run(wire, &["BEGIN".to_owned(), format!("INSERT INTO journal VALUES ({id})")])?;
    let parse = frame(&format!("P - : {}", insert_event(table, id)));
    wire.send(&[parse, frame("B - -"), frame("E - 0"), frame("S")].concat());
    let answer = wire.answers_until("Z");
    if answer.iter().any(|said| said.starts_with("E ")) {
        return Err(format!("Execute: {answer:?}"));
    }
    run(wire, &["COMMIT".to_owned()])?;
    Ok(vec![((table, id), 1)])
}

fn copy_local(wire: &mut Wire, table: i64, first: i64) -> Result<Rows, String> {
    wire.send(&frame(&format!("Q COPY events_{table} FROM STDIN")));
    let lines = (first..first + COPIED).map(|id| format!("{}\t{id}\n", id % 7));
    wire.send(&wire::message(b'd', lines.collect::<String>().as_bytes()));
    wire.send(&frame("c"));
    let answer = wire.answers_until("Z");
    match answer.iter().any(|said| said.starts_with("E ")) {
        true => Err(format!("COPY: {answer:?}")),
        false => Ok((first..first + COPIED).map(|id| ((table, id), 1)).collect()),
    }
}
