//! Blocks of a proxy that stood still over the cutover.

use super::{Stage, TENANT, insert};
use crate::support::psql;
use crate::wire::frame;

/// C18: BEGIN and the first statement leave together for where the tenant was; nothing of them stays there.
pub fn blocks_begun_by_a_sleeper_run_where_the_tenant_is(stage: &Stage) {
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
pub fn blocks_of_a_sleeper_that_come_too_late_do_nothing(stage: &Stage) {
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
