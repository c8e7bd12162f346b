//! What clients have open when their tenant is cut over to another worker, form by form. One cluster, two proxies; each
//! story moves the same shard group once, and leaves it whole.

mod support;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "protocol/wire.rs"]
mod wire;

use std::thread::JoinHandle;
use std::time::Duration;

use support::served::Served;
use support::{psql, psql_error, wait_until};
use wire::{Wire, cancel_packet, frame};

const PATIENCE: Duration = Duration::from_secs(60);
/// What moves, and one that does not.
const TENANT: i64 = 7;
const ROWS: i64 = 3000;

const LEFTOVERS: &str = "SELECT 'slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'tenantry\\_move%'";

struct Stage {
    served: Served,
    shard: String,
    /// Of another shard group on the same worker as the tenant at first.
    bystander: i64,
    /// Of one on the other worker.
    stranger: i64,
}

#[test]
fn clients_with_something_open_meet_a_cutover() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    served.psql("CREATE TABLE ledger (tenant bigint, id bigint, note text, PRIMARY KEY (tenant, id))");
    served.psql("SELECT create_distributed_table('ledger', 'tenant', shard_count => 4)");
    served.psql("CREATE ROLE outsider LOGIN; GRANT ALL ON ledger TO outsider;");
    let shard_of =
        |tenant: i64| served.psql(&format!("SELECT get_shard_id_for_distribution_column('ledger', {tenant})"));
    let home_of =
        |shard: &str| served.psql(&format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {shard}"));
    let shard = shard_of(TENANT);
    let home = home_of(&shard);
    let is_beside = |tenant: &i64| {
        let other = shard_of(*tenant);
        other != shard && home_of(&other) == home
    };
    let bystander = (1..100).find(is_beside).expect("four groups on two workers");
    let stranger = (1..100).find(|tenant| home_of(&shard_of(*tenant)) != home).expect("there are two workers");
    let stage = Stage { served, shard, bystander, stranger };
    // Large transactions are decoded from files.
    for worker in 0..2 {
        psql(&stage.served.worker_dsn(worker), "ALTER SYSTEM SET logical_decoding_work_mem TO '64kB'");
        psql(&stage.served.worker_dsn(worker), "SELECT pg_reload_conf()");
    }
    for tenant in [TENANT, bystander, stranger] {
        let sql =
            format!("INSERT INTO ledger SELECT {tenant}, -i, repeat('x', 1000) FROM generate_series(1, {ROWS}) i");
        stage.served.psql(&sql);
    }
    prepared_statements_go_along(&stage);
    transactions_end_before_the_fence(&stage);
    blocks_begun_by_a_sleeper_run_where_the_tenant_is(&stage);
    blocks_of_a_sleeper_that_come_too_late_do_nothing(&stage);
    old_snapshots_show_no_empty_shard(&stage);
    savepoints_are_carried_as_they_ended(&stage);
    failed_blocks_keep_nothing(&stage);
    cursors_and_portals_go_on_where_they_were(&stage);
    held_cursors_keep_their_rows(&stage);
    copies_are_whole(&stage);
    copies_whose_rows_are_at_the_old_place_end_before_the_fence(&stage);
    schema_changes_wait_and_block_nobody(&stage);
    a_cancelled_call_ends_only_the_waiting(&stage);
    one_shard_is_moved_by_one_at_a_time(&stage);
    outsiders_move_nothing(&stage);
    assert!(!stage.served.logged(0).contains("panicked") && !stage.served.logged(1).contains("panicked"));
}

impl Stage {
    fn client(&self, proxy: usize) -> Wire {
        Wire::login(self.served.proxy_port(proxy), "postgres")
    }

    /// The number of the worker that has the tenant.
    fn home(&self) -> u16 {
        let sql = format!(
            "SELECT n.nodeport FROM tenantry.shard_group g JOIN tenantry.node n USING (nodeid) WHERE g.id = {}",
            self.shard
        );
        psql(&self.served.coordinator_dsn(), &sql).parse::<u16>().expect("a port") - self.served.worker_port(0)
    }

    /// The same of any tenant.
    fn home_of(&self, tenant: i64) -> u16 {
        let sql = format!(
            "SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = get_shard_id_for_distribution_column('ledger', {tenant})"
        );
        self.served.psql(&sql).parse::<u16>().expect("a port") - self.served.worker_port(0)
    }

    fn move_away(&self) -> String {
        let home = self.home();
        let (from, to) = (self.served.worker_port(home), self.served.worker_port(1 - home));
        format!("SELECT citus_move_shard_placement({}, '127.0.0.1', {from}, '127.0.0.1', {to})", self.shard)
    }

