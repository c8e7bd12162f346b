//! Functions and the operations behind them against real servers: each test has a cluster of its own.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::json;

use super::Environment;
use crate::backend::{Identity, Nodes, Pools, Secret, ServerAddress, SessionSettings};
use crate::catalog::{self, Catalog};
use crate::dev_cluster::{self, DevCluster};
use crate::error::{Result, SqlState};
use crate::executor::cancel::CancelHandle;
use crate::executor::{Executor, Handed, Holds, Kind, ObjectIds, Origin, Transaction, TransactionIds};
use crate::operations::ddl;
use crate::operations::mover::MoverEnvironment;
use crate::planner::{Coordinator, Ddl, DdlAction, QualifiedName};
use crate::shard_map::NodeId;
use crate::sql::{Access, Splice, Spliced, With};

use crate::dev_cluster::ports::PortRange;

pub struct Cluster {
    ports: PortRange,
    pub servers: DevCluster,
    pub env: Environment,
    executor: Rc<Executor>,
}

impl Cluster {
    pub async fn start(workers: usize) -> Self {
        let ports = PortRange::reserve();
        let settings = dev_cluster::Settings {
            base_port: ports.first,
            workers,
            shared_buffers_mib: 16,
            ..dev_cluster::Settings::default()
        };
        let servers = DevCluster::start(settings).unwrap();
        let settings = catalog::Settings { port: servers.coordinator().port(), ..catalog::Settings::default() };
        let catalog = Catalog::open(settings).await.unwrap();
        let executor = Rc::new(Executor {
            pools: Pools::new(Nodes::new(Default::default())),
            catalog: catalog.clone(),
            map: catalog::MapAtHand::new(catalog.clone()),
            holds: Arc::new(Holds::default()),
            loads: Arc::new(crate::executor::loads::Loads::new(Arc::default(), String::new())),
            coordinator: ServerAddress { host: "127.0.0.1".into(), port: servers.coordinator().port() },
            object_ids: ObjectIds::default(),
            transaction_ids: Arc::new(TransactionIds::new("test".into())),
            settings: Default::default(),
        });
        let mover = MoverEnvironment::new(catalog.clone(), executor.holds.clone(), Arc::default());
        Self { ports, servers, env: Environment { catalog, mover, shard_count: 8 }, executor }
    }

    async fn with_workers() -> Self {
        let cluster = Self::start(2).await;
        for worker in cluster.servers.workers() {
            cluster.call("citus_add_node", &add_node(worker.port())).await.unwrap();
        }
        cluster
    }

    pub fn begin(&self) -> Transaction {
        let identity = Identity { user: "postgres".into(), database: "postgres".into(), secret: Secret::None };
        let origin = Origin {
            client: 1,
            memory: 1,
            executor: &self.executor,
            identity: &Rc::new(identity),
            settings: &SessionSettings::default(),
            cancel: &Arc::new(CancelHandle::default()),
            kept: &None,
            handed: &Handed::default(),
            first: &Rc::default(),
        };
        Transaction::new(Kind::Explicit, origin, "", None)
    }

    /// Calls a function as a client would: arguments by Postgres, then the operation, then the result by Postgres.
    pub async fn call_in(&self, txn: &mut Transaction, name: &str, arguments: &str) -> Result<Option<String>> {
        let sql = format!("SELECT tenantry_arguments.{name}({arguments})");
        let json = txn.query(NodeId::COORDINATOR, &sql).await?[0][0].clone().unwrap();
        let result = super::call(name, serde_json::from_str(&json).unwrap(), txn, &self.env).await?;
        let sql = format!("SELECT tenantry_result.{name}('{result}')");
        Ok(txn.query(NodeId::COORDINATOR, &sql).await?[0][0].clone())
    }

    pub async fn call(&self, name: &str, arguments: &str) -> Result<Option<String>> {
        let mut txn = self.begin();
        let result = self.call_in(&mut txn, name, arguments).await?;
        txn.commit().await?;
        Ok(result)
    }

    pub async fn sql(&self, sql: &str) {
        let mut txn = self.begin();
        txn.query(NodeId::COORDINATOR, sql).await.unwrap();
        txn.commit().await.unwrap();
    }

