//! Triggers of distributed tables: they stand on every shard, fire once for a client's write and never for a move's. What
//! statements answer is compared with a plain Postgres in `regress/triggers.sql`.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::served::{Served, Stop, connect};
use support::{psql, psql_error, wait_until};

/// `fires` is in no trigger's own function, and on each server by itself: what fires there is counted there.
const FUNCTIONS: &str = "
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.updated_at := now(); NEW.touched := CASE TG_OP WHEN 'INSERT' THEN 0 ELSE OLD.touched END + 1; RETURN NEW; END $$;
    CREATE FUNCTION note_fire(what text) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN EXECUTE format('INSERT INTO fires VALUES (%L)', what); END $$;
    CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM note_fire(TG_NAME || ' ' || lower(TG_OP)); RETURN NULL; END $$;
    CREATE FUNCTION sane() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.tenant = 666 OR NEW.n < 0 THEN
                RAISE EXCEPTION 'n must not be % in %', NEW.n, TG_ARGV[0] USING ERRCODE = '23514', HINT = 'Give another.';
            END IF;
            RETURN NEW;
        END $$";

const TABLES: &str = "
    CREATE TABLE notes (tenant bigint NOT NULL, id bigint NOT NULL, n bigint DEFAULT 0, touched bigint, updated_at timestamptz,
        PRIMARY KEY (tenant, id));
    CREATE TRIGGER a_touch BEFORE INSERT OR UPDATE OF n ON notes FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE TRIGGER \"B of public.notes ON public.notes \" BEFORE INSERT OR UPDATE ON notes FOR EACH ROW
        WHEN (NEW.n < 10 OR NEW.n IS DISTINCT FROM 11) EXECUTE FUNCTION sane('a \\ b');
    CREATE TRIGGER count AFTER INSERT OR UPDATE OR DELETE ON notes FOR EACH ROW EXECUTE FUNCTION fired();
    CREATE TRIGGER off AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION fired();
    ALTER TABLE notes DISABLE TRIGGER off;
    COMMENT ON TRIGGER count ON notes IS 'counts';
    CREATE TABLE events (tenant bigint NOT NULL, id bigint, at date NOT NULL, n bigint, touched bigint, updated_at timestamptz)
        PARTITION BY RANGE (at);
    CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TRIGGER touch BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION touch();
    CREATE TRIGGER sane BEFORE INSERT ON events_2025 FOR EACH ROW EXECUTE FUNCTION sane('2025');
    ALTER TABLE events_2026 DISABLE TRIGGER touch";

/// A schema's triggers with their states, the schema's own name taken out in front of the table.
const TRIGGERS: &str = "
    SELECT string_agg(regexp_replace(
        concat_ws(' ', c.relname, g.tgname, g.tgenabled, g.tgparentid <> 0, pg_get_triggerdef(g.oid),
            obj_description(g.oid, 'pg_trigger')), ' ON SCHEMA\\.(\\w+ (FOR|DEFERRABLE) )', ' ON \\1'), E'\\n' ORDER BY c.relname, g.tgname)
    FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
    WHERE c.relnamespace = 'SCHEMA'::regnamespace AND NOT g.tgisinternal AND g.tgname <> 'tenantry_shell'";

/// On every shard what stands on the shells. Answers how many triggers that is.
fn expect_shards_like_shells(served: &Served, when: &str) -> usize {
    let shells = psql(&served.coordinator_dsn(), &TRIGGERS.replace("SCHEMA", "public"));
    let sql = "SELECT nspname FROM pg_namespace WHERE nspname ~ '^public_[0-9]+$' ORDER BY nspname";
    let mut schemas = 0;
    for worker in 0..2 {
        let dsn = served.worker_dsn(worker);
        for schema in psql(&dsn, sql).lines() {
            assert_eq!(psql(&dsn, &TRIGGERS.replace("SCHEMA", schema)), shells, "{when}: {schema}");
            schemas += 1;
        }
    }
    let groups = psql(&served.coordinator_dsn(), "SELECT count(*) FROM tenantry.shard_group");
    assert_eq!(schemas.to_string(), groups, "{when}");
    shells.lines().count()
}

