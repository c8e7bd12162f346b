//! What clients have open when their tenant is cut over to another worker, form by form. One cluster, two proxies; each
//! story moves the same shard group once, and leaves it whole.

#[path = "cutover/calls.rs"]
mod calls;
#[path = "cutover/held.rs"]
mod held;
#[path = "cutover/sleepers.rs"]
mod sleepers;
mod support;
#[path = "cutover/transactions.rs"]
mod transactions;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "protocol/wire.rs"]
mod wire;

use std::thread::JoinHandle;
use std::time::Duration;

use support::served::Served;
use support::{psql, wait_until};
use wire::Wire;

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
    held::prepared_statements_go_along(&stage);
    transactions::transactions_end_before_the_fence(&stage);
    sleepers::blocks_begun_by_a_sleeper_run_where_the_tenant_is(&stage);
    sleepers::blocks_of_a_sleeper_that_come_too_late_do_nothing(&stage);
    transactions::old_snapshots_show_no_empty_shard(&stage);
    transactions::savepoints_are_carried_as_they_ended(&stage);
    transactions::failed_blocks_keep_nothing(&stage);
    held::cursors_and_portals_go_on_where_they_were(&stage);
    held::held_cursors_keep_their_rows(&stage);
    held::copies_are_whole(&stage);
    held::copies_whose_rows_are_at_the_old_place_end_before_the_fence(&stage);
    calls::schema_changes_wait_and_block_nobody(&stage);
    calls::a_cancelled_call_ends_only_the_waiting(&stage);
    calls::one_shard_is_moved_by_one_at_a_time(&stage);
    calls::outsiders_move_nothing(&stage);
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
