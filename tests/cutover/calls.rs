//! Who else wants something of the shard while it moves: schema changes, second movers, strangers.

use std::time::Duration;

use super::{ROWS, Stage, TENANT};
use crate::support::{psql, psql_error};
use crate::wire::{Wire, cancel_packet, frame};

/// C13, and that nobody queues behind a schema change that waits.
pub fn schema_changes_wait_and_block_nobody(stage: &Stage) {
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
pub fn a_cancelled_call_ends_only_the_waiting(stage: &Stage) {
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
pub fn one_shard_is_moved_by_one_at_a_time(stage: &Stage) {
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
pub fn outsiders_move_nothing(stage: &Stage) {
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