/// How often triggers fired, on all servers together, and forgets it.
fn take_fires(served: &Served) -> i64 {
    let taken = served.everywhere("WITH gone AS (DELETE FROM fires RETURNING what) SELECT count(*) FROM gone");
    taken.iter().map(|count| count.parse::<i64>().expect("a number")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn triggers_stand_on_shards_and_fire_for_clients_only() {
    let served = Served::start_with(2, 2, "[moves]\nundo_window = \"1h\"\n");
    served.everywhere("CREATE TABLE fires (what text)");
    served.psql(FUNCTIONS);
    served.psql(TABLES);
    served.psql("INSERT INTO notes SELECT i % 8, i FROM generate_series(1, 200) i");
    assert_eq!(take_fires(&served), 200, "the table is local yet");
    served.psql("SELECT create_distributed_table('notes', 'tenant', shard_count => 4)");
    served.psql("SELECT create_distributed_table('events', 'tenant', colocate_with => 'notes')");
    assert_eq!(take_fires(&served), 0, "nobody but clients fires");
    assert_eq!(expect_shards_like_shells(&served, "distributed"), 8);
    let comments = "SELECT DISTINCT description FROM pg_description WHERE classoid = 'pg_trigger'::regclass";
    assert_eq!(served.everywhere(comments), ["counts", "counts", "counts"]);
    each_write_fires_once(&served);
    moves_fire_nothing(&served).await;
    distributed_under_writers(&served).await;
    changes_reach_every_shard(&served);
    deferred_checks_hold_at_the_commit(&served);
    what_cannot_be_is_refused(&served);
}

fn each_write_fires_once(served: &Served) {
    let row = "touched, updated_at > now() - interval '1 hour'";
    assert_eq!(served.psql(&format!("INSERT INTO notes (tenant, id) VALUES (1, 1001) RETURNING {row}")), "1|t");
    let update = "UPDATE notes SET n = n + 1 WHERE tenant = 1 AND id = 1001";
    assert_eq!(served.psql(&format!("{update} RETURNING {row}")), "2|t");
    served.psql("DELETE FROM notes WHERE tenant = 1 AND id = 1001");
    assert_eq!(take_fires(served), 3);
    served.psql("UPDATE notes SET n = n");
    assert_eq!(take_fires(served), 200, "over all shards, each row once");
    served.psql("INSERT INTO notes (tenant, id) SELECT tenant, id + 1000 FROM notes");
    served.psql("BEGIN; DELETE FROM notes WHERE id > 1000; ROLLBACK");
    served.psql("DELETE FROM notes WHERE id > 1000");
    assert_eq!(take_fires(served), 400);
    assert_eq!(served.psql("SELECT min(touched), max(touched) FROM notes"), "2|2");
    for sql in [
        "INSERT INTO notes (tenant, id, n) VALUES (1, 2001, -1)",
        "INSERT INTO notes (tenant, id, n) VALUES (1, 2001, 0), (2, 2001, 0), (3, 2001, 0), (4, 2001, 0), (666, 2001, -1)",
    ] {
        let error = psql_error(&served.dsn(0), sql);
        let wanted = "23514: n must not be -1 in a \\ b";
        assert!(error.contains(wanted) && error.contains("Give another."), "{sql}: {error}");
    }
    assert_eq!(served.psql("SELECT count(*) FROM notes WHERE id = 2001"), "0");
    assert_eq!(take_fires(served), 0, "what was rolled back has not fired");
    let events = "INSERT INTO events VALUES (1, 1, '2025-05-05'), (1, 2, '2026-05-05') RETURNING id, touched";
    assert_eq!(served.psql(events), "1|1\n2|", "a partition's trigger is off");
}

/// Adds one to a row again and again; answers how often.
async fn count_up(dsn: String, table: &str, tenant: i64, stop: Arc<Stop>) -> i64 {
    let client = connect(&dsn).await;
    let sql = format!("UPDATE {table} SET n = n + 1 WHERE tenant = $1 AND id = $2");
    let update = client.prepare(&sql).await.unwrap();
    let mut times = 0;
    while !stop.is_set() {
        let id = if tenant == 0 { 8 } else { tenant };
        let changed = client.execute(&update, &[&tenant, &id]).await;
        assert_eq!(changed.unwrap_or_else(|e| panic!("{sql}: {:?}", e.as_db_error())), 1);
        times += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times
}

/// Runs SQL while clients write; expects as many fires as writes.
async fn under_writers(served: &Served, table: &'static str, work: &[String]) {
    let stop = Arc::new(Stop::default());
    let writers: Vec<_> =
        (0..8).map(|tenant| tokio::spawn(count_up(served.dsn(0), table, tenant, stop.clone()))).collect();
    let client = connect(&served.dsn(0)).await;
    for sql in work {
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {:?}", e.as_db_error()));
    }
    stop.set();
    let mut writes = 0;
    for writer in writers {
        writes += writer.await.unwrap();
    }
    assert!(writes > 8, "{writes} writes");
    assert_eq!(take_fires(served), writes, "{work:?}");
}

async fn moves_fire_nothing(served: &Served) {
    let shard = |tenant: i64| served.psql(&format!("SELECT get_shard_id_for_distribution_column('notes', {tenant})"));
    let touched = "SELECT sum(touched - n), count(*) FROM notes";
    let before = served.psql(touched);
    for mode in ["block_writes", "auto"] {
        let shard = shard(1);
        let from = format!("SELECT nodeport FROM pg_dist_shard_placement WHERE shardid = {shard}");
        let from: u16 = served.psql(&from).parse().expect("a port");
        let to = served.worker_port(0) + served.worker_port(1) - from;
        let sql =
            format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to}, '{mode}')");
        under_writers(served, "notes", &[sql]).await;
        expect_shards_like_shells(served, mode);
    }
    let last = "SELECT max(moveid) FROM tenantry.shard_move WHERE state = 'done'";
    let undo = format!("SELECT tenantry_undo_move({})", psql(&served.coordinator_dsn(), last));
    // What is written while we sleep goes to the old copy, and comes back with it.
    under_writers(served, "notes", &["SELECT pg_sleep(0.5)".to_owned(), undo]).await;
    expect_shards_like_shells(served, "undone");
    assert_eq!(served.psql(touched), before, "undone");
    let split = format!("SELECT tenantry_split_shard({}, 2)", shard(1));
    under_writers(served, "notes", &[split]).await;
    expect_shards_like_shells(served, "split");
    let isolate = "SELECT isolate_tenant_to_new_shard('notes', 2, 'CASCADE')".to_owned();
    under_writers(served, "notes", &[isolate]).await;
    expect_shards_like_shells(served, "isolated");
    under_writers(served, "notes", &["SELECT tenantry_return_tenant('notes', 2)".to_owned()]).await;
    expect_shards_like_shells(served, "returned");
    assert_eq!(served.psql(touched), before, "touched with each update, and by nothing else");
}

async fn distributed_under_writers(served: &Served) {
    served.psql(
        "CREATE TABLE tasks (tenant bigint NOT NULL, id bigint NOT NULL, n bigint DEFAULT 0, touched bigint, \
             updated_at timestamptz, PRIMARY KEY (tenant, id));
         CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION touch();
         CREATE TRIGGER count AFTER INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION fired();
         INSERT INTO tasks SELECT i % 8, i FROM generate_series(1, 200) i",
    );
    assert_eq!(take_fires(served), 200);
    let sql = "SELECT create_distributed_table_concurrently('tasks', 'tenant', colocate_with => 'notes')";
    under_writers(served, "tasks", &[sql.to_owned()]).await;
    assert_eq!(expect_shards_like_shells(served, "distributed concurrently"), 10);
    assert_eq!(served.psql("SELECT sum(touched - n), count(*) FROM tasks"), "200|200");
}

fn changes_reach_every_shard(served: &Served) {
    let mut count = expect_shards_like_shells(served, "before");
    for (sql, more) in [
        ("CREATE TRIGGER late BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION sane('late')", 1),
        ("CREATE OR REPLACE TRIGGER late BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION sane('later')", 0),
        ("ALTER TRIGGER late ON tasks RENAME TO \"Later\"", 0),
        ("ALTER TABLE tasks DISABLE TRIGGER \"Later\"", 0),
        ("ALTER TABLE tasks DISABLE TRIGGER USER", 0),
        ("ALTER TABLE tasks ENABLE TRIGGER ALL", 0),
        ("COMMENT ON TRIGGER \"Later\" ON tasks IS 'it is late'", 0),
        ("CREATE TRIGGER more AFTER DELETE ON events FOR EACH ROW EXECUTE FUNCTION fired()", 3),
        ("ALTER TRIGGER more ON events RENAME TO most", 0),
        ("CREATE TABLE events_2027 PARTITION OF events FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')", 2),
        ("ALTER TABLE events DETACH PARTITION events_2027", -2),
        ("DROP TRIGGER most ON events", -3),
        ("DROP TRIGGER IF EXISTS nobody ON tasks", 0),
        ("BEGIN; DROP TRIGGER \"Later\" ON tasks; ROLLBACK", 0),
    ] {
        served.psql(sql);
        let now = expect_shards_like_shells(served, sql);
        assert_eq!(now as i64 - count as i64, more, "{sql}");
        count = now;
    }
    let comments = "SELECT count(*) > 0 FROM pg_description WHERE classoid = 'pg_trigger'::regclass AND description = 'it is late'";
    assert_eq!(served.everywhere(comments), ["t", "t", "t"]);
    let error = psql_error(&served.dsn(0), "INSERT INTO tasks VALUES (5, 5005, -5)");
    assert!(error.contains("n must not be -5 in later"), "{error}");
    let guards = "SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgname = 'tenantry_shell'";
    assert_eq!(psql(&served.coordinator_dsn(), guards), "O");
}

fn deferred_checks_hold_at_the_commit(served: &Served) {
    served.psql(
        "CREATE FUNCTION whole() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.n = 13 THEN RAISE EXCEPTION 'n is 13 at the end' USING ERRCODE = '23000'; END IF; RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER whole AFTER INSERT OR UPDATE ON tasks DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION whole()",
    );
    expect_shards_like_shells(served, "a constraint trigger");
    let tenants: Vec<String> = (0..2).map(|worker| served.tenant_of("tasks", worker)).collect();
    let (first, second) = (&tenants[0], &tenants[1]);
    let before = served.psql("SELECT sum(n), sum(touched) FROM tasks");
    take_fires(served);
    for bad in &tenants {
        let set = |tenant: &String| {
            let n = if tenant == bad { 13 } else { 1 };
            format!("UPDATE tasks SET n = {n} WHERE tenant = {tenant};")
        };
        let error = psql_error(&served.dsn(0), &format!("BEGIN; {} {} COMMIT", set(first), set(second)));
        assert!(error.contains("23000: n is 13 at the end"), "{error}");
        assert_eq!(served.psql("SELECT sum(n), sum(touched) FROM tasks"), before, "nothing stays, nowhere");
        let error = psql_error(&served.dsn(0), &format!("UPDATE tasks SET n = 13 WHERE tenant = {bad}"));
        assert!(error.contains("23000: n is 13 at the end"), "{error}");
    }
    assert_eq!(take_fires(served), 0);
    let mended = "BEGIN; UPDATE tasks SET n = 13; UPDATE tasks SET n = 14; COMMIT";
    assert!(psql_error(&served.dsn(0), mended).contains("n is 13"), "each version of a row is looked at");
    let by_name =
        format!("BEGIN; UPDATE tasks SET n = 2 WHERE tenant = {first}; SET CONSTRAINTS NAME IMMEDIATE; COMMIT");
    for (name, wanted) in [
        ("whole", "0A000: cannot set constraint \"whole\" by its name"),
        ("public.whole", "0A000: cannot set constraint \"whole\" by its name"),
        ("nobodys", "42704: constraint \"nobodys\" does not exist"),
    ] {
        let error = psql_error(&served.dsn(0), &by_name.replace("NAME", name));
        assert!(error.contains(wanted), "{name}: {error}");
    }
    // Those of local and of reference tables are meant where they stand, also on servers that join afterwards.
    served.psql(
        "CREATE TABLE here (id int CONSTRAINT once UNIQUE DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE everywhere (id int CONSTRAINT single UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    );
    served.psql("SELECT create_reference_table('everywhere')");
    for (table, name) in [("here", "once"), ("everywhere", "single")] {
        let twice = format!("INSERT INTO {table} VALUES (1), (1);");
        let late =
            format!("BEGIN; SET CONSTRAINTS {name} IMMEDIATE; UPDATE tasks SET n = 2; {twice} SELECT 1/0; COMMIT");
        assert!(psql_error(&served.dsn(0), &late).contains("23505"), "{name} is looked at where the rows come");
        let mended = format!(
            "BEGIN; UPDATE tasks SET n = 2; SET CONSTRAINTS {name} IMMEDIATE; SET CONSTRAINTS {name} DEFERRED; {twice} \
             DELETE FROM {table}; COMMIT"
        );
        served.psql(&mended);
    }
    let both = psql_error(&served.dsn(0), "BEGIN; SET CONSTRAINTS once, single IMMEDIATE; COMMIT");
    assert!(both.contains("0A000: cannot set constraints of reference and of local tables"), "{both}");
    served.psql("DROP TABLE here");
    served.psql("DROP TABLE everywhere");
    take_fires(served);
    let early = format!(
        "BEGIN; SET CONSTRAINTS ALL IMMEDIATE; UPDATE tasks SET n = 13 WHERE tenant = {first}; SELECT 1; COMMIT"
    );
    assert!(psql_error(&served.dsn(0), &early).contains("n is 13"));
    let prepared = "SELECT count(*) FROM pg_prepared_xacts";
    assert!(wait_until(Duration::from_secs(30), || served.everywhere(prepared) == ["0", "0", "0"]));
}

fn what_cannot_be_is_refused(served: &Served) {
    served.psql(
        "CREATE TABLE audit (id int);
         CREATE TABLE plans (id int PRIMARY KEY);
         CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (1); RETURN NULL; END $$;
         CREATE FUNCTION reads() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM plans; RETURN NULL; END $$;
         CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('a', 'b'); RETURN NULL; END $$;
         CREATE FUNCTION draws() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := nextval('s'); RETURN NEW; END $$;
         CREATE FUNCTION sends() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tenant := 1; RETURN NEW; END $$;
         CREATE EXTENSION moddatetime",
    );
    served.psql("SELECT create_reference_table('plans')");
    served.psql("CREATE TABLE plain (tenant bigint, n bigint, updated_at timestamp)");
    let before = served.everywhere("SELECT count(*) FROM pg_trigger");
    for (trigger, wanted) in [
        ("AFTER INSERT ON TABLE EXECUTE FUNCTION fired()", "once for each shard"),
        ("AFTER TRUNCATE ON TABLE EXECUTE FUNCTION fired()", "once for each shard"),
        (
            "AFTER INSERT ON TABLE REFERENCING NEW TABLE AS fresh FOR EACH ROW EXECUTE FUNCTION fired()",
            "transition tables",
        ),
        ("AFTER INSERT ON TABLE FOR EACH ROW EXECUTE FUNCTION audits()", "names the table public.audit"),
        ("AFTER INSERT ON TABLE FOR EACH ROW EXECUTE FUNCTION reads()", "names the table public.plans"),
        ("AFTER INSERT ON TABLE FOR EACH ROW EXECUTE FUNCTION tells()", "uses NOTIFY"),
        ("BEFORE INSERT ON TABLE FOR EACH ROW EXECUTE FUNCTION draws()", "uses a sequence"),
        ("BEFORE INSERT ON TABLE FOR EACH ROW EXECUTE FUNCTION sends()", "may change \"tenant\""),
        ("BEFORE INSERT ON TABLE FOR EACH ROW EXECUTE FUNCTION moddatetime('tenant')", "moddatetime"),
    ] {
        let create =
            |table: &str| format!("CREATE TRIGGER refused {}", trigger.replace("ON TABLE ", &format!("ON {table} ")));
        let error = psql_error(&served.dsn(0), &create("tasks"));
        assert!(error.contains("0A000") && error.contains("HINT") && error.contains(wanted), "{trigger}: {error}");
        served.psql(&create("plain"));
        let error = psql_error(&served.dsn(0), "SELECT create_distributed_table('plain', 'tenant')");
        assert!(error.contains("0A000") && error.contains("HINT") && error.contains(wanted), "{trigger}: {error}");
        served.psql("DROP TRIGGER refused ON plain");
    }
    for (sql, wanted) in [
        ("ALTER TABLE tasks ENABLE ALWAYS TRIGGER count", "while a shard is moved"),
        ("ALTER TABLE events ENABLE REPLICA TRIGGER touch", "while a shard is moved"),
        ("DROP TRIGGER tenantry_shell ON tasks", "is reserved"),
        ("CREATE TRIGGER a AFTER INSERT ON plans FOR EACH ROW EXECUTE FUNCTION fired()", "reference tables"),
        (
            "CREATE OR REPLACE FUNCTION sane() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tenant := 7; RETURN NEW; END $$",
            "may change \"tenant\"",
        ),
        (
            "CREATE OR REPLACE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM audit; RETURN NULL; END $$",
            "names the table public.audit",
        ),
    ] {
        let error = psql_error(&served.dsn(0), sql);
        assert!(error.contains("0A000") && error.contains(wanted), "{sql}: {error}");
    }
    assert_eq!(served.everywhere("SELECT count(*) FROM pg_trigger"), before, "nothing is left of all that");
    // What stands is not looked at again because a local table has the name of one of its words.
    served.psql("CREATE TABLE tg_op (id int)");
    served.psql("CREATE FUNCTION another() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    served.psql("ALTER TABLE tasks ADD COLUMN more int");
    served.psql("CREATE TRIGGER a BEFORE UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION moddatetime('updated_at')");
    let error = psql_error(&served.dsn(0), "SELECT create_reference_table('plain')");
    assert!(error.contains("triggers are not supported on reference tables"), "{error}");
    served.psql("CREATE TABLE stray (tenant bigint)");
    let behind = "CREATE FUNCTION only_here() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'";
    psql(&served.coordinator_dsn(), behind);
    served.psql("CREATE TRIGGER stray BEFORE UPDATE ON stray FOR EACH ROW EXECUTE FUNCTION only_here()");
    let error = psql_error(&served.dsn(0), "SELECT create_distributed_table('stray', 'tenant')");
    assert!(error.contains("42883: trigger function public.only_here() does not exist on node"), "{error}");
    // Before anything is begun.
    let error = psql_error(&served.dsn(0), "SELECT create_distributed_table_concurrently('stray', 'tenant')");
    assert!(error.contains("42883: trigger function public.only_here() does not exist on node"), "{error}");
    let begun = "SELECT count(*) FROM tenantry.shard_move WHERE relation = 'stray'::regclass";
    assert_eq!(psql(&served.coordinator_dsn(), begun), "0");
    served.psql("SELECT create_distributed_table('plain', 'tenant')");
    served.psql("INSERT INTO plain VALUES (1, 1)");
    assert_eq!(served.psql("UPDATE plain SET n = 2 WHERE tenant = 1 RETURNING updated_at IS NULL"), "f");
}

/// A table of a role that is no superuser: its triggers fire for her and for another role, also on a node that came later.
#[test]
fn triggers_fire_for_every_role_and_on_a_new_node() {
    let served = Served::start(2);
    let port = served.worker_port(1);
    served.psql(&format!("SELECT citus_remove_node('127.0.0.1', {port})"));
    served.psql("CREATE ROLE owner LOGIN; GRANT tenantry_admin TO owner; GRANT CREATE ON SCHEMA public TO owner");
    served.psql("CREATE ROLE app LOGIN");
    let (as_owner, as_app) = (served.dsn(0).replace("postgres@", "owner@"), served.dsn(0).replace("postgres@", "app@"));
    let run = |dsn: &str, sql: &str| psql(dsn, sql);
    run(
        &as_owner,
        "CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.who := current_user; RETURN NEW; END $$",
    );
    run(&as_owner, "CREATE TABLE signed (tenant int, n int, who text)");
    run(&as_owner, "SELECT create_distributed_table('signed', 'tenant', shard_count => 2)");
    run(&as_owner, "CREATE TRIGGER who BEFORE INSERT OR UPDATE ON signed FOR EACH ROW EXECUTE FUNCTION who()");
    run(&as_owner, "GRANT SELECT, INSERT, UPDATE ON signed TO app");
    let write = |when: &str| {
        for tenant in 0..10 {
            let sql = format!("INSERT INTO signed VALUES ({tenant}, 1) RETURNING who");
            assert_eq!(run(&as_app, &sql), "app", "{when}");
            assert_eq!(run(&as_owner, &sql), "owner", "{when}");
        }
    };
    write("on the first node");
    served.psql(&format!("SELECT citus_add_node('127.0.0.1', {port})"));
    let shard = served.psql("SELECT min(shardid) FROM pg_dist_shard WHERE logicalrelid = 'signed'::regclass");
    let from = served.worker_port(0);
    served.psql(&format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {port})"));
    assert_eq!(served.psql("SELECT who, count(*) FROM signed GROUP BY who ORDER BY who"), "app|10\nowner|10");
    write("on a node that came later");
    run(&as_app, "UPDATE signed SET n = 2");
    assert_eq!(served.psql("SELECT who, count(*) FROM signed GROUP BY who"), "app|40");
}