    /// First column of the answer.
    pub async fn ask(&self, node: NodeId, sql: &str) -> Vec<String> {
        let rows = self.begin().query(node, sql).await.unwrap();
        rows.into_iter().map(|row| row[0].clone().unwrap_or_default()).collect()
    }

    async fn rows_on_shards(&self, schema: &str, table: &str) -> i64 {
        let map = self.env.catalog.map();
        let mut total = 0;
        for group in &map.colocation(map.table(schema, table).unwrap().colocation).unwrap().shard_groups {
            let sql = format!("SELECT count(*) FROM {schema}_{}.{table}", group.id);
            total += self.ask(group.node, &sql).await[0].parse::<i64>().unwrap();
        }
        total
    }

    /// Runs a schema change of `table` whose name stands once in the text as ` <table>`.
    async fn ddl(&self, action: DdlAction, table: &str, text: &str) -> Result<()> {
        let mut txn = self.begin();
        let map = txn.map();
        let table = map.table("public", table).unwrap().clone();
        let at = text.find(&format!(" {}", table.name)).map_or(0, |at| at + 1) as u32;
        let splices = if table.is_reference() || at == 0 {
            vec![]
        } else {
            vec![Splice { at, len: 0, with: With::ShardSchema("public".into()) }]
        };
        let plan = Ddl { action, query: Spliced::new(text, splices), tables: vec![table] };
        ddl::run(&mut txn, &plan).await?;
        txn.commit().await
    }
}

pub fn add_node(port: u16) -> String {
    format!("'127.0.0.1', {port}")
}

