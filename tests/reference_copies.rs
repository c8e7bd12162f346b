//! A node is added while clients write reference tables: nobody fails, nothing is lost, whoever dies.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use support::served::{Served, Stop};
use support::wire_client::Client;
use support::{psql, psql_command, signal, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);
/// Slow enough for whatever is to happen meanwhile.
const SLOW: &str = "[moves]\ncopy_rate = \"64kB\"\n";
const COPYING: &str = "SELECT count(*) FROM tenantry.shard_move WHERE phase = 'Copying Data' AND bytes_copied > 0";
const LEFT: &str = "SELECT 'slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'tenantry\\_move%'
    UNION ALL SELECT 'identity ' || relname FROM pg_class WHERE relreplident = 'f'";
/// Of the three tables.
const LOCKED: &str = "SELECT count(*) FROM pg_locks JOIN pg_class c ON c.oid = relation
    WHERE relname IN ('countries', 'cities', 'notes') AND relkind = 'r' AND mode = 'ExclusiveLock' AND granted";
const COMMIT_WHEN_WAITED_FOR: &str = "DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'notes'::regclass AND NOT granted) LOOP
        PERFORM pg_sleep(0.005);
    END LOOP; END $$; COMMIT";
const COPIES: &str = "SELECT count(*) FROM pg_class WHERE relname IN ('countries', 'cities', 'notes')";
const TABLES: [&str; 3] = ["countries", "cities", "notes"];

/// One worker is a node, the other will be.
struct Stage {
    served: Served,
    port: u16,
}

impl Stage {
    fn set() -> Self {
        Self::set_with(SLOW)
    }

    /// With this of the proxies' configuration, whenever one is started.
    fn set_with(config: &'static str) -> Self {
        let mut served = Served::start_with(1, 2, config);
        served.start_proxy(1);
        let port = served.servers().add_worker().expect("it starts").port();
        served.psql("CREATE TABLE countries (id int PRIMARY KEY, name text NOT NULL)");
        served.psql("CREATE TABLE cities (id int PRIMARY KEY, country int NOT NULL REFERENCES countries)");
        served.psql("CREATE TABLE notes (note text)");
        served.psql("CREATE TABLE orders (tenant int, id int, city int REFERENCES cities, PRIMARY KEY (tenant, id))");
        for table in TABLES {
            served.psql(&format!("SELECT create_reference_table('{table}')"));
        }
        served.psql("SELECT create_distributed_table('orders', 'tenant', shard_count => 4)");
        served.psql("INSERT INTO countries SELECT i, repeat('x', 200) || i FROM generate_series(-10000, -1) i");
        served.psql("INSERT INTO cities SELECT i, i FROM generate_series(-1000, -1) i");
        Self { served, port }
    }

    fn add(&self) -> String {
        format!("SELECT citus_add_node('127.0.0.1', {})", self.port)
    }

    /// Through the first proxy; answers what psql says, and whether it succeeded.
    fn begin_to_add(&self) -> JoinHandle<(bool, String)> {
        let (dsn, add) = (self.served.dsn(0), self.add());
        std::thread::spawn(move || {
            let output = psql_command(&dsn).args(["-c", &add]).output().expect("psql runs");
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        })
    }

    fn coordinator(&self, sql: &str) -> String {
        psql(&self.served.coordinator_dsn(), sql)
    }

    fn await_copying(&self) {
        assert!(wait_until(PATIENCE, || self.coordinator(COPYING) == "1"), "{}", self.moves());
    }

    fn moves(&self) -> String {
        self.coordinator("SELECT moveid, state, phase, bytes_copied, error FROM tenantry.shard_move ORDER BY moveid")
    }

    /// As fast as it goes, from now on.
    fn let_go(&self) {
        for proxy in [0, 1] {
            let file = self.served.config_file(proxy);
            let text = std::fs::read_to_string(&file).expect("it was written").replace("\"64kB\"", "\"0B\"");
            std::fs::write(&file, text).expect("it can be written");
            self.served.signal_proxy(proxy, "HUP");
        }
    }

    fn server(&self) -> String {
        support::dsn(self.port)
    }

    fn nodes(&self) -> String {
        psql(&self.served.dsn(1), "SELECT count(*) FROM pg_dist_node")
    }