    /// The move, under way.
    fn moving(&self) -> JoinHandle<String> {
        let (dsn, sql) = (self.served.dsn(0), self.move_away());
        std::thread::spawn(move || psql(&dsn, &sql))
    }

    fn state(&self) -> String {
        psql(&self.served.coordinator_dsn(), "SELECT state FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1")
    }

    fn await_state(&self, wanted: &str) {
        assert!(wait_until(PATIENCE, || self.state() == wanted), "{} instead of {wanted}", self.state());
    }

    /// Everything that the tenant has, where the map says it is, and nowhere else.
    fn ids(&self) -> Vec<String> {
        let there = format!("SELECT to_regclass('public_{}.ledger') IS NOT NULL", self.shard);
        let homes: Vec<_> = (0..2).filter(|w| psql(&self.served.worker_dsn(*w), &there) == "t").collect();
        assert_eq!(homes, [self.home()], "one worker has the shard");
        let sql = format!("SELECT id FROM public_{}.ledger WHERE tenant = {TENANT} AND id > 0 ORDER BY id", self.shard);
        psql(&self.served.worker_dsn(homes[0]), &sql).lines().map(str::to_owned).collect()
    }

    /// After a story: the tenant has these rows of it. They are taken away.
    fn ends_with(&self, story: &str, moved_from: Option<u16>, ids: &[i64]) {
        if let Some(from) = moved_from {
            assert_ne!(self.home(), from, "{story}: it has moved");
        }
        assert_eq!(self.ids(), ids.iter().map(i64::to_string).collect::<Vec<_>>(), "{story}");
        let gone = wait_until(PATIENCE, || self.served.everywhere(LEFTOVERS).is_empty());
        assert!(gone, "{story}: {:?}", self.served.everywhere(LEFTOVERS));
        self.served.psql(&format!("DELETE FROM ledger WHERE tenant = {TENANT} AND id > 0"));
        let left = self.served.psql(&format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT}"));
        assert_eq!(left, ROWS.to_string(), "{story}");
    }

    /// Others are served while somebody keeps the cutover waiting: the tenant's own clients, and its neighbours.
    fn others_go_on(&self, ids: std::ops::Range<i64>) {
        let mut clients = [self.client(0), self.client(1)];
        for id in ids {
            for (client, tenant) in clients.iter_mut().zip([TENANT, self.bystander]) {
                let insert = format!("INSERT INTO ledger VALUES ({tenant}, {id}, '')");
                assert_eq!(client.query(&insert), ["C INSERT 0 1", "Z I"], "{insert}");
            }
            let sql = format!("DELETE FROM ledger WHERE tenant = {} AND id = {id}", self.bystander);
            assert_eq!(clients[0].query(&sql), ["C DELETE 1", "Z I"]);
        }
    }
}

fn insert(id: i64) -> String {
    format!("INSERT INTO ledger VALUES ({TENANT}, {id}, '')")
}