#[tokio::test]
async fn a_filled_table_is_distributed_with_all_its_rows_and_its_shell_is_left_empty() {
    let cluster = Cluster::with_workers().await;
    assert_eq!(
        cluster.ask(NodeId::COORDINATOR, "SELECT nodeid FROM tenantry.pg_dist_node ORDER BY 1").await,
        ["1", "2"]
    );
    cluster
        .sql(
            "CREATE TYPE state AS ENUM ('a'); CREATE TYPE pair AS (a int, s state);
             CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2'; CREATE ROLE app LOGIN PASSWORD 'x';
             CREATE TABLE countries (code text PRIMARY KEY, name text);
             INSERT INTO countries VALUES ('de', 'Germany');
             CREATE TABLE companies (id bigint PRIMARY KEY, name text NOT NULL DEFAULT 'x' CHECK (name <> ''),
                 country text REFERENCES countries, twice bigint GENERATED ALWAYS AS (id * 2) STORED) WITH (fillfactor = 80);
             CREATE INDEX ON companies (name) WHERE id > 5; CREATE INDEX by_lower ON companies (lower(name));
             ALTER INDEX by_lower ALTER COLUMN 1 SET STATISTICS 22; COMMENT ON INDEX by_lower IS 'an index';
             ALTER TABLE companies ALTER name SET STATISTICS 11, ALTER name SET (n_distinct = 5), ALTER name SET COMPRESSION pglz;
             CREATE STATISTICS together ON id, name FROM companies; ALTER STATISTICS together SET STATISTICS 33;
             COMMENT ON STATISTICS together IS 'both'; COMMENT ON CONSTRAINT companies_pkey ON companies IS 'a key';
             CREATE POLICY all_of_them ON companies USING (true); COMMENT ON POLICY all_of_them ON companies IS 'all';
             COMMENT ON TABLE companies IS 'tenants';
             GRANT SELECT ON companies TO PUBLIC;
             INSERT INTO companies SELECT i, 'n' || i, 'de' FROM generate_series(1, 1000) i;
             CREATE TABLE campaigns (id bigint, company_id bigint REFERENCES companies ON DELETE CASCADE,
                 PRIMARY KEY (company_id, id));
             INSERT INTO campaigns SELECT 1, i FROM generate_series(1, 10) i",
        )
        .await;
    // An object made after the nodes were added is made everywhere by the statement itself; here only a local one.
    let refused = cluster.call("create_distributed_table", "'companies', 'id'").await.unwrap_err();
    assert_eq!(refused.code(), SqlState::INVALID_TABLE_DEFINITION, "{refused}");
    assert!(refused.hint_text().unwrap().contains("create_reference_table('countries')"));
    cluster.call("create_reference_table", "'countries'").await.unwrap();

    let mut txn = cluster.begin();
    cluster.call_in(&mut txn, "create_distributed_table", "'companies', 'id', shard_count := 8").await.unwrap();
    let notices: Vec<String> = txn.take_notices().into_iter().map(|(_, notice)| notice.message().to_owned()).collect();
    let waits =
        "foreign key \"campaigns_company_id_fkey\" of table public.campaigns waits until that is distributed too";
    assert_eq!(notices, [waits, "Copying data from local table...", "copying the data has completed"]);
    txn.commit().await.unwrap();
    cluster.call("create_distributed_table", "'campaigns', 'company_id', colocate_with => 'companies'").await.unwrap();

    assert_eq!(cluster.rows_on_shards("public", "companies").await, 1000);
    assert_eq!(cluster.rows_on_shards("public", "campaigns").await, 10);
    assert_eq!(cluster.ask(NodeId::COORDINATOR, "SELECT count(*) FROM companies").await, ["0"]);
    let shard =
        cluster.ask(NodeId::COORDINATOR, "SELECT tenantry.get_shard_id_for_distribution_column('companies', 5)").await;
    let map = cluster.env.catalog.map();
    let table = map.table("public", "companies").unwrap();
    let group = map.colocation(table.colocation).unwrap();
    let place = group.shard_groups.iter().find(|g| g.id.0.to_string() == shard[0]).unwrap();
    let found = format!("SELECT name FROM public_{}.companies WHERE id = 5", place.id);
    assert_eq!(cluster.ask(place.node, &found).await, ["n5"]);

    let details = format!(
        "SELECT concat_ws(' ', (SELECT string_agg(concat_ws(' ', attstattarget, attoptions, attcompression), ',') FROM pg_attribute
                WHERE attrelid = c.oid AND attname = 'name'),
            (SELECT attstattarget FROM pg_attribute WHERE attrelid = to_regclass(s || '.by_lower')),
            (SELECT stxstattarget FROM pg_statistic_ext WHERE stxrelid = c.oid),
            (SELECT string_agg(description, ', ' ORDER BY description) FROM pg_description
             WHERE objsubid = 0 AND objoid IN (SELECT objid FROM pg_depend WHERE refobjid = c.oid UNION SELECT c.oid)))
         FROM (VALUES ('public_{}')) v (s) JOIN pg_class c ON c.oid = to_regclass(s || '.companies')",
        place.id
    );
    assert_eq!(
        cluster.ask(place.node, &details).await,
        ["11 {n_distinct=5} p 22 33 a key, all, an index, both, tenants"]
    );

    let name = |name: &str, text: &str| {
        let at = text.find(name).unwrap() as u32;
        let schema = name.starts_with("public.").then(|| "public".to_owned());
        QualifiedName { schema, name: "together".into(), at, len: name.len() as u32, name_at: at }
    };
    let shards = "SELECT string_agg(DISTINCT stxstattarget::text, ',') FROM pg_statistic_ext";
    for (text, written, drops, wanted) in [
        ("ALTER STATISTICS together SET STATISTICS 44;", "together", false, "44"),
        ("DROP STATISTICS IF EXISTS public.together", "public.together", true, ""),
    ] {
        let names = vec![name(written, text)];
        let action = DdlAction::Statistics { names, drops, sets_schema: false };
        cluster.ddl(action, "companies", text).await.unwrap();
        for node in [NodeId::COORDINATOR, NodeId(1), NodeId(2)] {
            assert_eq!(cluster.ask(node, &format!("SELECT coalesce(({shards}), '')")).await, [wanted], "{text}");
        }
    }

    let error = cluster.begin().query(NodeId::COORDINATOR, "INSERT INTO companies VALUES (1)").await.unwrap_err();
    assert_eq!(error.code(), SqlState::SERIALIZATION_FAILURE, "the shell is sealed: {error}");

    let fk = "ALTER TABLE campaigns ADD CONSTRAINT fk FOREIGN KEY (company_id) REFERENCES companies (id)";
    let mut txn = cluster.begin();
    let at =
        |name: &str| Splice { at: fk.find(name).unwrap() as u32 + 1, len: 0, with: With::ShardSchema("public".into()) };
    let tables = vec![map.table("public", "campaigns").cloned().unwrap_or_else(|| panic!())];
    let query = Spliced::new(fk, vec![at(" campaigns"), at(" companies")]);
    ddl::run(&mut txn, &Ddl { action: DdlAction::AlterTable, query, tables }).await.unwrap();
    txn.commit().await.unwrap();

    let tables = "SELECT table_name || ' ' || citus_table_type || ' ' || distribution_column || ' ' || shard_count \
                  FROM tenantry.citus_tables";
    assert_eq!(
        cluster.ask(NodeId::COORDINATOR, tables).await,
        ["campaigns distributed company_id 8", "companies distributed id 8", "countries reference <none> 1"]
    );
    let mut txn = cluster.begin();
    let sizes = catalog::shards::sizes(&txn.map(), NodeId(1)).unwrap();
    assert_eq!(txn.query(NodeId(1), &sizes).await.unwrap().len(), 4 + 4 + 1);

    // A third worker gets the reference table's rows, roles and types before its first shard.
    let mut servers = cluster.servers;
    let third = servers.add_worker().unwrap();
    let cluster = Cluster { servers, ..cluster };
    assert_eq!(cluster.call("citus_add_node", &add_node(third.port())).await.unwrap().as_deref(), Some("3"));
    assert_eq!(cluster.call("citus_add_node", &add_node(third.port())).await.unwrap().as_deref(), Some("3"));
    assert_eq!(cluster.ask(NodeId(3), "SELECT name FROM countries").await, ["Germany"]);
    assert_eq!(cluster.ask(NodeId(3), "SELECT 'a'::state").await, ["a"]);
    assert_eq!(cluster.ask(NodeId(3), "SELECT twice(21)::text || (ROW(1, 'a')::pair)::text").await, ["42(1,a)"]);
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
    assert_eq!(cluster.ask(NodeId(3), verifier).await, cluster.ask(NodeId::COORDINATOR, verifier).await);
    cluster.call("citus_remove_node", &add_node(third.port())).await.unwrap();
    // Noted down first, and put into service later; taken out again while it holds no shards.
    let inactive = cluster.call("citus_add_inactive_node", &add_node(third.port())).await.unwrap();
    assert_eq!(inactive.as_deref(), Some("4"));
    assert_eq!(cluster.env.catalog.map().active_workers().count(), 2);
    cluster.sql("CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (7)").await;
    cluster.call("create_reference_table", "'later'").await.unwrap();
    cluster.call("citus_activate_node", &add_node(third.port())).await.unwrap();
    assert_eq!(cluster.ask(NodeId(4), "SELECT id FROM later").await, ["7"]);
    cluster.call("citus_disable_node", &add_node(third.port())).await.unwrap();
    assert_eq!(cluster.env.catalog.map().active_workers().count(), 2);
    let health = "SELECT count(*) FROM tenantry_result.citus_check_cluster_node_health('{}') r WHERE r.result";
    let mut txn = cluster.begin();
    let rows = super::call("citus_check_cluster_node_health", json!({}), &mut txn, &cluster.env).await.unwrap();
    assert_eq!(
        txn.query(NodeId::COORDINATOR, &health.replace("{}", &rows.to_string())).await.unwrap()[0][0],
        Some("3".into())
    );
    drop(txn);
    let down = cluster.call("citus_check_connection_to_node", "'127.0.0.1', 1").await.unwrap();
    assert_eq!(down.as_deref(), Some("f"));

    // The same server under another name is taken; a server without the shards is not.
    let second = cluster.servers.workers()[1].port();
    cluster.call("citus_update_node", &format!("2, 'localhost', {second}")).await.unwrap();
    assert_eq!(cluster.env.catalog.map().node(NodeId(2)).map(|n| n.host.as_str()), Some("localhost"));
    assert_eq!(cluster.rows_on_shards("public", "companies").await, 1000);
    cluster.call("citus_remove_node", &add_node(third.port())).await.unwrap();
    let refused = cluster.call("citus_update_node", &format!("2, '127.0.0.1', {}", third.port())).await.unwrap_err();
    assert_eq!(refused.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(refused.detail_text().unwrap().starts_with("The server there lacks shards of the node: public_"));

    let first = cluster.servers.workers()[0].port();
    let refused = cluster.call("citus_remove_node", &add_node(first)).await.unwrap_err();
    let why = format!("cannot remove or disable the node 127.0.0.1:{first} because because it");
    assert!(refused.message().starts_with(&why));
    let hint = |refused: &crate::error::PgError| refused.hint_text().unwrap_or_default().to_owned();
    assert!(hint(&refused).contains("citus_drain_node"), "{}", hint(&refused));
    // With no other node its shards have nowhere to go.
    let elsewhere = format!("'localhost', {second}, 'shouldhaveshards', false");
    cluster.call("citus_set_node_property", &elsewhere).await.unwrap();
    let refused = cluster.call("citus_remove_node", &add_node(first)).await.unwrap_err();
    assert!(hint(&refused).contains("SELECT undistribute_table(...)"), "{}", hint(&refused));
    cluster.servers.stop();
}

