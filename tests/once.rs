//! What is done once and not again: statements are analysed when they are new, and a block begins with its first statement's packet.

mod support;

use support::relay::Relay;
use support::served::Served;
use support::wire_client::Client;
use tenantry::wire::frontend::{self, Target};

/// Goal: the parser runs when a statement is new, and never for its values. Method: each of its runs is a line of the log; the session sends
/// texts and values over and over, then something new, which shows that the lines are counted.
#[test]
fn statements_are_analysed_once() {
    let served = Served::start_with(1, 1, "[log]\nfilter = \"info,tenantry::sql=trace\"\n");
    served.tenants();
    let runs = || served.logged(0).matches("parsing a statement").count();
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let mut other = Client::connect(served.proxy_port(0), &[]);
    let added = |what: &str, wanted: usize, act: &mut dyn FnMut()| {
        let before = runs();
        act();
        assert_eq!(runs() - before, wanted, "{what}");
    };

    let select = "SELECT id FROM items WHERE tenant = $1 AND id > $2";
    let bind = |client: &mut Client, name: &str| {
        for tenant in 1..=100 {
            client.bind_and_execute(name, &[Some(&tenant.to_string()), Some("1000")]);
            if tenant % 10 == 0 {
                frontend::sync(&mut client.out);
                assert!(client.answer().ends_with("2 C(SELECT 0) Z(I)"));
            }
        }
    };
    added("a Parse", 1, &mut || {
        frontend::parse(b"named", select, &[], &mut client.out);
        frontend::describe(Target::Statement(b"named"), &mut client.out);
        frontend::sync(&mut client.out);
        assert_eq!(client.answer(), "1 t T Z(I)");
    });
    added("100 Binds for 100 tenants", 0, &mut || bind(&mut client, "named"));
    added("the same text of another client, without a name", 0, &mut || {
        for tenant in 1..=20 {
            let said = other.run_prepared("", select, &[Some(&tenant.to_string()), Some("1000")]);
            assert_eq!(said, "1 2 C(SELECT 0) Z(I)");
        }
    });
    added("another text", 1, &mut || {
        let said = other.run_prepared("", "SELECT id, tenant FROM items WHERE tenant = $1", &[Some("1")]);
        assert_eq!(said.split(' ').next(), Some("1"), "{said}");
    });

    for (sql, tag) in [
        ("SELECT id FROM items WHERE tenant = {tenant} AND id > {value}", "SELECT 0"),
        ("INSERT INTO items VALUES ({tenant}, -{value})", "INSERT 0 1"),
        ("UPDATE items SET id = {value} WHERE tenant = {tenant} AND id = -1", "UPDATE 0"),
        ("DELETE FROM items /* of {tenant} */ WHERE tenant = {tenant} AND id < -{value}", "DELETE 0"),
    ] {
        let of = |tenant: usize| {
            let sql = sql.replace("{tenant}", &tenant.to_string());
            sql.replace("{value}", &(1000 + tenant).to_string())
        };
        let says = |client: &mut Client, tenant: usize| {
            let said = client.query(&of(tenant));
            assert!(said.ends_with(&format!("C({tag}) Z(I)")), "{}: {said}", of(tenant));
        };
        added(&format!("a new text: {sql}"), 1, &mut || says(&mut client, 1));
        added(&format!("the same text: {sql}"), 0, &mut || (0..20).for_each(|_| says(&mut client, 1)));
        added(&format!("texts with other constants: {sql}"), 0, &mut || {
            (2..100).for_each(|tenant| says(&mut client, tenant));
            (2..100).for_each(|tenant| says(&mut other, tenant));
        });
    }
    for sql in
        ["SELECT count(*) FROM items WHERE id = 1", "SELECT now() IS NULL", "UPDATE items SET id = id WHERE id = 1"]
    {
        let said = client.query(sql);
        assert!(said.contains("C("), "{sql}: {said}");
        added(&format!("of several shards, or of none: {sql}"), 0, &mut || {
            (0..5).for_each(|_| assert_eq!(other.query(sql), said));
        });
    }
    added("a table that changes has its statements analysed again, once each", 2, &mut || {
        assert_eq!(client.query("ALTER TABLE items ADD COLUMN note text"), "C(ALTER TABLE) Z(I)");
        bind(&mut client, "named");
        (1..20).for_each(|n| {
            let said = client.query(&format!("SELECT id FROM items WHERE tenant = {n} AND id > 5000"));
            assert!(said.ends_with("C(SELECT 0) Z(I)"), "{said}");
        });
    });
}

/// Goal: BEGIN costs no write of its own. Method: between proxy and worker stands a relay that counts what comes: each write is a segment.
#[test]
fn begin_and_the_first_statement_leave_in_one_write() {
    let served = Served::start_with(1, 1, "");
    let tenants = served.tenants();
    let relay = Relay::to(served.worker_port(0));
    served.move_worker(0, relay.port);
    let mut client = Client::connect(served.proxy_port(0), &[]);
    let read = format!("SELECT id FROM items WHERE tenant = {}", tenants[0]);
    client.query(&format!("{read} AND 'the first' <> ''"));
    // Of the connection that all of this goes through.
    let heard = || relay.heard("the first");
    let writes_of = |act: &mut dyn FnMut()| {
        let before = heard();
        act();
        let after = heard();
        let (last, now) = (before.last().expect("it has been used"), after.last().expect("it has been used"));
        (now.segments - last.segments, after[before.len()..].to_vec())
    };

    let (writes, _) = writes_of(&mut || assert_eq!(client.query("BEGIN"), "C(BEGIN) Z(T)"));
    assert_eq!(writes, 0, "there is nothing to do yet");
    let (writes, told) = writes_of(&mut || assert_eq!(client.query(&read), "T D(1) C(SELECT 1) Z(T)"));
    assert_eq!((writes, told.len()), (1, 1), "{told:?}");
    assert!(told[0].says("BEGIN") && told[0].says("SELECT id FROM"), "{told:?}");
    let (writes, told) = writes_of(&mut || assert_eq!(client.query(&read), "T D(1) C(SELECT 1) Z(T)"));
    assert!(writes == 1 && !told[0].says("BEGIN"), "{told:?}");
    let (writes, _) = writes_of(&mut || assert_eq!(client.query("COMMIT"), "C(COMMIT) Z(I)"));
    assert_eq!(writes, 1);

    // By the extended protocol, as drivers do it: with a level, and each message's answer waited for.
    let (writes, _) = writes_of(&mut || {
        let said = client.run_prepared("", "BEGIN ISOLATION LEVEL REPEATABLE READ", &[]);
        assert_eq!(said, "1 2 C(BEGIN) Z(T)");
    });
    assert_eq!(writes, 0);
    let sql = "SELECT id FROM items WHERE tenant = $1";
    let (writes, told) = writes_of(&mut || {
        assert_eq!(client.run_prepared("named", sql, &[Some(&tenants[0])]), "1 2 D(1) C(SELECT 1) Z(T)");
    });
    assert_eq!((writes, told.len()), (1, 1), "{told:?}");
    assert!(told[0].says("REPEATABLE READ") && told[0].says("SELECT id FROM"), "{told:?}");
    let (writes, _) = writes_of(&mut || assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)"));
    assert_eq!(writes, 1);

    // Nothing was counted that was not: two statements are two writes.
    let (writes, _) =
        writes_of(&mut || (0..2).for_each(|_| assert_eq!(client.query(&read), "T D(1) C(SELECT 1) Z(I)")));
    assert_eq!(writes, 2);
}