/// A block that has failed can only be rolled back: until its client does so it keeps neither rows nor the shard, on no server. One with a
/// savepoint can go on.
fn failed_blocks_keep_nothing(stage: &Stage) {
    let from = stage.home();
    let mut client = stage.client(1);
    let fails = |client: &mut Wire, first: &str| {
        client.query("BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
        client.query(first);
        client.query(&insert(1));
        client.query(&format!("UPDATE ledger SET note = 'failed' WHERE tenant = {} AND id = -1", stage.stranger));
        let said = client.query(&format!("SELECT 1 / 0 FROM ledger WHERE tenant = {TENANT}"));
        assert!(said[0].starts_with("E 22012") && said.last().is_some_and(|end| end == "Z E"), "{said:?}");
    };
    let left = || {
        stage
            .served
            .everywhere(
                "SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND query LIKE '%ledger%'",
            )
            .concat()
    };
    fails(&mut client, "SET LOCAL lock_timeout = '1s'");
    assert_eq!(left(), "", "no server is kept");
    stage.served.psql(&format!(
        "SET lock_timeout = '10s'; UPDATE ledger SET note = 'others' WHERE tenant = {} AND id = -1",
        stage.stranger
    ));
    stage.moving().join().expect("it moves");
    for refused in [insert(2), "SELECT 1".to_owned(), "SAVEPOINT s".to_owned(), "BEGIN".to_owned()] {
        let said = client.query(&refused);
        assert!(said[0].starts_with("E 25P02") && said[1] == "Z E", "{refused}: {said:?}");
    }
    assert!(client.query("ROLLBACK TO nowhere")[0].starts_with("E 3B001"));
    assert_eq!(client.query("COMMIT AND CHAIN"), ["C ROLLBACK", "Z T"]);
    assert_eq!(client.query("SHOW transaction_isolation")[1], "D repeatable read", "the next one is alike");
    assert_eq!(client.query(&insert(3)), ["C INSERT 0 1", "Z T"]);
    assert_eq!(client.query("COMMIT"), ["C COMMIT", "Z I"]);

    fails(&mut client, "SAVEPOINT s");
    assert_ne!(left(), "");
    assert_eq!(client.query("ROLLBACK TO s"), ["C ROLLBACK", "Z T"]);
    assert_eq!(client.query(&insert(4)), ["C INSERT 0 1", "Z T"]);
    assert_eq!(client.query("COMMIT"), ["C COMMIT", "Z I"]);
    stage.ends_with("failed blocks", Some(from), &[3, 4]);
}

/// C09.
fn prepared_statements_go_along(stage: &Stage) {
    let from = stage.home();
    let mut clients = [stage.client(0), stage.client(1)];
    let run = |wire: &mut Wire, id: i64| {
        wire.send(&[frame(&format!("B - s : {TENANT} : {id}")), frame("E - 0"), frame("S")].concat());
        assert_eq!(wire.answers_until("Z"), ["2", "C INSERT 0 1", "Z I"]);
        assert_eq!(wire.query(&format!("EXECUTE t({})", id + 100)), ["C INSERT 0 1", "Z I"]);
    };
    for (id, wire) in (1..).zip(&mut clients) {
        wire.send(&[frame("P s : INSERT INTO ledger VALUES ($1, $2, '')"), frame("S")].concat());
        assert_eq!(wire.answers_until("Z"), ["1", "Z I"]);
        let prepare = format!("PREPARE t(bigint) AS INSERT INTO ledger VALUES ({TENANT}, $1, '')");
        assert_eq!(wire.query(&prepare), ["C PREPARE", "Z I"]);
        run(wire, id);
    }
    stage.moving().join().expect("it moves");
    for (id, wire) in (11..).zip(&mut clients) {
        run(wire, id);
    }
    stage.ends_with("prepared statements", Some(from), &[1, 2, 11, 12, 101, 102, 111, 112]);
}

/// C02, C05: whoever has written when the move begins keeps its slot waiting; whoever has only read, its fence. Neither
/// keeps anybody else from working, and both commit at the old place before the tenant leaves it.
fn transactions_end_before_the_fence(stage: &Stage) {
    let from = stage.home();
    let mut writer = stage.client(0);
    writer.query("BEGIN");
    assert_eq!(writer.query(&insert(1)), ["C INSERT 0 1", "Z T"]);
    let moving = stage.moving();
    stage.await_state("target_created");
    stage.others_go_on(10..15);
    // From another proxy, idle in its transaction.
    let mut reader = stage.client(1);
    reader.query("BEGIN");
    assert_eq!(reader.query(&format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT} AND id = 1"))[1], "D 0");
    assert_eq!(writer.query("COMMIT"), ["C COMMIT", "Z I"]);
    stage.await_state("caught_up");
    stage.others_go_on(20..40);
    assert!(!moving.is_finished());
    assert_eq!(reader.query(&insert(2)), ["C INSERT 0 1", "Z T"]);
    assert_eq!(stage.state(), "caught_up");
    assert_eq!(reader.query("COMMIT"), ["C COMMIT", "Z I"]);
    moving.join().expect("it moves");
    let ids: Vec<_> = (1..3).chain(10..15).chain(20..40).collect();
    stage.ends_with("transactions", Some(from), &ids);
}

/// C18: BEGIN and the first statement leave together for where the tenant was; nothing of them stays there.
fn blocks_begun_by_a_sleeper_run_where_the_tenant_is(stage: &Stage) {
    let from = stage.home();
    let mut simple = stage.client(1);
    let mut executing = [stage.client(1), stage.client(1)];
    for client in &mut executing {
        client.query(&format!("PREPARE t(bigint) AS INSERT INTO ledger VALUES ({TENANT}, $1, '')"));
    }
    let execute = |id: i64| [frame("Q BEGIN"), frame(&format!("Q EXECUTE t({id})")), frame("Q COMMIT")].concat();
    let mut prepared = stage.client(1);
    prepared.send(&[frame("P b : BEGIN"), frame("P s : INSERT INTO ledger VALUES ($1, $2, '')"), frame("S")].concat());
    prepared.answers_until("Z");
    let block = |id: i64| {
        let run = |bind: String| [frame(&bind), frame("D P -"), frame("E - 0"), frame("S")].concat();
        [run("B - b".to_owned()), run(format!("B - s : {TENANT} : {id}"))].concat()
    };
    let answer = ["2", "n", "C BEGIN", "Z T", "2", "n", "C INSERT 0 1", "Z T"];
    for id in [1, 2] {
        // Once on the long way: connections are opened, statements become known.
        simple.send(&[frame("Q BEGIN"), frame(&format!("Q {}", insert(id))), frame("Q COMMIT")].concat());
        for end in ["Z T", "Z T", "Z I"] {
            assert_eq!(simple.answers_until("Z").last().map(String::as_str), Some(end));
        }
        executing[0].send(&execute(20 + id));
        for end in ["Z T", "Z T", "Z I"] {
            assert_eq!(executing[0].answers_until("Z").last().map(String::as_str), Some(end));
        }
        assert_eq!(executing[1].query(&format!("EXECUTE t({})", 30 + id)), ["C INSERT 0 1", "Z I"]);
        prepared.send(&block(10 + id));
        assert_eq!([prepared.answers_until("Z"), prepared.answers_until("Z")].concat(), answer);
        assert_eq!(prepared.query("COMMIT"), ["C COMMIT", "Z I"]);
    }
    stage.served.signal_proxy(1, "STOP");
    psql(&stage.served.dsn(0), &stage.move_away());
    simple.send(&[frame("Q BEGIN"), frame(&format!("Q {}", insert(3))), frame("Q COMMIT")].concat());
    prepared.send(&block(13));
    executing[0].send(&execute(23));
    executing[1].send(&frame("Q EXECUTE t(33)"));
    stage.served.signal_proxy(1, "CONT");
    assert_eq!(simple.answers_until("Z"), ["C BEGIN", "Z T"]);
    assert_eq!(simple.answers_until("Z"), ["C INSERT 0 1", "Z T"]);
    assert_eq!(simple.answers_until("Z"), ["C COMMIT", "Z I"]);
    assert_eq!([prepared.answers_until("Z"), prepared.answers_until("Z")].concat(), answer);
    assert_eq!(prepared.query("ROLLBACK"), ["C ROLLBACK", "Z I"]);
    assert_eq!(executing[0].answers_until("Z"), ["C BEGIN", "Z T"]);
    assert_eq!(executing[0].answers_until("Z"), ["C INSERT 0 1", "Z T"]);
    assert_eq!(executing[0].answers_until("Z"), ["C COMMIT", "Z I"]);
    assert_eq!(executing[1].answers_until("Z"), ["C INSERT 0 1", "Z I"]);
    stage.ends_with("blocks of a sleeper", Some(from), &[1, 2, 3, 11, 12, 21, 22, 23, 31, 32, 33]);
}

/// C02, C18: a transaction that has used the worker for another tenant, and comes to this one when it is gone. Its proxy has
/// heard of nothing.
fn blocks_of_a_sleeper_that_come_too_late_do_nothing(stage: &Stage) {
    // It may hear of the move before it looks at its client: then the statement finds the tenant at once.
    let was_too_late = (0..ATTEMPTS_MAX).any(|_| a_block_of_a_sleeper_comes_too_late(stage));
    assert!(was_too_late);
}

/// False when the proxy had heard of the move.
fn a_block_of_a_sleeper_comes_too_late(stage: &Stage) -> bool {
    let from = stage.home();
    // Whichever is on the worker that the tenant leaves.
    let beside = [stage.bystander, stage.stranger].into_iter().find(|tenant| stage.home_of(*tenant) == from);
    let beside = beside.expect("they are on two workers");
    let mut late = stage.client(1);
    late.query("BEGIN");
    // It has only read: the move's slot would wait for a writer.
    assert_eq!(late.query(&format!("SELECT count(*) FROM ledger WHERE tenant = {beside} AND id = 1"))[1], "D 0");
    stage.served.signal_proxy(1, "STOP");
    psql(&stage.served.dsn(0), &stage.move_away());
    late.send(&frame(&format!("Q {}", insert(1))));
    stage.served.signal_proxy(1, "CONT");
    let answer = late.answers_until("Z");
    if answer == ["C INSERT 0 1", "Z T"] {
        assert_eq!(late.query("ROLLBACK"), ["C ROLLBACK", "Z I"]);
        return false;
    }
    assert_eq!(answer, ["E 40001", "Z E"]);
    assert_eq!(late.query("COMMIT"), ["C ROLLBACK", "Z I"]);
    // Repeated, all of it happens.
    late.query("BEGIN");
    let write = format!("INSERT INTO ledger VALUES ({beside}, 1, 'late')");
    assert_eq!(late.query(&write), ["C INSERT 0 1", "Z T"]);
    assert_eq!(late.query(&insert(2)), ["C INSERT 0 1", "Z T"]);
    assert_eq!(late.query("COMMIT"), ["C COMMIT", "Z I"]);
    let undo = format!("DELETE FROM ledger WHERE tenant = {beside} AND id = 1 AND note = 'late'");
    assert_eq!(late.query(&undo), ["C DELETE 1", "Z I"]);
    stage.ends_with("too late", Some(from), &[2]);
    true
}

const ATTEMPTS_MAX: usize = 20;

/// C08: a snapshot that was taken on the new worker before the tenant's rows came there does not see them. Whoever reads by
/// it is told so.
fn old_snapshots_show_no_empty_shard(stage: &Stage) {
    for level in ["REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED"] {
        let from = stage.home();
        let there = [stage.bystander, stage.stranger].into_iter().find(|tenant| stage.home_of(*tenant) != from);
        let there = there.expect("they are on two workers");
        let mut clients: Vec<_> = FORMS.iter().enumerate().map(|(i, form)| (*form, stage.client(i % 2))).collect();
        for (form, client) in &mut clients {
            client.query(&format!("PREPARE c(bigint) AS {} $1", COUNT));
            client.send(&[frame(&format!("P s : {COUNT} $1")), frame("S")].concat());
            client.answers_until("Z");
            client.query(&format!("BEGIN ISOLATION LEVEL {level}"));
            let form = if ["all", "copy"].contains(form) { "simple" } else { form };
            assert!(ask(client, form, there).contains(&format!("D {ROWS}")), "{form}");
        }
        stage.moving().join().expect("it moves");
        if level == "READ COMMITTED" {
            // The other proxy has heard of it then; who is told so in a block may have to run it again (40001).
            assert!(stage.client(1).query(&format!("{COUNT} {TENANT}")).contains(&format!("D {ROWS}")));
        }
        for (form, client) in &mut clients {
            let answer = ask(client, form, TENANT);
            if level == "READ COMMITTED" {
                let copied = answer.iter().filter(|answer| answer.starts_with("d ")).count();
                let counted = |count: i64| answer.contains(&format!("D {count}"));
                let sees = match *form {
                    "all" => counted(3 * ROWS),
                    "copy" => copied == 3 * ROWS as usize,
                    _ => counted(ROWS),
                };
                assert!(sees && answer.last().is_some_and(|last| last == "Z T"), "{form}: {answer:.200?}");
                client.query("COMMIT");
            } else {
                assert_eq!(answer[answer.len() - 2..], ["E 40001", "Z E"], "{level}, {form}");
                assert_eq!(client.query("ROLLBACK"), ["C ROLLBACK", "Z I"]);
                client.query(&format!("BEGIN ISOLATION LEVEL {level}"));
                for tenant in [there, TENANT] {
                    assert!(ask(client, "simple", tenant).contains(&format!("D {ROWS}")), "a new snapshot sees them");
                }
                client.query("COMMIT");
            }
        }
        stage.ends_with("old snapshots", Some(from), &[]);
    }
}

/// How clients ask: for one tenant, or for all.
const FORMS: [&str; 5] = ["simple", "execute", "bind", "all", "copy"];
const COUNT: &str = "SELECT count(*) FROM ledger WHERE tenant =";

fn ask(client: &mut Wire, form: &str, tenant: i64) -> Vec<String> {
    match form {
        "simple" => client.query(&format!("{COUNT} {tenant}")),
        "execute" => client.query(&format!("EXECUTE c({tenant})")),
        "all" => client.query("SELECT count(*) FROM ledger"),
        "copy" => client.query("COPY ledger (id) TO STDOUT"),
        _ => {
            client.send(&[frame(&format!("B - s : {tenant}")), frame("E - 0"), frame("S")].concat());
            client.answers_until("Z")
        }
    }
}

/// C11: more subtransactions than a snapshot lists, and more rows than decoding keeps in memory.
fn savepoints_are_carried_as_they_ended(stage: &Stage) {
    let from = stage.home();
    let mut client = stage.client(1);
    client.query("BEGIN");
    client.query(&format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT}"));
    let moving = stage.moving();
    stage.await_state("caught_up");
    for id in 1..=100 {
        client.query(&format!("SAVEPOINT s{id}"));
        assert_eq!(client.query(&insert(id)), ["C INSERT 0 1", "Z T"]);
        if id % 10 == 0 {
            let many = format!(
                "INSERT INTO ledger SELECT {TENANT}, {id} * 1000 + i, repeat('s', 500) FROM generate_series(1, 200) i"
            );
            assert_eq!(client.query(&many), ["C INSERT 0 200", "Z T"]);
        }
        if id % 3 == 0 {
            client.query(&format!("ROLLBACK TO s{id}"));
        } else if id % 3 == 1 {
            client.query(&format!("RELEASE s{id}"));
        }
    }
    assert_eq!(client.query("ROLLBACK TO s98")[0], "C ROLLBACK");
    assert_eq!(client.query("COMMIT"), ["C COMMIT", "Z I"]);
    moving.join().expect("it moves");
    let kept: Vec<i64> = (1..98).filter(|id| id % 3 != 0).collect();
    let many = kept.iter().filter(|id| *id % 10 == 0).flat_map(|id| id * 1000 + 1..=id * 1000 + 200);
    let ids: Vec<_> = kept.iter().copied().chain(many).collect();
    stage.ends_with("savepoints", Some(from), &ids);
}

/// C12: a portal with a row limit, and a cursor.
fn cursors_and_portals_go_on_where_they_were(stage: &Stage) {
    let from = stage.home();
    let select = format!("SELECT id FROM ledger WHERE tenant = {TENANT} ORDER BY id DESC");
    let mut portal = stage.client(0);
    portal.query("BEGIN");
    portal.send(&[frame(&format!("P - : {select}")), frame("B p -"), frame("E p 2"), frame("S")].concat());
    assert_eq!(portal.answers_until("Z"), ["1", "2", "D -1", "D -2", "s", "Z T"]);
    let mut cursor = stage.client(1);
    cursor.query("BEGIN");
    cursor.query(&format!("DECLARE c CURSOR FOR {select}"));
    assert_eq!(cursor.query("FETCH 2 FROM c")[1..3], ["D -1", "D -2"]);
    let moving = stage.moving();
    stage.await_state("caught_up");
    stage.others_go_on(1..5);
    assert_eq!(cursor.query("FETCH 2 FROM c")[1..3], ["D -3", "D -4"], "rows of its own snapshot");
    cursor.query("COMMIT");
    portal.send(&[frame("E p 2"), frame("S")].concat());
    assert_eq!(portal.answers_until("Z"), ["D -3", "D -4", "s", "Z T"]);
    assert!(!moving.is_finished(), "the portal keeps its place");
    assert_eq!(portal.query("COMMIT"), ["C COMMIT", "Z I"]);
    moving.join().expect("it moves");
    assert!(portal.query(&select)[1..].starts_with(&["D 4".to_owned()]), "and the next statement is at the new one");
    stage.ends_with("cursors", Some(from), &[1, 2, 3, 4]);
}

/// C12: cursors WITH HOLD outlive their transaction, and the move that follows it. They show the rows of their snapshot, in both
/// directions, and keep no fence waiting once that transaction has ended; the session itself finds the tenant where it is.
fn held_cursors_keep_their_rows(stage: &Stage) {
    let from = stage.home();
    let one = format!("SELECT id FROM ledger WHERE tenant = {TENANT} ORDER BY id DESC");
    let all = format!("SELECT id, count(*) OVER () FROM ledger ORDER BY tenant = {TENANT} DESC, id DESC");
    let forms = [(&one, String::new()), (&all, format!(",{}", 3 * ROWS))];
    let mut clients: Vec<_> = forms.iter().zip(0..).map(|(form, proxy)| (form, stage.client(proxy))).collect();
    let fetch = |client: &mut Wire, what: &str, ids: &[i64], rest: &str| {
        let rows: Vec<_> = ids.iter().map(|id| format!("D {id}{rest}")).collect();
        let said = client.query(&format!("FETCH {what} FROM kept"));
        assert_eq!(said[1..said.len() - 2], rows, "{what}: {said:.300?}");
    };
    for ((query, rest), client) in &mut clients {
        let declared = client.query(&format!("DECLARE kept SCROLL CURSOR WITH HOLD FOR {query}"));
        assert_eq!(declared, ["C DECLARE CURSOR", "Z I"]);
        fetch(client, "2", &[-1, -2], rest);
    }
    // Its transaction is open at first: it has used the old place, and is waited for.
    let mut open = stage.client(1);
    open.query("BEGIN");
    open.query(&format!("DECLARE kept SCROLL CURSOR WITH HOLD FOR {one}"));
    fetch(&mut open, "2", &[-1, -2], "");
    let moving = stage.moving();
    stage.await_state("caught_up");
    stage.others_go_on(1..5);
    assert!(!moving.is_finished(), "the transaction keeps its place");
    fetch(&mut open, "2", &[-3, -4], "");
    assert_eq!(open.query("COMMIT"), ["C COMMIT", "Z I"]);
    moving.join().expect("it moves, whatever is held");
    fetch(&mut open, "2", &[-5, -6], "");
    clients.push((&forms[0], open));
    for (((_, rest), client), id) in clients.iter_mut().zip(5..) {
        assert_eq!(client.query(&insert(id)), ["C INSERT 0 1", "Z I"]);
        fetch(client, "ABSOLUTE 3", &[-3], rest);
        fetch(client, "BACKWARD ALL", &[-2, -1], rest);
        fetch(client, "FIRST", &[-1], rest);
        let told = client.query("MOVE ALL IN kept");
        let left = if rest.is_empty() { ROWS - 1 } else { 3 * ROWS - 1 };
        assert_eq!(told, [format!("C MOVE {left}"), "Z I".to_owned()], "all rows of then, and none since");
        // In a transaction that writes to the tenant, too.
        client.query("BEGIN");
        client.query(&format!("UPDATE ledger SET note = 'held' WHERE tenant = {TENANT} AND id = {id}"));
        fetch(client, "FIRST", &[-1], rest);
        assert_eq!(client.query("COMMIT"), ["C COMMIT", "Z I"]);
        assert_eq!(client.query("CLOSE kept"), ["C CLOSE CURSOR", "Z I"]);
        assert!(client.query("FETCH FROM kept")[0].starts_with("E 34000"));
        client.query(&format!("DECLARE kept CURSOR WITH HOLD FOR {one}"));
        fetch(client, "1", &[id], "");
    }
    stage.ends_with("held cursors", Some(from), &[1, 2, 3, 4, 5, 6, 7]);
}

/// C10: in flight, in both directions, that end well and that fail.
fn copies_are_whole(stage: &Stage) {
    let from = stage.home();
    let rows = |ids: std::ops::Range<i64>| {
        let lines: String = ids.map(|id| format!("{TENANT}\t{id}\tcopied\n")).collect();
        wire::message(b'd', lines.as_bytes())
    };
    let mut good = stage.client(0);
    good.send(&[frame("Q COPY ledger FROM STDIN"), rows(1..500)].concat());
    let mut bad = stage.client(1);
    bad.send(&[frame("Q COPY ledger FROM STDIN"), rows(1000..1500)].concat());
    let mut out = stage.client(1);
    let all = format!("SELECT id FROM ledger, generate_series(1, 10) WHERE tenant = {TENANT} ORDER BY 1");
    out.send(&frame(&format!("Q COPY (SELECT repeat('y', 1000), id FROM ({all}) a) TO STDOUT")));
    assert!(!out.is_quiet_for(PATIENCE), "it has begun");
    let moving = stage.moving();
    stage.await_state("caught_up");
    good.send(&[rows(500..1000), frame("c")].concat());
    assert_eq!(good.answers_until("Z"), ["G", "C COPY 999", "Z I"]);
    bad.send(&[rows(1500..1600), frame("f no more")].concat());
    assert_eq!(bad.answers_until("Z"), ["G", "E 57014", "Z I"]);
    assert!(!moving.is_finished(), "what is still being read keeps its place");
    let answers = out.answers_until("Z");
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("d ")).count(), 10 * ROWS as usize, "one snapshot");
    assert_eq!(answers.last().map(String::as_str), Some("Z I"));
    moving.join().expect("it moves");
    stage.ends_with("copies", Some(from), &(1..1000).collect::<Vec<_>>());
}

