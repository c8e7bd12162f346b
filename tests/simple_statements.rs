//! Simple queries whose shape comes again: where one plan is as good as any, workers keep them prepared, with the literals as
//! values (`pool.share_unnamed`), and nobody can tell but by the time they take.

mod support;

use support::served::Served;
use support::wire_client::Client;
use tenantry::wire::frontend;

/// `$T`: the tenant.
const KEPT: &[&str] = &[
    "SELECT * FROM notes WHERE tenant = $T AND id = 1",
    "SELECT note, short, price, at, doc FROM notes WHERE tenant = $T AND id = 1 AND note = 'it''s'",
    "SELECT id + 5, note || price FROM notes WHERE id = 1 AND tenant = $T LIMIT 1",
    "SELECT price FROM notes WHERE tenant = $T AND id = 1 AND price > 1 FOR UPDATE",
    "SELECT id FROM notes WHERE tenant = $T AND id = 4242 ORDER BY id",
    "SELECT note AS \"$1\" FROM public.notes n WHERE n.tenant = $T AND n.id = 1 AND n.short = 'é' OFFSET 0",
    "UPDATE notes SET note = 'other', short = E'\\x41' WHERE tenant = $T AND id = 1 RETURNING *",
    "UPDATE notes SET price = price + 3 * 2 WHERE tenant = $T AND id = 1",
    "DELETE FROM notes WHERE tenant = $T AND id = 1",
    "INSERT INTO notes VALUES ($T, 5, 'five', 'f', 5)",
    "INSERT INTO notes (id, tenant, note, at) VALUES (6, $T, $$six$$, now()) RETURNING id + 1, note",
    "INSERT INTO notes (tenant, id, note) VALUES ($T, 1, 'x') ON CONFLICT (tenant, id) DO UPDATE SET note = 'twice'",
    "UPDATE notes SET short = 'much too long' WHERE tenant = $T AND id = 1",
    "UPDATE notes SET price = -1 WHERE tenant = $T AND id = 1",
    "UPDATE notes SET id = id * 999999999 + 999999999 * 3 WHERE tenant = $T AND id = 1",
    "INSERT INTO notes (tenant, id) VALUES ($T, 1)",
];

/// By the servers, which name a place in the client's own text.
const REFUSED: &[&str] = &[
    "SELECT nope FROM notes WHERE tenant = $T AND id = 1",
    "SELECT id FROM notes WHERE tenant = $T AND id = 1 AND at = 5",
    "SELECT id FROM notes WHERE tenant = $T AND id = 1 AND price + 1 > 7 AND doc < 8",
    "INSERT INTO notes (tenant, id, doc) VALUES ($T, 7, 7)",
];

const NOT_KEPT: &[&str] = &[
    "SELECT note FROM notes WHERE tenant = $T",
    "SELECT id, id + 1 FROM notes WHERE tenant = $T AND id = 1 GROUP BY id, id + 1",
    "SELECT DISTINCT id + 1 FROM notes WHERE tenant = $T AND id = 1 ORDER BY id + 1",
    "SELECT note, id FROM notes WHERE tenant = $T AND id = 1 ORDER BY 1",
    "SELECT price::numeric(20, 5) FROM notes WHERE tenant = $T AND id = 1",
    "SELECT 'x', 7 FROM notes WHERE tenant = $T AND id = 1",
    "SELECT note FROM notes WHERE tenant = $T AND id = 1 AND at < '2000-01-01'",
    "SELECT note FROM notes WHERE tenant = $T AND id = 1 AND doc = '[]'",
    "SELECT note FROM notes WHERE tenant = $T AND id = 1 AND doc = 'no json'",
    "SELECT note FROM notes WHERE tenant = $T AND id = 1 AND price = 'x'",
    "UPDATE notes SET note = 'a' + 2 WHERE tenant = $T AND id = 1",
    "SELECT note FROM notes WHERE tenant = $T AND id = 1 AND doc -> note = '7'",
    "SELECT note FROM notes WHERE tenant = $T AND id = 1 AND doc -> note = 'no json'",
    "SELECT note FROM notes WHERE tenant = $T AND id = 1000000000",
    "SELECT note FROM notes WHERE tenant = $T AND id = 1 AND price < 3.5",
    "SELECT doc -> 0 FROM notes WHERE tenant = $T AND id = 1",
    "SELECT note FROM notes WHERE tenant = $T AND id = 1 -- traced",
    "INSERT INTO notes (tenant, id, price) VALUES ($T, 8, 1), ($T, 9, 1)",
    "INSERT INTO notes (tenant, id) VALUES ($T, length('four')) ON CONFLICT DO NOTHING",
    "INSERT INTO notes (tenant, id) VALUES ($T, 1) ON CONFLICT ((id + 1)) DO NOTHING",
];