#[tokio::test]
async fn a_schema_change_reaches_every_shard_or_nothing() {
    let cluster = Cluster::with_workers().await;
    cluster.sql("CREATE TABLE t (k int, v text); CREATE TABLE r (a int PRIMARY KEY)").await;
    cluster.call("create_distributed_table", "'t', 'k'").await.unwrap();
    cluster.call("create_reference_table", "'r'").await.unwrap();
    cluster
        .ddl(DdlAction::AlterTable, "t", "ALTER TABLE t ADD COLUMN n int DEFAULT 5, ADD PRIMARY KEY (k)")
        .await
        .unwrap();
    cluster.ddl(DdlAction::CreateIndex { concurrently: false }, "t", "CREATE INDEX ON t (v);").await.unwrap();
    cluster.ddl(DdlAction::AlterTable, "r", "ALTER TABLE r ADD COLUMN b text").await.unwrap();
    let columns = "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
                   WHERE c.relname IN ('t', 'r') AND a.attname IN ('n', 'b')";
    for node in [NodeId(1), NodeId(2)] {
        assert_eq!(cluster.ask(node, columns).await, ["5"]);
        assert_eq!(cluster.ask(node, "SELECT count(*) FROM pg_class WHERE relname = 't_v_idx'").await, ["4"]);
    }
    assert!(cluster.env.catalog.map().table("public", "t").unwrap().has_column("n"));
    let guards = "SELECT tgenabled FROM pg_trigger WHERE tgname = 'tenantry_shell'";
    for (table, what) in [("t", "ALL"), ("t", "USER"), ("r", "ALL")] {
        let disable = format!("ALTER TABLE {table} DISABLE TRIGGER {what}");
        cluster.ddl(DdlAction::AlterTable, table, &disable).await.unwrap();
        assert_eq!(cluster.ask(NodeId::COORDINATOR, guards).await, ["O", "O"], "{disable}: the guards stay");
    }

    for (text, code, message) in [
        ("ALTER TABLE t ADD UNIQUE (v)", "0A000", "cannot create constraint on \"t\""),
        (
            "CREATE UNIQUE INDEX ON t (v)",
            "0A000",
            "creating unique indexes on non-partition columns is currently unsupported",
        ),
        ("ALTER TABLE t DROP COLUMN k", "0A000", "cannot execute ALTER TABLE command involving partition column"),
        ("ALTER TABLE t ALTER k TYPE bigint", "0A000", "cannot execute ALTER TABLE command involving partition column"),
        (
            "ALTER TABLE t ADD COLUMN s serial",
            "0A000",
            "cannot add a serial, identity or nextval default together with a constraint or another change",
        ),
        ("ALTER TABLE t ADD COLUMN n int", "42701", "column \"n\" of relation \"t\" already exists"),
    ] {
        let error = cluster.ddl(DdlAction::AlterTable, "t", text).await.unwrap_err();
        assert_eq!((error.code().to_string().as_str(), error.message()), (code, message), "{text}");
    }

    let name = QualifiedName { schema: None, name: "t_v_idx".into(), at: 12, len: 7, name_at: 12 };
    let rename = DdlAction::AlterIndex { name, part: None };
    cluster.ddl(rename, "t", "ALTER INDEX t_v_idx RENAME TO other").await.unwrap();
    let name = QualifiedName { schema: Some("public".into()), name: "other".into(), at: 0, len: 0, name_at: 0 };
    let drop = DdlAction::DropIndex { names: vec![name], concurrently: false, if_exists: false, cascade: false };
    cluster.ddl(drop, "t", "DROP INDEX public.other").await.unwrap();
    assert_eq!(
        cluster.ask(NodeId(1), "SELECT count(*) FROM pg_class WHERE relname IN ('t_v_idx', 'other')").await,
        ["0"]
    );

    cluster.ddl(DdlAction::AlterTable, "t", "ALTER TABLE t RENAME TO u").await.unwrap();
    let defaults = "ALTER TABLE u ADD d1 int DEFAULT 1 + 2, ADD d2 text DEFAULT lower('X') || 'y', ADD d3 date DEFAULT current_date, \
                    ADD d4 timestamptz DEFAULT now(), ADD d5 uuid DEFAULT gen_random_uuid(), ADD d6 text[] DEFAULT '{}'";
    cluster.ddl(DdlAction::AlterTable, "u", defaults).await.unwrap();
    let map = cluster.env.catalog.map();
    let columns = &map.table("public", "u").unwrap().columns;
    let volatile: Vec<_> = columns.iter().filter(|c| c.has_volatile_default).map(|c| c.name.as_str()).collect();
    assert_eq!(volatile, ["d3", "d4", "d5"]);
    let truncate = DdlAction::Truncate { cascade: false, restart_identity: false };
    cluster.ddl(truncate, "u", "TRUNCATE u").await.unwrap();

    let mut txn = cluster.begin();
    let text = "CREATE ROLE app LOGIN PASSWORD 'secret'";
    let statement = Coordinator {
        query: Spliced::verbatim(text),
        access: Access::Write,
        returns_rows: false,
        pins: false,
        needs_block: false,
        pins_unknown: false,
        frees: false,
        recalls: None,
        renumbers: None,
        sets: Vec::new(),
        changes_schema: true,
        on_all_nodes: true,
        outside_transaction: false,
        needs: vec![],
    };
    ddl::run_on_all_nodes(&mut txn, &statement).await.unwrap();
    txn.commit().await.unwrap();
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'";
    assert_eq!(cluster.ask(NodeId(2), verifier).await, cluster.ask(NodeId::COORDINATOR, verifier).await);

    let drop = || DdlAction::DropTable { others: false, if_exists: false, cascade: false };
    cluster.ddl(drop(), "r", "DROP TABLE r").await.unwrap();
    cluster.ddl(drop(), "u", "DROP TABLE u").await.unwrap();
    for node in [NodeId(1), NodeId(2)] {
        assert_eq!(
            cluster.ask(node, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public\\__%'").await,
            ["0"]
        );
        assert_eq!(cluster.ask(node, "SELECT count(*) FROM pg_class WHERE relname IN ('r', 'u')").await, ["0"]);
    }
    assert_eq!(cluster.ask(NodeId::COORDINATOR, "SELECT count(*) FROM tenantry.shard_group").await, ["0"]);
    assert_eq!(cluster.env.catalog.map().tables().count(), 0);
    cluster.servers.stop();
}

#[tokio::test]
async fn what_cannot_be_distributed_is_refused_in_the_words_that_users_know() {
    let cluster = Cluster::start(2).await;
    cluster
        .sql(
            "CREATE TABLE plain (k int, j json, v text, g int GENERATED ALWAYS AS (1) STORED, m money, e bytea);
             CREATE TABLE keyed (k int, id int PRIMARY KEY); CREATE TABLE serials (id bigint DEFAULT nextval('any'::text), k int);
             CREATE TABLE parts (k int) PARTITION BY HASH (k);
             CREATE TABLE part PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0); CREATE VIEW sight AS SELECT 1 AS k;
             CREATE TABLE nulls (k int); INSERT INTO nulls VALUES (NULL);
             CREATE TABLE seen (k int); CREATE VIEW looks AS SELECT * FROM seen;
             CREATE TABLE other (k bigint)",
        )
        .await;
    let none = cluster.call("create_distributed_table", "'plain', 'k'").await.unwrap_err();
    assert_eq!(
        (none.message(), none.hint_text()),
        ("no worker nodes are available for placing shards", Some("Add more worker nodes."))
    );
    for (host, port, code) in [
        ("127.0.0.1", u32::from(cluster.ports.first) + 14, "08006"),
        ("", 5432, "22023"),
        ("127.0.0.1", 99999, "22023"),
    ] {
        let error = cluster.call("citus_add_node", &format!("'{host}', {port}")).await.unwrap_err();
        assert_eq!(error.code().to_string(), code, "{error}");
    }
    let own_port = cluster.servers.coordinator().port();
    let error = cluster.call("citus_add_node", &add_node(own_port)).await.unwrap_err();
    assert_eq!(error.detail_text(), Some("It is the coordinator itself."));
    for worker in cluster.servers.workers() {
        cluster.call("citus_add_node", &add_node(worker.port())).await.unwrap();
    }
    for (arguments, code, message) in [
        ("'plain', 'nope'", "42703", "column \"nope\" of relation \"plain\" does not exist"),
        ("'plain', 'j'", "42704", "could not identify a hash function for type json"),
        ("'plain', 'm'", "42704", "could not identify a hash function for type money"),
        ("'plain', 'g'", "0A000", "cannot distribute relation: plain"),
        ("'plain', 'k', 'range'", "0A000", "distribution type range is not supported"),
        ("'plain', NULL", "0A000", "single-shard tables (a NULL distribution column) are not supported yet"),
        (
            "'plain', 'k', shard_count := 0",
            "22023",
            "0 is outside the valid range for parameter \"shard_count\" (1 .. 64000)",
        ),
        ("'plain', 'k', colocate_with := 'keyed'", "42P16", "relation keyed is not distributed"),
        ("'plain', 'k', colocate_with := 'nowhere'", "42P01", "relation \"nowhere\" does not exist"),
        ("'keyed', 'k'", "0A000", "cannot create constraint on \"keyed\""),
        (
            "'serials', 'k'",
            "0A000",
            "a default that draws from several sequences, or from a computed one, is not supported on distributed tables",
        ),
        ("'part', 'k'", "0A000", "cannot distribute relation: part"),
        ("'sight', 'k'", "42809", "sight is not a regular, foreign or partitioned table"),
        ("'seen', 'k'", "0A000", "views over distributed tables are not supported yet"),
        ("'nulls', 'k'", "22004", "the partition column of table public.nulls cannot be NULL"),
    ] {
        let error = cluster.call("create_distributed_table", arguments).await.unwrap_err();
        assert_eq!((error.code().to_string().as_str(), error.message()), (code, message), "{arguments}");
    }
    cluster.call("create_distributed_table", "'plain', 'k'").await.unwrap();
    let twice = cluster.call("create_distributed_table", "'plain', 'k'").await.unwrap_err();
    assert_eq!(
        (twice.code(), twice.message()),
        (SqlState::INVALID_TABLE_DEFINITION, "table \"plain\" is already distributed")
    );
    let mut txn = cluster.begin();
    txn.query(NodeId::COORDINATOR, "CREATE VIEW v AS SELECT k FROM plain").await.unwrap();
    assert_eq!(ddl::settle_what_leans_on_shells(&mut txn).await.unwrap_err().code(), SqlState::FEATURE_NOT_SUPPORTED);
    let types = cluster.call("create_distributed_table", "'other', 'k', colocate_with := 'plain'").await.unwrap_err();
    assert_eq!(types.detail_text(), Some("Distribution column types don't match for plain and other."));
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'public\\__%'";
    assert_eq!(cluster.ask(NodeId(1), left).await, ["4"], "refused calls leave nothing behind");
    cluster.servers.stop();
}