/// C10: copies that the old place has rows of already when the fence comes, from both proxies. It waits for their end, good or bad.
fn copies_whose_rows_are_at_the_old_place_end_before_the_fence(stage: &Stage) {
    const COUNT: i64 = 8000;
    let from = stage.home();
    let mut reader = stage.client(0);
    reader.query("BEGIN");
    reader.query(&format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT}"));
    let moving = stage.moving();
    // Its slot is there: it waits for no writer that comes now.
    stage.await_state("caught_up");
    let rows = |ids: std::ops::Range<i64>| {
        let lines: String = ids.map(|id| format!("{TENANT}\t{id}\t{}\n", "c".repeat(100))).collect();
        wire::message(b'd', lines.as_bytes())
    };
    let at_work = || {
        let sql = "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid) \
                   WHERE query LIKE 'COPY public%ledger%FROM STDIN%' AND locktype = 'transactionid'";
        psql(&stage.served.worker_dsn(from), sql)
    };
    let mut copies: Vec<_> = [0, 1, 0, 1].map(|proxy| stage.client(proxy)).into_iter().collect();
    let first = |number: i64| 1 + number * 2 * COUNT;
    for (number, copy) in (0..).zip(&mut copies) {
        copy.send(&[frame("Q COPY ledger FROM STDIN"), rows(first(number)..first(number) + COUNT)].concat());
    }
    assert!(wait_until(PATIENCE, || at_work() == "4"), "{} have written", at_work());
    assert_eq!(reader.query("COMMIT"), ["C COMMIT", "Z I"]);
    assert!(!moving.is_finished() && stage.home() == from, "they keep their place");
    for (number, mut copy) in (0..).zip(copies) {
        let (more, last) = (rows(first(number) + COUNT..first(number) + COUNT + 10), number < 2);
        copy.send(&[more, frame(if last { "c" } else { "f no more" })].concat());
        let end = if last { format!("C COPY {}", COUNT + 10) } else { "E 57014".to_owned() };
        assert_eq!(copy.answers_until("Z"), ["G".to_owned(), end, "Z I".to_owned()]);
    }
    moving.join().expect("it moves");
    let ids: Vec<_> = (0..2).flat_map(|number| first(number)..first(number) + COUNT + 10).collect();
    stage.ends_with("copies at the old place", Some(from), &ids);
}