#[test]
fn simple_queries_are_kept_prepared_and_nobody_can_tell() {
    let mut served = Served::start_with(2, 1, "[pool]\nsize = 2\n");
    served.start_proxy(1);
    let tenant = served.tenants().remove(0);
    served.psql(
        "CREATE TABLE notes (tenant int, id int, note text, short varchar(5), price numeric(8,2) CHECK (price > 0), \
                             at timestamptz, doc jsonb, PRIMARY KEY (tenant, id))",
    );
    served.psql("SELECT create_distributed_table('notes', 'tenant')");
    served.psql("CREATE FUNCTION kept() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT count(*) FROM pg_catalog.pg_prepared_statements'");
    for (texts, is_kept) in [(KEPT, true), (REFUSED, false), (NOT_KEPT, false)] {
        for text in texts {
            answers_stay_the_same(&served, &tenant, &text.replace("$T", &tenant), is_kept);
        }
    }
    values_are_those_of_each_text(&served, &tenant);
    tables_may_change_in_between(&served, &tenant);
    shards_may_move_in_between(&served, &tenant);
    statements_without_a_name_end_with_them(&served, &tenant);
    a_reload_ends_it(&served, &tenant);
}

fn one_note(client: &mut Client, tenant: &str) {
    client.query(&format!("DELETE FROM notes WHERE tenant = {tenant}"));
    client.query(&format!("INSERT INTO notes SELECT {tenant}, 1, 'it''s', 'é', 7.50, '2024-02-29 12:00+00', '[1]'"));
}

/// What the client is told, but for where in Postgres's source an error was found.
fn told(client: &mut Client, text: &str) -> Vec<(u8, Vec<u8>)> {
    frontend::query(text, &mut client.out);
    let mut frames = client.frames();
    for (_, fields) in frames.iter_mut().filter(|(tag, _)| *tag == b'E') {
        let kept: Vec<&[u8]> =
            fields.split(|b| *b == 0).filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R'))).collect();
        *fields = kept.join(&0);
    }
    frames
}

/// On the tenant's worker, by the connection at hand.
fn kept(client: &mut Client, tenant: &str) -> String {
    client.query(&format!("SELECT kept() FROM notes WHERE tenant = {tenant} LIMIT 1"))
}

/// The first time it goes as it is.
fn answers_stay_the_same(served: &Served, tenant: &str, text: &str, is_kept: bool) {
    let mut client = Client::connect(served.proxy_port(0), &[]);
    one_note(&mut client, tenant);
    let before = kept(&mut client, tenant);
    for block in [None, Some("BEGIN"), Some("BEGIN; SAVEPOINT s")] {
        let mut first = None;
        for round in 0..3 {
            one_note(&mut client, tenant);
            block.map(|block| client.query(block));
            let said = told(&mut client, text);
            block.map(|_| client.query("ROLLBACK"));
            assert_eq!(first.get_or_insert_with(|| said.clone()), &said, "{text}, {block:?}, round {round}");
        }
        assert!(first.is_some_and(|said| said.len() > 1), "{text}");
    }
    one_note(&mut client, tenant);
    assert_eq!(kept(&mut client, tenant) != before, is_kept, "{text}");
}

fn values_are_those_of_each_text(served: &Served, tenant: &str) {
    let mut client = Client::connect(served.proxy_port(0), &[]);
    one_note(&mut client, tenant);
    for id in [2, 3, 40, 500] {
        let sql = format!("INSERT INTO notes (tenant, id, note) VALUES ({tenant}, {id}, 'no. {id}, it''s')");
        assert_eq!(client.query(&sql), "C(INSERT 0 1) Z(I)");
    }
    for id in [2, 3, 40, 500] {
        let sql = format!("SELECT id, note FROM notes WHERE tenant = {tenant} AND id = {id}");
        assert_eq!(client.query(&sql), format!("T D({id},no. {id}, it's) C(SELECT 1) Z(I)"));
    }
    // Too long to be an int4 for certain; and no int4 at all.
    for id in ["0000000002", "2147483648"] {
        let sql = format!("SELECT count(*) FROM notes WHERE tenant = {tenant} AND id = {id}");
        let count = u8::from(id.starts_with('0'));
        assert_eq!(client.query(&sql), format!("T D({count}) C(SELECT 1) Z(I)"));
    }
}