#[tokio::test]
async fn a_committed_change_reaches_a_watching_catalog() {
    let cluster = Cluster::start(1).await;
    let watching = Catalog::open(cluster.env.catalog.settings().clone()).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&watching).watch(stop.clone()));
    let version = watching.map().version();
    cluster.call("citus_add_node", &add_node(cluster.servers.workers()[0].port())).await.unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    let map = watching.changed_since(version, deadline).await;
    assert_eq!(map.active_workers().count(), 1);
    let again = watching.refresh().await.unwrap();
    assert_eq!(again.version(), map.version(), "an unchanged catalog keeps its map");
    assert!(watching.node_pool(NodeId(1)).await.is_ok());
    assert_eq!(watching.node_pool(NodeId(9)).await.map(|_| ()).unwrap_err().code(), SqlState::UNDEFINED_OBJECT);

    let client = watching.client(NodeId::COORDINATOR).await.unwrap();
    use catalog::two_phase::{self, Decision};
    assert_eq!(two_phase::decide(&**client, "x", Decision::Abort, &[NodeId(1)]).await.unwrap(), Decision::Abort);
    assert_eq!(two_phase::decide(&**client, "x", Decision::Commit, &[NodeId(1)]).await.unwrap(), Decision::Abort);
    two_phase::forget(&**client, "x").await.unwrap();
    assert!(two_phase::all(&**client).await.unwrap().is_empty());
    use catalog::jobs::{self, JobState};
    let id = jobs::add(&**client, "move", &json!({"a": 1}), "moves a").await.unwrap();
    assert!(jobs::advance(&**client, id, JobState::Scheduled, JobState::Running, None).await.unwrap());
    assert!(!jobs::advance(&**client, id, JobState::Scheduled, JobState::Running, None).await.unwrap());
    assert!(jobs::advance(&**client, id, JobState::Running, JobState::Failed, Some("no")).await.unwrap());
    assert_eq!(jobs::find(&**client, id).await.unwrap().unwrap().arguments, json!({"a": 1}));
    assert!(jobs::unfinished(&**client).await.unwrap().is_empty());
    use catalog::cleanup::{self, Policy, Record};
    let record = Record {
        operation: cleanup::next_operation(&**client).await.unwrap(),
        object_type: "slot".into(),
        object_name: "s".into(),
        node: NodeId(1),
        policy: Policy::Always,
    };
    let id = cleanup::add(&**client, &record).await.unwrap();
    assert_eq!(cleanup::of_operation(&**client, record.operation).await.unwrap(), vec![(id, record)]);
    cleanup::remove(&**client, id).await.unwrap();
    assert!(cleanup::all(&**client).await.unwrap().is_empty());
    stop.cancel();
    task.await.unwrap();
    cluster.servers.stop();
}