/// C13, and that nobody queues behind a schema change that waits.
fn schema_changes_wait_and_block_nobody(stage: &Stage) {
    let from = stage.home();
    let mut reader = stage.client(1);
    reader.query("BEGIN");
    reader.query(&format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT}"));
    let moving = stage.moving();
    stage.await_state("caught_up");
    let mut changing = stage.client(1);
    changing.send(&frame("Q ALTER TABLE ledger ADD COLUMN more int DEFAULT 5"));
    assert!(changing.is_quiet_for(Duration::from_millis(500)), "it waits for the move");
    stage.others_go_on(1..10);
    assert!(changing.is_quiet_for(Duration::from_millis(100)) && !moving.is_finished());
    reader.query("COMMIT");
    moving.join().expect("it moves");
    assert_eq!(changing.answers_until("Z"), ["C ALTER TABLE", "Z I"]);
    let sql = format!("SELECT DISTINCT more FROM ledger WHERE tenant = {TENANT}");
    assert_eq!(stage.client(0).query(&sql)[1..], ["D 5", "C SELECT 1", "Z I"]);
    stage.served.psql("ALTER TABLE ledger DROP COLUMN more");
    stage.ends_with("schema changes", Some(from), &(1..10).collect::<Vec<_>>());
}

/// C25: who cancels the call waits no longer; the move itself comes to its end, as it does when the client goes away.
fn a_cancelled_call_ends_only_the_waiting(stage: &Stage) {
    let from = stage.home();
    let mut reader = stage.client(1);
    reader.query("BEGIN");
    reader.query(&format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT}"));
    let mut mover = stage.client(0);
    mover.send(&frame(&format!("Q {}", stage.move_away())));
    stage.await_state("caught_up");
    let mut cancel = Wire::connect(stage.served.proxy_port(0));
    cancel.send_and_wait(&cancel_packet(mover.key.0, &mover.key.1));
    assert_eq!(mover.answers_until("Z"), ["E 57014", "Z I"]);
    assert_eq!((stage.home(), stage.state()), (from, "caught_up".to_owned()));
    stage.others_go_on(1..5);
    reader.query("COMMIT");
    stage.await_state("done");
    stage.ends_with("a cancelled call", Some(from), &[1, 2, 3, 4]);
}