fn tables_may_change_in_between(served: &Served, tenant: &str) {
    let [mut one, mut two] = [0, 1].map(|proxy| Client::connect(served.proxy_port(proxy), &[]));
    one_note(&mut one, tenant);
    let all = format!("SELECT * FROM notes WHERE tenant = {tenant} AND id = 1");
    let few = format!("SELECT id, short FROM notes WHERE tenant = {tenant} AND id = 1");
    let columns = |said: &str| said.split(',').count();
    for round in 0..2 {
        assert_eq!(columns(&one.query(&all)), 7 + round);
        one.query(&few);
        one.query("BEGIN");
        assert_eq!(one.query("SELECT 1"), "T D(1) C(SELECT 1) Z(T)");
        assert_eq!(two.query(&format!("ALTER TABLE notes ADD more{round} int DEFAULT 1")), "C(ALTER TABLE) Z(I)");
        assert_eq!(columns(&one.query(&all)), 8 + round);
        assert_eq!(one.query(&few), "T D(1,é) C(SELECT 1) Z(T)");
        assert_eq!(one.query("COMMIT"), "C(COMMIT) Z(I)");
        assert_eq!(columns(&one.query(&all)), 8 + round);
    }
    assert_eq!(two.query("ALTER TABLE notes ALTER short TYPE int USING 7"), "C(ALTER TABLE) Z(I)");
    for client in [&mut one, &mut two] {
        for _ in 0..3 {
            assert_eq!(client.query(&few), "T D(1,7) C(SELECT 1) Z(I)");
        }
    }
    assert_eq!(two.query("ALTER TABLE notes DROP short"), "C(ALTER TABLE) Z(I)");
    for client in [&mut one, &mut two] {
        for _ in 0..3 {
            assert_eq!(client.query(&few), "E(42703) Z(I)");
        }
    }
}

fn shards_may_move_in_between(served: &Served, tenant: &str) {
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('notes', {tenant})"));
    let [here, there] = [0, 1].map(|worker| served.worker_port(worker));
    let sql = format!("SELECT id FROM notes WHERE tenant = {tenant} AND id = 1");
    for (from, to) in [(here, there), (there, here)] {
        for _ in 0..3 {
            assert_eq!(client.query(&sql), "T D(1) C(SELECT 1) Z(I)");
        }
        served.psql(&format!("SELECT citus_move_shard_placement({shard}, '127.0.0.1', {from}, '127.0.0.1', {to})"));
    }
    assert_eq!(client.query(&sql), "T D(1) C(SELECT 1) Z(I)");
}

/// Source: PostgreSQL src/backend/tcop/postgres.c, exec_simple_query().
fn statements_without_a_name_end_with_them(served: &Served, tenant: &str) {
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let sql = format!("SELECT id FROM notes WHERE tenant = {tenant} AND id = 1");
    for _ in 0..3 {
        frontend::parse(b"", "SELECT 1", &[], &mut client.out);
        frontend::sync(&mut client.out);
        assert_eq!(client.answer(), "1 Z(I)");
        assert_eq!(client.query(&sql), "T D(1) C(SELECT 1) Z(I)");
        client.bind_and_execute("", &[]);
        frontend::sync(&mut client.out);
        assert_eq!(client.answer(), "E(26000) Z(I)");
    }
}

fn a_reload_ends_it(served: &Served, tenant: &str) {
    let file = served.config_file(0);
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, before.replace("size = 2\n", "size = 2\nshare_unnamed = \"off\"\n")).unwrap();
    served.signal_proxy(0, "HUP");
    let is_reloaded = || served.logged(0).contains("share_unnamed");
    assert!(support::wait_until(std::time::Duration::from_secs(20), is_reloaded), "{}", served.logged(0));
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let count = kept(&mut client, tenant);
    for _ in 0..3 {
        client.query(&format!("SELECT id * 3 FROM notes WHERE tenant = {tenant} AND id = 1"));
    }
    assert_eq!(kept(&mut client, tenant), count);
}