    /// The first one, killed.
    fn restart_proxy(&mut self) {
        signal(self.served.proxy_pid(0), "KILL");
        self.served.kill_proxy(0);
        self.served.start_proxy(0);
    }

    fn await_nothing_left(&self, when: &str) {
        let is_over = || {
            self.coordinator("SELECT count(*) FROM tenantry.shard_move WHERE finished_at IS NULL") == "0"
                && [self.served.coordinator_dsn(), self.server()].iter().all(|dsn| psql(dsn, LEFT).is_empty())
        };
        assert!(
            wait_until(Duration::from_secs(30), is_over),
            "{when}: {} {}",
            self.moves(),
            psql(&self.server(), LEFT)
        );
    }

    fn expect_equal_copies(&self) {
        for table in TABLES {
            let rows = format!("SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t");
            let on_coordinator = self.coordinator(&rows);
            for dsn in [self.served.worker_dsn(0), self.server()] {
                assert_eq!(psql(&dsn, &rows), on_coordinator, "{table} on {dsn}");
            }
        }
    }
}

/// Clients that write reference tables until they are told to stop; the first failure is theirs.
struct Writers {
    stop: Arc<Stop>,
    rounds: Arc<AtomicU32>,
    threads: Vec<JoinHandle<u32>>,
}