/// C25: two who want the same.
fn one_shard_is_moved_by_one_at_a_time(stage: &Stage) {
    let from = stage.home();
    let mut movers = [stage.client(0), stage.client(1)];
    let sql = frame(&format!("Q {}", stage.move_away()));
    movers.iter_mut().for_each(|mover| mover.send(&sql));
    let ends: Vec<_> = movers.iter_mut().map(|mover| mover.answers_until("Z")).collect();
    let moved = ends.iter().filter(|end| end.contains(&"C SELECT 1".to_owned())).count();
    assert!(moved >= 1, "{ends:?}");
    assert!(ends.iter().all(|end| end.last().map(String::as_str) == Some("Z I")), "{ends:?}");
    println!("two at once: {ends:?}");
    stage.others_go_on(1..3);
    stage.ends_with("two movers", Some(from), &[1, 2]);
}

/// Only members of `tenantry_admin` change where tenants are.
fn outsiders_move_nothing(stage: &Stage) {
    let (from, shard) = (stage.home(), &stage.shard);
    let map = "SELECT count(*), max(id), sum(nodeid) FROM tenantry.shard_group";
    let before = psql(&stage.served.coordinator_dsn(), map);
    let dsn = stage.served.dsn(0).replace("postgres@", "outsider@");
    let port = stage.served.worker_port(from);
    for sql in [
        stage.move_away(),
        format!("SELECT isolate_tenant_to_new_shard('ledger', {TENANT}, 'CASCADE')"),
        format!("SELECT tenantry_split_shard({shard}, 2, ARRAY[1, 2])"),
        "SELECT rebalance_table_shards()".to_owned(),
        "SELECT citus_rebalance_start()".to_owned(),
        format!("SELECT citus_drain_node('127.0.0.1', {port})"),
        format!("SELECT citus_remove_node('127.0.0.1', {port})"),
        format!("SELECT citus_add_node('127.0.0.1', {port})"),
        "CALL citus_cleanup_orphaned_resources()".to_owned(),
    ] {
        let error = psql_error(&dsn, &sql);
        assert!(error.contains("42501"), "{sql}: {error}");
    }
    assert_eq!(psql(&stage.served.coordinator_dsn(), map), before);
    assert_eq!(psql(&dsn, &format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT}")), ROWS.to_string());
    stage.ends_with("outsiders", None, &[]);
}
