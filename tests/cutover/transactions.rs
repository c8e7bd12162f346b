//! Transactions that are open, or have failed, when their tenant is cut over.

use super::{ROWS, Stage, TENANT, insert};
use crate::wire::{Wire, frame};

/// A block that has failed can only be rolled back: until its client does so it keeps neither rows nor the shard, on no server. One with a
/// savepoint can go on.
pub fn failed_blocks_keep_nothing(stage: &Stage) {
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

/// C02, C05: whoever has written when the move begins keeps its slot waiting; whoever has only read, its fence. Neither
/// keeps anybody else from working, and both commit at the old place before the tenant leaves it.
pub fn transactions_end_before_the_fence(stage: &Stage) {
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

/// C11: more subtransactions than a snapshot lists, and more rows than decoding keeps in memory.
pub fn savepoints_are_carried_as_they_ended(stage: &Stage) {
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

/// C08: a snapshot that was taken on the new worker before the tenant's rows came there does not see them. Whoever reads by
/// it is told so.
pub fn old_snapshots_show_no_empty_shard(stage: &Stage) {
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
