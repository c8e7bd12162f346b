//! Shards move while clients write through one and two proxies, while schemas change, and while proxies are killed.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::line::Line;
use support::served::{Served, Stop, connect};
use support::{psql, psql_error, wait_until};

const LEFTOVERS: &str = "SELECT 'slot ' || slot_name FROM pg_replication_slots
    UNION ALL SELECT 'publication ' || pubname FROM pg_publication
    UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'tenantry\\_move%'
    UNION ALL SELECT 'identity ' || relname FROM pg_class
        WHERE relnamespace::regnamespace::text LIKE 'public\\_%' AND relreplident = 'f'";

/// A table with one tenant that is moved to and fro.
struct Stage {
    served: Served,
    shard: String,
}

const TENANT: i64 = 7;

impl Stage {
    fn set(rows: i64) -> Self {
        Self::set_with(rows, "")
    }

    /// With more of the proxies' configuration.
    fn set_with(rows: i64, config: &'static str) -> Self {
        Self::set_up(rows, config, "", 4)
    }

    /// Of the two workers the other has no shards.
    fn set_on_one_worker(rows: i64) -> Self {
        Self::set_up(rows, "", "", 1)
    }

    /// `parts` follows the definition of the table.
    fn set_up(rows: i64, config: &'static str, parts: &str, shards: u32) -> Self {
        let served = Served::start_with(2, 2, config);
        let table = "CREATE TABLE ledger (tenant bigint, id bigint, n bigint, PRIMARY KEY (tenant, id))";
        served.psql(&format!("{table} {parts}"));
        served.psql(&format!("SELECT create_distributed_table('ledger', 'tenant', shard_count => {shards})"));
        served.psql(&format!("INSERT INTO ledger SELECT {TENANT}, -i, 0 FROM generate_series(1, {rows}) i"));
        let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('ledger', {TENANT})"));
        Self { served, shard }
    }

    /// The number of the worker that has the tenant.
    fn home(&self) -> u16 {
        let sql = format!(
            "SELECT n.nodeport FROM tenantry.shard_group g JOIN tenantry.node n USING (nodeid) WHERE g.id = {}",
            self.shard
        );
        psql(&self.served.coordinator_dsn(), &sql).parse::<u16>().expect("a port") - self.served.worker_port(0)
    }

    /// The statement that moves the tenant to the other worker.
    fn move_away(&self) -> String {
        let home = self.home();
        format!(
            "SELECT citus_move_shard_placement({}, '127.0.0.1', {}, '127.0.0.1', {})",
            self.shard,
            self.served.worker_port(home),
            self.served.worker_port(1 - home)
        )
    }

    fn state(&self) -> String {
        let sql = "SELECT state FROM tenantry.shard_move ORDER BY moveid DESC LIMIT 1";
        psql(&self.served.coordinator_dsn(), sql)
    }

    fn table(&self) -> String {
        format!("public_{}.ledger", self.shard)
    }

    /// Ids that the tenant has, on the one worker that has it.
    fn ids(&self) -> Vec<i64> {
        let there = format!("SELECT to_regclass('{}') IS NOT NULL", self.table());
        let homes: Vec<_> = (0..2).filter(|w| psql(&self.served.worker_dsn(*w), &there) == "t").collect();
        assert_eq!(homes, [self.home()], "one worker has the shard");
        let ids = psql(&self.served.worker_dsn(homes[0]), &format!("SELECT id FROM {} ORDER BY id", self.table()));
        ids.lines().map(|l| l.parse().expect("a number")).collect()
    }

    /// The tenant has `rows` of before and what writers were told of, each row and each update of it once.
    fn expect_all(&self, rows: i64, written: &[(i64, i64)]) {
        assert!(self.ids() == expected(rows, written), "every acknowledged row, once");
        let wrong = format!("SELECT count(*) FROM {} WHERE id > 0 AND n <> (id % 3 = 2)::int", self.table());
        assert_eq!(psql(&self.served.worker_dsn(self.home()), &wrong), "0", "every acknowledged update, once");
    }

    fn expect_nothing_left(&self, when: &str) {
        let gone = wait_until(Duration::from_secs(30), || self.served.everywhere(LEFTOVERS).is_empty());
        assert!(gone, "{when}: {:?}", self.served.everywhere(LEFTOVERS));
    }
}