#[tokio::test]
async fn a_member_of_tenantry_admin_distributes_tables_of_its_own() {
    let cluster = Cluster::start(1).await;
    cluster
        .sql("CREATE ROLE app; GRANT CREATE ON SCHEMA public TO app; SET ROLE app; CREATE TABLE t (k int); RESET ROLE")
        .await;
    let port = cluster.servers.workers()[0].port();
    cluster.call("citus_add_node", &add_node(port)).await.unwrap();
    let as_app = async |member: bool| -> Result<()> {
        let mut txn = cluster.begin();
        if member {
            txn.query(NodeId::COORDINATOR, "GRANT tenantry_admin TO app").await?;
            txn.query(NodeId(1), "GRANT tenantry_admin TO app").await?;
        }
        for node in [NodeId::COORDINATOR, NodeId(1)] {
            txn.query(node, "SET LOCAL ROLE app").await?;
        }
        cluster.call_in(&mut txn, "create_distributed_table", "'t', 'k'").await?;
        txn.commit().await
    };
    assert_eq!(as_app(false).await.unwrap_err().code(), SqlState::INSUFFICIENT_PRIVILEGE);
    as_app(true).await.unwrap();
    let owners = "SELECT DISTINCT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname LIKE 'public\\__%'";
    assert_eq!(cluster.ask(NodeId(1), owners).await, ["app"]);
    cluster.servers.stop();
}

#[tokio::test]
async fn a_new_size_of_the_cluster_is_written_down_for_whoever_runs_the_servers() {
    let cluster = Cluster::start(1).await;
    assert_eq!(cluster.call("tenantry_cluster_edit", "3").await.unwrap().as_deref(), Some("1"));
    let asked = "SELECT workers || ' ' || state || ' ' || ready || '/' || wanted FROM tenantry.cluster_request";
    assert_eq!(cluster.ask(NodeId::COORDINATOR, asked).await, ["3 Pending 1/4"]);
    let none = cluster.call("tenantry_cluster_edit", "0").await.unwrap_err();
    assert_eq!(none.code(), SqlState::INVALID_PARAMETER_VALUE);
    cluster.servers.stop();
}