impl Writers {
    fn start(served: &Served) -> Self {
        let (stop, rounds): (Arc<Stop>, Arc<AtomicU32>) = Default::default();
        let write = |writer: u32| {
            let (stop, rounds, port) = (stop.clone(), rounds.clone(), served.proxy_port(writer as usize % 2));
            std::thread::spawn(move || {
                let mut client = Client::connect(port, &[]);
                let mut round = 0;
                while !stop.is_set() {
                    let id = writer * 1_000_000 + round;
                    for (sql, done) in [
                        (format!("INSERT INTO countries VALUES ({id}, 'new')"), "INSERT 0 1"),
                        (
                            format!(
                                "BEGIN; INSERT INTO cities VALUES ({id}, {id}); INSERT INTO notes VALUES ('{id}'); COMMIT"
                            ),
                            "COMMIT",
                        ),
                        (
                            format!(
                                "UPDATE countries SET name = name || '!' WHERE id IN ({id}, -{})",
                                round % 9000 + 1
                            ),
                            "UPDATE 2",
                        ),
                        (format!("UPDATE notes SET note = note || '!' WHERE note = '{id}'"), "UPDATE 1"),
                        (format!("DELETE FROM notes WHERE note = '{id}!' AND {id} % 3 = 0"), "DELETE"),
                    ] {
                        let answer = client.query(&sql);
                        assert!(answer.contains(done) && !answer.contains("E("), "{sql}: {answer}");
                    }
                    round += 1;
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
                round
            })
        };
        let threads = (0..4).map(write).collect();
        Self { stop, rounds, threads }
    }

    /// Returns when more has been written.
    fn await_progress(&self) {
        let before = self.rounds.load(Ordering::SeqCst);
        let is_written =
            || self.rounds.load(Ordering::SeqCst) > before + 8 || self.threads.iter().any(JoinHandle::is_finished);
        assert!(wait_until(PATIENCE, is_written), "nobody writes");
    }

    /// Answers how many rounds were acknowledged.
    fn end(self) -> u32 {
        self.stop.set();
        self.threads.into_iter().map(|thread| thread.join().expect("no write fails")).sum()
    }
}

/// Goal: clients write reference tables, with a key or without, all the time that a node is added, and it has all of it.
/// Method: the copy goes on for as long as it is made to; writes through two proxies are acknowledged meanwhile.
#[test]
fn reference_tables_are_written_while_they_are_copied() {
    let stage = Stage::set();
    let writers = Writers::start(&stage.served);
    writers.await_progress();
    // The next value of each sequence is written down.
    stage.coordinator("CHECKPOINT");
    let adding = stage.begin_to_add();
    stage.await_copying();
    writers.await_progress();
    assert_eq!(stage.coordinator(COPYING), "1", "it is not over yet: {}", stage.moves());
    // A schema change waits for its turn, and nobody behind it.
    let (dsn, alter) = (stage.served.dsn(1), "ALTER TABLE cities ADD COLUMN size int NOT NULL DEFAULT 7");
    let altering = std::thread::spawn(move || psql(&dsn, alter));
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    assert!(wait_until(PATIENCE, || stage.coordinator(waits) == "1"), "it waits");
    writers.await_progress();
    assert_eq!(stage.coordinator(COPYING), "1", "it is not over yet: {}", stage.moves());
    stage.let_go();
    let (is_added, said) = adding.join().expect("psql ends");
    assert!(is_added, "{said}");
    assert!(said.contains("NOTICE") && said.contains("notes has no replica identity"), "{said}");
    altering.join().expect("its turn comes");
    writers.await_progress();
    let rounds = writers.end();
    stage.await_nothing_left("added");
    assert_eq!(stage.served.psql("SELECT count(*) FROM countries WHERE id >= 0"), rounds.to_string());
    assert_eq!(
        stage.served.psql("SELECT count(*), count(size) FROM cities WHERE id >= 0"),
        format!("{rounds}|{rounds}")
    );
    stage.expect_equal_copies();
    let applied = "SELECT state, rows_applied > 0, hold_microseconds > 0 FROM tenantry.shard_move";
    assert_eq!(stage.coordinator(applied), "done|t|t");

    // Foreign keys hold there, among reference tables and from shards.
    let refused = support::psql_error(&stage.server(), "INSERT INTO cities VALUES (9000000, 9000000)");
    assert!(refused.contains("23503"), "{refused}");
    stage.served.psql("SELECT rebalance_table_shards('orders')");
    let placed = format!(
        "SELECT count(*) FROM pg_dist_shard_placement WHERE nodeport = {} AND shardid IN (SELECT shardid FROM pg_dist_shard WHERE logicalrelid = 'orders'::regclass)",
        stage.port
    );
    assert_eq!(stage.served.psql(&placed), "2");
    stage.served.psql("INSERT INTO orders SELECT t, t, -t FROM generate_series(1, 50) t");
    for tenant in 1..=20 {
        let refused =
            support::psql_error(&stage.served.dsn(0), &format!("INSERT INTO orders VALUES ({tenant}, 0, 9000000)"));
        assert!(refused.contains("23503"), "{refused}");
    }
}

/// Goal: a reference table that is being copied to a new node becomes local when that is over; until then everybody reads and writes it.
#[test]
fn a_table_becomes_local_behind_its_copy() {
    let stage = Stage::set();
    let adding = stage.begin_to_add();
    stage.await_copying();
    let (dsn, call) = (stage.served.dsn(1), "SELECT undistribute_table('notes')");
    let calling = std::thread::spawn(move || psql(&dsn, call));
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tenantry.node'::regclass";
    assert!(wait_until(PATIENCE, || stage.coordinator(waits) == "1"), "it waits");
    for proxy in [0, 1] {
        psql(
            &stage.served.dsn(proxy),
            &format!("INSERT INTO notes VALUES ('{proxy}'); UPDATE notes SET note = note || '!'"),
        );
    }
    assert_eq!(stage.served.psql("SELECT string_agg(note, ' ' ORDER BY note) FROM notes"), "0!! 1!");
    assert_eq!(stage.coordinator(COPYING), "1", "it is not over yet: {}", stage.moves());
    stage.let_go();
    let (is_added, said) = adding.join().expect("psql ends");
    assert!(is_added, "{said}");
    calling.join().expect("its turn comes");
    stage.await_nothing_left("added");
    assert_eq!(stage.coordinator("SELECT string_agg(state, ' ') FROM tenantry.shard_move"), "done");
    psql(&stage.served.dsn(1), "INSERT INTO notes VALUES ('later')");
    assert_eq!(stage.coordinator("SELECT string_agg(note, ' ' ORDER BY note) FROM notes"), "0!! 1! later");
    for dsn in [stage.served.worker_dsn(0), stage.server()] {
        let copies = "SELECT string_agg(name, ' ' ORDER BY name) FROM tenantry.reference_copy";
        assert_eq!(psql(&dsn, copies), "cities countries");
        assert_eq!(psql(&dsn, COPIES), "2", "notes are gone from {dsn}");
    }
}

/// Goal: whoever dies in a copy, nothing of it is left half a minute later, and writers have not lost anything.
#[test]
fn who_dies_in_a_copy_leaves_nothing() {
    let mut stage = Stage::set();
    for killed in ["proxy", "target", "coordinator"] {
        let adding = stage.begin_to_add();
        stage.await_copying();
        let insert = format!("INSERT INTO notes VALUES ('{killed}')");
        psql(&stage.served.dsn(1), &insert);
        let port = stage.port;
        match killed {
            "proxy" => signal(stage.served.proxy_pid(0), "KILL"),
            "target" => stage.served.servers().kill_at(port).expect("it ends"),
            _ => stage.served.servers().kill_coordinator().expect("it ends"),
        }
        let (is_added, said) = adding.join().expect("psql ends");
        assert!(!is_added, "{killed}: {said}");
        match killed {
            "proxy" => {
                stage.served.kill_proxy(0);
                stage.served.start_proxy(0);
            }
            "target" => {
                // The coordinator keeps nothing for who is away.
                let is_free = || stage.coordinator(LEFT).is_empty();
                assert!(wait_until(Duration::from_secs(30), is_free), "{}", stage.coordinator(LEFT));
                psql(&stage.served.dsn(1), &insert);
                stage.served.servers().restart_at(port, None).expect("it starts");
            }
            _ => stage.served.servers().restart_coordinator().expect("it starts"),
        }
        stage.await_nothing_left(killed);
        assert_eq!(psql(&stage.server(), COPIES), "0", "{killed}");
        assert_eq!(stage.served.psql("SELECT count(*) FROM pg_dist_node"), "1", "{killed}");
    }
    stage.let_go();
    stage.served.psql(&stage.add());
    stage.await_nothing_left("added");
    assert_eq!(stage.served.psql("SELECT count(*) FROM notes"), "4");
    stage.expect_equal_copies();
}

/// Goal: where tables cannot be followed, they are copied within a lock, and the client is told.
/// Method: a transaction that has written, its own or one that waits for it, would keep the stream from ever beginning.
#[test]
fn a_copy_that_could_not_begin_keeps_writers_waiting_instead() {
    let stage = Stage::set_with("");
    let remove = format!("SELECT citus_remove_node('127.0.0.1', {})", stage.port);
    // What it has written itself nobody else could copy.
    let refused = support::psql_error(
        &stage.served.dsn(0),
        &format!("BEGIN; INSERT INTO notes VALUES ('before'); {}; COMMIT", stage.add()),
    );
    assert!(refused.contains("25001") && refused.contains("Commit it first."), "{refused}");
    let in_a_block = format!("BEGIN; CREATE TABLE local_one (id int); {}; COMMIT", stage.add());
    let output = psql_command(&stage.served.dsn(0)).args(["-c", &in_a_block]).output().expect("psql runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("writes of reference tables wait"), "{said}");
    assert!(said.contains("This transaction has written already."), "{said}");
    stage.expect_equal_copies();
    stage.served.psql(&remove);

    let mut other = Client::connect(stage.served.proxy_port(1), &[]);
    assert_eq!(other.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(other.query("CREATE TABLE colors (id int PRIMARY KEY)"), "C(CREATE TABLE) Z(T)");
    let adding = stage.begin_to_add();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event_type = 'Lock'";
    assert!(wait_until(PATIENCE, || stage.coordinator(waits) == "1"), "{}", stage.moves());
    assert_eq!(other.query("SELECT create_reference_table('colors')"), "T D() C(SELECT 1) Z(T)");
    assert_eq!(other.query("COMMIT"), "C(COMMIT) Z(I)");
    let (is_added, said) = adding.join().expect("psql ends");
    assert!(is_added && said.contains("writes of reference tables wait"), "{said}");
    stage.await_nothing_left("added");
    stage.served.psql("INSERT INTO colors VALUES (1)");
    assert_eq!(psql(&stage.server(), "SELECT count(*) FROM colors"), "1");
    stage.expect_equal_copies();
}

/// Goal: whoever dies between the lock and the commit, the server is a node with all of the copies, or everything is as before, half a
/// minute later; nothing is left over, and writers go on.
/// Method: the node is added in a block, whose client keeps the commit back while somebody is killed.
#[test]
fn who_dies_between_the_lock_and_the_commit_leaves_all_or_nothing() {
    let mut stage = Stage::set_with("");
    let mut has_been_node = false;
    for killed in ["proxy", "client", "commit", "target", "coordinator"] {
        let mut client = Client::connect(stage.served.proxy_port(0), &[]);
        assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)");
        let added = client.query(&stage.add());
        assert!(added.ends_with("C(SELECT 1) Z(T)"), "{killed}: {added}");
        assert_eq!(stage.coordinator(LOCKED), "3", "{killed}");
        assert_eq!(
            stage.coordinator("SELECT state FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1"),
            "caught_up"
        );
        let is_told = match killed {
            "proxy" => {
                stage.restart_proxy();
                false
            }
            "client" => {
                client.leave(true);
                false
            }
            "coordinator" => {
                stage.served.servers().kill_coordinator().expect("it ends");
                let answer = client.query("COMMIT");
                stage.served.servers().restart_coordinator().expect("it starts");
                assert!(answer.contains("E("), "{answer}");
                false
            }
            "commit" => {
                client.send("COMMIT");
                stage.restart_proxy();
                false
            }
            _ => {
                let port = stage.port;
                stage.served.servers().kill_at(port).expect("it ends");
                let answer = client.query("COMMIT");
                stage.served.servers().restart_at(port, None).expect("it starts");
                answer.contains("C(COMMIT)")
            }
        };
        stage.await_nothing_left(killed);
        psql(&stage.served.dsn(1), &format!("INSERT INTO notes VALUES ('{killed}')"));
        let is_node = stage.nodes() == "2";
        println!("{killed}: a node: {is_node}");
        assert!(is_node || !is_told, "{killed}: what was committed is there");
        if is_node {
            stage.expect_equal_copies();
            stage.served.psql(&format!("SELECT citus_remove_node('127.0.0.1', {})", stage.port));
            has_been_node = true;
        } else if !has_been_node {
            assert_eq!(psql(&stage.server(), COPIES), "0", "{killed}");
        }
    }
    stage.served.psql(&stage.add());
    stage.await_nothing_left("added");
    stage.expect_equal_copies();
}

/// Goal: last changes that do not come to the copies in time cost writers a wait, and the copy another attempt.
/// Method: somebody locks a copy on the new server before the last change is committed.
#[test]
fn last_changes_that_come_too_late_are_tried_again() {
    let stage = Stage::set();
    let adding = stage.begin_to_add();
    stage.await_copying();
    // On the servers themselves, so that its end takes no time.
    let mut last = Client::connect(stage.served.coordinator_port, &[]);
    let write = "SET session_replication_role TO replica; INSERT INTO notes VALUES ('last')";
    assert_eq!(last.query(&format!("BEGIN; {write}")), "C(BEGIN) C(SET) C(INSERT 0 1) Z(T)");
    psql(&stage.served.worker_dsn(0), write);
    stage.let_go();
    let caught_up = "SELECT count(*) FROM tenantry.shard_move WHERE state = 'caught_up'";
    assert!(wait_until(PATIENCE, || stage.coordinator(caught_up) == "1"), "{}", stage.moves());
    let mut locker = Client::connect(stage.port, &[]);
    assert_eq!(locker.query("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(locker.query("LOCK TABLE notes"), "C(LOCK TABLE) Z(T)");
    // While the lock is asked for: between two attempts, the next would begin when the change had come through.
    assert_eq!(last.query(COMMIT_WHEN_WAITED_FOR), "C(DO) C(COMMIT) Z(I)");
    assert!(wait_until(PATIENCE, || stage.coordinator(LOCKED) == "3"), "{}", stage.moves());
    let mut writer = Client::connect(stage.served.proxy_port(1), &[]);
    assert_eq!(writer.query("INSERT INTO notes VALUES ('between')"), "C(INSERT 0 1) Z(I)");
    assert!(!adding.is_finished(), "it is not given up: {}", stage.moves());
    assert_eq!(locker.query("COMMIT"), "C(COMMIT) Z(I)");
    let (is_added, said) = adding.join().expect("psql ends");
    assert!(is_added, "{said}");
    stage.await_nothing_left("added");
    stage.expect_equal_copies();
    assert_eq!(stage.coordinator("SELECT state, attempts FROM tenantry.shard_move"), "done|2");
}