/// Inserts ids from `first` on through a proxy, by prepared statement, transaction and plain statement in turn, and reads
/// back each as it was written last; fails at the first error. Returns how many were acknowledged and the longest wait.
async fn write(dsn: String, first: i64, stop: Arc<Stop>) -> (i64, Duration) {
    let client = connect(&dsn).await;
    let insert = client.prepare("INSERT INTO ledger VALUES ($1, $2, 0)").await.unwrap();
    let read =
        client.prepare("SELECT count(*), sum(n)::bigint FROM ledger WHERE tenant = $1 AND id = $2").await.unwrap();
    let (mut id, mut longest) = (first, Duration::ZERO);
    while !stop.is_set() {
        let start = Instant::now();
        let written = match id % 3 {
            0 => client.execute(&insert, &[&TENANT, &id]).await.map(|_| ()),
            1 => client.batch_execute(&format!("INSERT INTO ledger VALUES ({TENANT}, {id}, 0)")).await,
            _ => {
                let sql = format!(
                    "BEGIN; INSERT INTO ledger VALUES ({TENANT}, {id}, 0);
                    UPDATE ledger SET n = n + 1 WHERE tenant = {TENANT} AND id = {id}; COMMIT"
                );
                client.batch_execute(&sql).await
            }
        };
        written.unwrap_or_else(|e| panic!("id {id}: {:?}", e.as_db_error()));
        let row = client.query_one(&read, &[&TENANT, &id]).await.unwrap();
        let seen: (i64, Option<i64>) = (row.get(0), row.get(1));
        assert_eq!(seen, (1, Some(updates_of(id))), "id {id} is read back");
        longest = longest.max(start.elapsed());
        id += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (id - first, longest)
}

/// How often the row that `write` has inserted was updated then.
fn updates_of(id: i64) -> i64 {
    i64::from(id % 3 == 2)
}

fn expected(rows: i64, written: &[(i64, i64)]) -> Vec<i64> {
    (-rows..=-1).chain(written.iter().flat_map(|(first, count)| *first..*first + *count)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_of_two_proxies_notice_no_move() {
    let mut stage = Stage::set(5_000);
    stage.served.start_proxy(1);
    let stop = Arc::new(Stop::default());
    let writers: Vec<_> = (0..4i64)
        .map(|w| tokio::spawn(write(stage.served.dsn(usize::try_from(w % 2).unwrap()), w * 1_000_000, stop.clone())))
        .collect();
    let mover = connect(&stage.served.dsn(0)).await;
    for _ in 0..4 {
        let home = stage.home();
        mover.batch_execute(&stage.move_away()).await.unwrap();
        assert_ne!(stage.home(), home);
    }
    stop.set();
    let mut written = Vec::new();
    for (w, writer) in (0i64..).zip(writers) {
        let (count, longest) = writer.await.unwrap();
        println!("proxy {}: {count} writes, longest {longest:?}", w % 2);
        assert!(count > 20);
        written.push((w * 1_000_000, count));
    }
    stage.expect_all(5_000, &written);
    stage.expect_nothing_left("after moves");
    let page = stage.served.metrics(0);
    let told = |sample| Served::metric(&page, sample).unwrap_or_else(|| panic!("{sample} in\n{page}"));
    assert_eq!(told("tenantry_moves_total{outcome=\"done\"}"), 4.0);
    assert!(told("tenantry_hold_seconds_count") >= 4.0 && told("tenantry_hold_seconds_sum") > 0.0, "{page}");
    assert_eq!(told("tenantry_holds"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_of_two_proxies_notice_no_distributing_no_splitting_and_no_isolating() {
    const ROWS: i64 = 5_000;
    let mut served = Served::start(2);
    served.start_proxy(1);
    served.psql("CREATE TABLE ledger (tenant bigint, id bigint, n bigint, PRIMARY KEY (tenant, id))");
    served.psql("CREATE TABLE notes (tenant bigint, body text)");
    served.psql(&format!("INSERT INTO ledger SELECT {TENANT} + i % 2, -i, 0 FROM generate_series(1, 2 * {ROWS}) i"));
    served.psql("INSERT INTO notes SELECT i % 50, 'n' FROM generate_series(1, 1000) i");
    let stop = Arc::new(Stop::default());
    let writers: Vec<_> = (0..4i64)
        .map(|w| tokio::spawn(write(served.dsn(usize::try_from(w % 2).unwrap()), w * 1_000_000, stop.clone())))
        .collect();
    let client = connect(&served.dsn(0)).await;
    let block = "BEGIN; SELECT create_distributed_table_concurrently('ledger', 'tenant')";
    let error = client.batch_execute(block).await.unwrap_err();
    assert_eq!(error.code().map(|c| c.code()), Some("25001"), "{error:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
    let sql = |sql: String| {
        let client = &client;
        async move { client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {:?}", e.as_db_error())) }
    };
    sql("SELECT create_distributed_table_concurrently('ledger', 'tenant', shard_count => 4)".into()).await;
    let shell = psql(&served.coordinator_dsn(), "SELECT count(*) FROM public.ledger");
    assert_eq!(shell, "0", "all rows are on the workers");
    // A table without a key joins the others' shards.
    sql("SELECT create_distributed_table_concurrently('notes', 'tenant', shard_count => 4)".into()).await;
    let groups = served.psql("SELECT count(DISTINCT colocation_id) FROM citus_tables");
    assert_eq!(groups, "1");
    let more = "SELECT alter_distributed_table('ledger', shard_count => 8";
    for (rest, code) in [
        (")", "22023"),
        (", cascade_to_colocated => false)", "0A000"),
        (", distribution_column => 'id')", "0A000"),
        (", colocate_with => 'notes')", "0A000"),
    ] {
        let error = client.batch_execute(&format!("{more}{rest}")).await.unwrap_err();
        assert_eq!(error.code().map(|c| c.code()), Some(code), "{rest}: {error:?}");
    }
    for _ in ["done", "done already"] {
        sql(format!("{more}, cascade_to_colocated => true)")).await;
        let counts = "SELECT DISTINCT shard_count FROM citus_tables UNION SELECT shardcount FROM pg_dist_colocation";
        assert_eq!(served.psql(counts), "8");
    }
    let as_of_new =
        "SELECT string_agg(shardminvalue || '..' || shardmaxvalue, ' ' ORDER BY shardminvalue::int) FROM pg_dist_shard
        WHERE logicalrelid =";
    served.psql("CREATE TABLE fresh (tenant bigint)");
    served.psql("SELECT create_distributed_table('fresh', 'tenant', shard_count => 8, colocate_with => 'none')");
    let [altered, fresh] = ["ledger", "fresh"].map(|table| served.psql(&format!("{as_of_new} '{table}'::regclass")));
    assert_eq!(altered, fresh);
    // Fewer: neighbours are put together, wherever they are, and cut first where they do not fit.
    for count in [4, 3] {
        sql(format!("SELECT alter_distributed_table('ledger', shard_count => {count}, cascade_to_colocated => true)"))
            .await;
        served.psql(&format!(
            "DROP TABLE fresh; CREATE TABLE fresh (tenant bigint);
             SELECT create_distributed_table('fresh', 'tenant', shard_count => {count}, colocate_with => 'none')"
        ));
        let [altered, fresh] =
            ["ledger", "fresh"].map(|table| served.psql(&format!("{as_of_new} '{table}'::regclass")));
        assert_eq!(altered, fresh);
    }
    served.psql("DROP TABLE fresh");
    for node in [1, 2] {
        let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('ledger', {TENANT})"));
        sql(format!("SELECT tenantry_split_shard({shard}, 3, ARRAY[{node}, 3 - {node}])")).await;
    }
    sql(format!("SELECT isolate_tenant_to_new_shard('ledger', {TENANT}, 'CASCADE')")).await;
    let kinds = "SELECT max(moveid) FROM tenantry.shard_move GROUP BY relation IS NULL, tenant IS NULL ORDER BY 1";
    let kinds = psql(&served.coordinator_dsn(), kinds);
    let moves: Vec<&str> = kinds.lines().collect();
    let [distributed, split, isolated] = moves[..] else { panic!("{kinds}") };
    let refused = client.batch_execute(&format!("SELECT tenantry_undo_move({distributed})")).await.unwrap_err();
    let refused = refused.as_db_error().expect("an answer");
    let message = "create_distributed_table_concurrently cannot be undone";
    assert_eq!((refused.code().code(), refused.message()), ("0A000", message));
    assert!(refused.hint().is_some_and(|hint| hint.contains("undistribute_table(")), "{refused}");
    // The tenant was taken out of a piece since; once it is back, the pieces that there were have other names.
    let undo = |id: &str| format!("SELECT tenantry_undo_move({id})");
    sql(undo(isolated)).await;
    assert_eq!(served.psql("SELECT count(*) FROM tenantry_tenants WHERE table_name = 'ledger'::regclass"), "0");
    for id in [isolated, split] {
        let late = client.batch_execute(&undo(id)).await.unwrap_err();
        let late = late.as_db_error().expect("an answer");
        assert_eq!(
            (late.code().code(), late.message()),
            ("55000", &*format!("shard move {id} can no longer be undone"))
        );
    }
    let shards = "SELECT count(*) FROM pg_dist_shard WHERE logicalrelid = 'ledger'::regclass";
    let before = served.psql(shards);
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('ledger', {TENANT})"));
    sql(format!("SELECT tenantry_split_shard({shard}, 3, ARRAY[1, 2])")).await;
    assert_ne!(served.psql(shards), before);
    let split = psql(&served.coordinator_dsn(), "SELECT max(moveid) FROM tenantry.shard_move");
    sql(undo(&split)).await;
    assert_eq!(served.psql(shards), before);
    sql(format!("SELECT isolate_tenant_to_new_shard('ledger', {TENANT}, 'CASCADE')")).await;
    stop.set();
    let mut written = Vec::new();
    for (w, writer) in (0i64..).zip(writers) {
        let (count, longest) = writer.await.unwrap();
        println!("proxy {}: {count} writes, longest {longest:?}", w % 2);
        assert!(count > 20);
        written.push(count);
    }
    let total = written.iter().sum::<i64>() + 2 * ROWS;
    assert_eq!(served.psql("SELECT count(*), count(DISTINCT (tenant, id)) FROM ledger"), format!("{total}|{total}"));
    let others = served.psql(&format!("SELECT count(*) FROM ledger WHERE tenant = {}", TENANT + 1));
    assert_eq!(others, ROWS.to_string());
    assert_eq!(served.psql("SELECT count(*) FROM notes"), "1000");
    assert_eq!(
        served.psql("SELECT tenant FROM tenantry_tenants WHERE table_name = 'ledger'::regclass"),
        TENANT.to_string()
    );
    let gone = wait_until(Duration::from_secs(30), || served.everywhere(LEFTOVERS).is_empty());
    assert!(gone, "{:?}", served.everywhere(LEFTOVERS));

    // What no row tells of is found by its name.
    let orphans = "CREATE SCHEMA tenantry_move_999; CREATE TABLE tenantry_move_999.marker (id int);
        CREATE PUBLICATION tenantry_move_999 FOR TABLE tenantry_move_999.marker";
    psql(&served.worker_dsn(0), orphans);
    psql(&served.worker_dsn(0), "SELECT pg_create_logical_replication_slot('tenantry_move_999', 'pgoutput')");
    psql(&served.worker_dsn(0), "CREATE SCHEMA tenantry_moved_999_0");
    sql("CALL citus_cleanup_orphaned_resources()".into()).await;
    assert_eq!(served.everywhere(LEFTOVERS), ["schema tenantry_moved_999_0"], "but not what may be rows of users");
    let prepared = client.prepare("CALL citus_cleanup_orphaned_resources()").await.unwrap();
    client.execute(&prepared, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_proxy_that_slept_over_a_move_writes_to_the_new_place() {
    let mut stage = Stage::set(100);
    stage.served.start_proxy(1);
    let sleeper = connect(&stage.served.dsn(1)).await;
    let insert = sleeper.prepare("INSERT INTO ledger VALUES ($1, $2, 0)").await.unwrap();
    sleeper.execute(&insert, &[&TENANT, &1i64]).await.unwrap();
    for id in [2i64, 4, 6] {
        stage.served.signal_proxy(1, "STOP");
        let (sql, dsn) = (stage.move_away(), stage.served.dsn(0));
        tokio::task::spawn_blocking(move || psql(&dsn, &sql)).await.unwrap();
        // Waiting in its socket when it wakes up, before it can have heard of the move.
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&TENANT, &id];
        let waiting = sleeper.execute(&insert, &parameters);
        let awake = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stage.served.signal_proxy(1, "CONT");
        };
        let (written, ()) = tokio::join!(waiting, awake);
        written.unwrap();
        let next = id + 1;
        sleeper.batch_execute(&format!("INSERT INTO ledger VALUES ({TENANT}, {next}, 0)")).await.unwrap();
    }
    assert!(stage.ids() == expected(100, &[(1, 7)]), "{:?}", stage.ids());
    stage.expect_nothing_left("after moves");
}

/// C18: it hears nothing of moves, and can ask nobody, but its way to the workers is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_proxy_cut_off_from_the_catalog_writes_nothing_to_the_old_place() {
    let mut stage = Stage::set_with(100, "hold_timeout = \"2s\"\n");
    let line = Line::to(stage.served.coordinator_port);
    stage.served.coordinator_port = line.port;
    stage.served.start_proxy(1);
    let client = connect(&stage.served.dsn(1)).await;
    let insert = client.prepare("INSERT INTO ledger VALUES ($1, $2, 0)").await.unwrap();
    client.execute(&insert, &[&TENANT, &1i64]).await.unwrap();
    for id in [2i64, 4, 6] {
        line.cut();
        client.execute(&insert, &[&TENANT, &id]).await.expect("the map that is known is still right");
        let (sql, dsn) = (stage.move_away(), stage.served.dsn(0));
        tokio::task::spawn_blocking(move || psql(&dsn, &sql)).await.unwrap();
        let next = id + 1;
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&TENANT, &next];
        let waiting = client.execute(&insert, &parameters);
        if id == 2 {
            let mended = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                line.mend();
            };
            tokio::join!(waiting, mended).0.unwrap();
            continue;
        }
        // It waits for as long as for a move, and has done nothing then.
        let error = waiting.await.expect_err("nobody says where the tenant is");
        assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{error:?}");
        line.mend();
        client.execute(&insert, &parameters).await.unwrap();
    }
    assert!(stage.ids() == expected(100, &[(1, 7)]), "{:?}", stage.ids());
    stage.expect_nothing_left("after moves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_proxy_killed_in_any_state_of_a_move_is_repaired_within_30_seconds() {
    const ROWS: i64 = 30_000;
    // Clients insert into both kinds of partitions, of one level and of two.
    let parts = "PARTITION BY RANGE (id);
        CREATE TABLE ledger_old PARTITION OF ledger FOR VALUES FROM (MINVALUE) TO (0);
        CREATE TABLE ledger_new PARTITION OF ledger DEFAULT PARTITION BY HASH (id);
        CREATE TABLE ledger_new_0 PARTITION OF ledger_new FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE ledger_new_1 PARTITION OF ledger_new FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    let mut stage = Stage::set_up(ROWS, "", parts, 4);
    stage.served.start_proxy(1);
    let stop = Arc::new(Stop::default());
    let writer = tokio::spawn(write(stage.served.dsn(1), 1_000_000, stop.clone()));
    let watch = connect(&stage.served.coordinator_dsn()).await;
    // After a state is seen, some go on for a while: the fence and the flip lie between caught_up and switched.
    let kills = [
        ("planned", 0),
        ("target_created", 0),
        ("target_created", 60),
        ("copied", 0),
        ("copied", 100),
        ("caught_up", 0),
        ("caught_up", 3),
        ("caught_up", 6),
        ("caught_up", 12),
        ("caught_up", 25),
        ("switched", 0),
    ];
    for (state, milliseconds) in kills {
        let mover = connect(&stage.served.dsn(0)).await;
        let sql = stage.move_away();
        let moving = tokio::spawn(async move { mover.batch_execute(&sql).await });
        let latest = "SELECT state FROM tenantry.shard_move WHERE finished_at IS NULL ORDER BY moveid DESC LIMIT 1";
        loop {
            let row = watch.query_opt(latest, &[]).await.unwrap();
            let seen = row.map_or(String::new(), |row| row.get::<_, String>(0));
            let order = ["", "planned", "target_created", "copied", "caught_up", "switched"];
            let at = |s: &str| order.iter().position(|o| *o == s).unwrap_or(0);
            // A state may be over before it is seen: the next one will do.
            if at(&seen) >= at(state) || moving.is_finished() {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        stage.served.kill_proxy(0);
        let at_kill = stage.state();
        let _ = moving.await;
        let start = Instant::now();
        let ended = wait_until(Duration::from_secs(30), || ["done", "failed"].contains(&stage.state().as_str()));
        assert!(ended, "{state}: still {}", stage.state());
        println!("{state} + {milliseconds} ms: killed at {at_kill}, {} after {:?}", stage.state(), start.elapsed());
        stage.expect_nothing_left(state);
        stage.ids();
        stage.served.start_proxy(0);
    }
    stop.set();
    let (count, longest) = writer.await.unwrap();
    println!("{count} writes, longest {longest:?}");
    stage.expect_all(ROWS, &[(1_000_000, count)]);
    let read = stage.served.psql(&format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT}"));
    assert_eq!(read, (ROWS + count).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn schema_changes_wait_for_moves_and_moves_for_them() {
    let stage = Stage::set(100);
    let served = &stage.served;
    served.psql("CREATE INDEX ledger_n ON ledger (n)");
    served.psql("CREATE TABLE gone (tenant bigint PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('gone', 'tenant', colocate_with => 'ledger')");
    let changes = [
        "ALTER TABLE ledger ADD COLUMN note text DEFAULT 'x'",
        "CREATE INDEX ledger_id ON ledger (id)",
        "DROP INDEX ledger_n",
        "CREATE TABLE more (tenant bigint PRIMARY KEY); SELECT create_distributed_table('more', 'tenant', colocate_with => 'ledger')",
        "DROP TABLE gone",
        "TRUNCATE ledger",
    ];
    for change in changes {
        // The move's slot waits for this transaction.
        let open = connect(&served.worker_dsn(stage.home())).await;
        open.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
        let (mover, sql) = (connect(&served.dsn(0)).await, stage.move_away());
        let moving = tokio::spawn(async move { mover.batch_execute(&sql).await });
        assert!(wait_until(Duration::from_secs(20), || stage.state() == "target_created"));
        let client = connect(&served.dsn(0)).await;
        let changing = tokio::spawn(async move { client.batch_execute(change).await });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!changing.is_finished() && !moving.is_finished(), "{change} waits");
        // A transaction that the move may have to wait for is refused instead.
        let used = format!(
            "BEGIN; UPDATE ledger SET n = 1 WHERE tenant = {TENANT} AND id = -1; ALTER TABLE ledger ADD COLUMN y int"
        );
        let client = connect(&served.dsn(0)).await;
        let error = client.batch_execute(&used).await.unwrap_err();
        assert_eq!(error.code().map(|c| c.code()), Some("55P03"), "{error:?}");
        drop(client);
        let home = stage.home();
        open.batch_execute("COMMIT").await.unwrap();
        moving.await.unwrap().unwrap_or_else(|e| panic!("moving during {change}: {:?}", e.as_db_error()));
        changing.await.unwrap().unwrap_or_else(|e| panic!("{change}: {:?}", e.as_db_error()));
        assert_ne!(stage.home(), home);
    }
    let columns = "SELECT count(*), count(*) FILTER (WHERE cols = 4) FROM (SELECT count(*) AS cols FROM pg_attribute a \
        JOIN pg_class c ON c.oid = attrelid WHERE relname = 'ledger' AND relkind = 'r' \
        AND relnamespace::regnamespace::text LIKE 'public\\_%' AND attnum > 0 AND NOT attisdropped GROUP BY c.oid) x";
    let numbers: Vec<_> = (0..2).map(|w| psql(&served.worker_dsn(w), columns)).collect();
    let total: i64 = numbers.iter().map(|n| n.split('|').next_back().unwrap().parse::<i64>().unwrap()).sum();
    assert_eq!(total, 4, "{numbers:?}");
    let tables = "SELECT relname || count(*) FROM pg_class WHERE relkind = 'r' AND relname IN ('more', 'gone') \
        AND relnamespace::regnamespace::text LIKE 'public\\_%' GROUP BY relname";
    let tables: Vec<_> = (0..2).map(|w| psql(&served.worker_dsn(w), tables)).collect();
    let more: i64 = tables.iter().map(|t| t.strip_prefix("more").map_or(0, |n| n.parse::<i64>().unwrap())).sum();
    assert_eq!(more, 4, "{tables:?}");
    assert_eq!(served.psql("SELECT count(*) FROM ledger"), "0");
    assert_eq!(served.psql(&format!("INSERT INTO more VALUES ({TENANT}) RETURNING tenant")), TENANT.to_string());

    // C13: every shard of the table is made alike, wherever it has been meanwhile.
    let made = "SELECT DISTINCT regexp_replace(string_agg(fact, '; ' ORDER BY fact), 'public_[0-9]+', 'shard', 'g') FROM (
            SELECT c.relnamespace, concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                pg_get_expr(d.adbin, d.adrelid)) AS fact
            FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, a.attnum)
            WHERE c.relname = 'ledger' AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL SELECT c.relnamespace, pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
            WHERE c.relname = 'ledger') facts
        WHERE relnamespace::regnamespace::text LIKE 'public\\_%' GROUP BY relnamespace";
    let made: Vec<_> = (0..2).map(|w| psql(&served.worker_dsn(w), made)).collect();
    assert!(made[0] == made[1] && made[0].lines().count() == 1 && made[0].contains("ledger_id"), "{made:#?}");

    // And a move waits for an open schema change.
    let client = connect(&served.dsn(0)).await;
    client.batch_execute("BEGIN; ALTER TABLE ledger ADD COLUMN z int").await.unwrap();
    let (mover, sql) = (connect(&served.dsn(0)).await, stage.move_away());
    let moving = tokio::spawn(async move { mover.batch_execute(&sql).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!moving.is_finished() && stage.state() == "done", "the move has not begun");
    client.batch_execute("COMMIT").await.unwrap();
    moving.await.unwrap().unwrap();
    served.psql(&format!("INSERT INTO ledger (tenant, id, z) VALUES ({TENANT}, 1, 1)"));
    stage.expect_nothing_left("after schema changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_is_undone_by_another_proxy_after_the_one_that_made_it_was_killed() {
    let mut stage = Stage::set_with(5_000, "[moves]\nundo_window = \"1h\"\n");
    stage.served.start_proxy(1);
    let stop = Arc::new(Stop::default());
    let writers: Vec<_> =
        (0..2i64).map(|w| tokio::spawn(write(stage.served.dsn(1), w * 1_000_000, stop.clone()))).collect();
    let home = stage.home();
    stage.served.psql(&stage.move_away());
    assert_ne!(stage.home(), home);
    let undoable = "SELECT back_of FROM tenantry.shard_move WHERE state = 'undoable'";
    let id = psql(&stage.served.coordinator_dsn(), undoable);
    // Somebody applies what clients write to the old copy; he is killed, and the other goes on.
    let follows = || stage.served.everywhere("SELECT 'active' FROM pg_replication_slots WHERE active") == ["active"];
    assert!(wait_until(Duration::from_secs(30), follows));
    stage.served.kill_proxy(0);
    assert!(wait_until(Duration::from_secs(30), || {
        stage.served.everywhere("SELECT 'active' FROM pg_replication_slots WHERE active") == ["active"]
    }));
    let client = connect(&stage.served.dsn(1)).await;
    client.batch_execute(&format!("SELECT tenantry_undo_move({id})")).await.unwrap();
    assert_eq!(stage.home(), home);
    stop.set();
    let mut written = Vec::new();
    for (w, writer) in (0i64..).zip(writers) {
        let (count, longest) = writer.await.unwrap();
        println!("{count} writes, longest {longest:?}");
        written.push((w * 1_000_000, count));
    }
    stage.expect_all(5_000, &written);
    stage.expect_nothing_left("after an undo");
    let again = client.batch_execute(&format!("SELECT tenantry_undo_move({id})")).await.unwrap_err();
    assert_eq!(again.code().map(|c| c.code()), Some("55000"), "{again:?}");

    // Writes wait for a move without a stream, and arrive.
    let stop = Arc::new(Stop::default());
    let writer = tokio::spawn(write(stage.served.dsn(1), 5_000_000, stop.clone()));
    let blocking = stage.move_away().replace(')', ", 'block_writes')");
    client.batch_execute(&blocking).await.unwrap();
    assert_ne!(stage.home(), home);
    stop.set();
    let (count, longest) = writer.await.unwrap();
    println!("{count} writes, longest {longest:?}");
    written.push((5_000_000, count));
    stage.expect_all(5_000, &written);
    stage.expect_nothing_left("after a move without a stream");
    let unknown = client.batch_execute(&stage.move_away().replace(')', ", 'gigantic')")).await.unwrap_err();
    assert_eq!(unknown.code().map(|c| c.code()), Some("22P02"), "{unknown:?}");
}

/// C25: whoever takes part in a move stays until it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_of_a_move_stays_until_its_end() {
    let mut stage = Stage::set_on_one_worker(100);
    let home = stage.home();
    let port_of = |worker: u16, stage: &Stage| format!("'127.0.0.1', {}", stage.served.worker_port(worker));
    // Keeps moves from their cutover.
    let reader = connect(&stage.served.dsn(0)).await;
    let read = format!("BEGIN; SELECT count(*) FROM ledger WHERE tenant = {TENANT}");
    reader.batch_execute(&read).await.unwrap();
    let (mover, sql) = (connect(&stage.served.dsn(0)).await, stage.move_away());
    let moving = tokio::spawn(async move { mover.batch_execute(&sql).await });
    assert!(wait_until(Duration::from_secs(20), || stage.state() == "caught_up"));
    for function in ["citus_remove_node", "citus_disable_node"] {
        let sql = format!("SELECT {function}({})", port_of(1 - home, &stage));
        let error = psql_error(&stage.served.dsn(0), &sql);
        assert!(error.contains("55000") && error.contains("because shard move"), "{sql}: {error}");
    }
    reader.batch_execute("COMMIT").await.unwrap();
    moving.await.unwrap().unwrap();
    assert_eq!(stage.home(), 1 - home);
    stage.expect_nothing_left("after a move");
    stage.served.psql(&format!("SELECT citus_remove_node({})", port_of(home, &stage)));
    assert!(stage.ids() == expected(100, &[]), "all rows are there");

    // One that died in a move whose proxy died too can be removed, and the move is undone without it.
    stage.served.psql(&format!("SELECT citus_add_node({})", port_of(home, &stage)));
    let reader = connect(&stage.served.worker_dsn(1 - home)).await;
    reader.batch_execute(&format!("BEGIN; SELECT count(*) FROM {}", stage.table())).await.unwrap();
    let (mover, sql) = (connect(&stage.served.dsn(0)).await, stage.move_away());
    let moving = tokio::spawn(async move { mover.batch_execute(&sql).await });
    assert!(wait_until(Duration::from_secs(20), || stage.state() == "caught_up"));
    stage.served.kill_proxy(0);
    assert!(moving.await.unwrap().is_err());
    stage.served.servers().kill_worker(home.into()).unwrap();
    reader.batch_execute("COMMIT").await.unwrap();
    stage.served.start_proxy(0);
    let client = connect(&stage.served.dsn(0)).await;
    client.batch_execute(&format!("INSERT INTO ledger VALUES ({TENANT}, 1, 0)")).await.unwrap();
    let remove = format!("SELECT citus_remove_node({})", port_of(home, &stage));
    let start = Instant::now();
    // A repair that is under way looks like a move.
    while let Err(error) = client.batch_execute(&remove).await {
        assert_eq!(error.code().map(|code| code.code()), Some("55000"), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(30), "{error:?}");
    }
    assert!(wait_until(Duration::from_secs(30), || stage.state() == "failed"), "still {}", stage.state());
    assert_eq!(psql(&stage.served.worker_dsn(1 - home), LEFTOVERS), "");
    let rows = stage.served.psql(&format!("SELECT count(*) FROM ledger WHERE tenant = {TENANT}"));
    assert_eq!(rows, "101");
}
