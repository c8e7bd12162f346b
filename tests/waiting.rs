//! Statements that wait for a connection, because there are more clients than connections: they run where and as they
//! would have run at once.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use support::served::Served;
use support::wait_until;
use support::wire_client::Client;

const PATIENCE: Duration = Duration::from_secs(60);
const WHO: &str = "SELECT current_setting('app.who', true) FROM items WHERE tenant = $1";

/// Goal: a wait changes nothing but the time. Method: one connection to each worker, held by a client in a block; others
/// wait meanwhile, each in a way of its own, and are answered when it is over.
#[test]
fn who_waits_for_a_connection_is_served_as_if_it_had_been_free() {
    let served = Served::start_with(2, 1, "[pool]\nsize = 1\ncheckout_timeout = \"2min\"\n");
    let tenants = served.tenants();
    everyone_gets_what_is_its_own(&served, &tenants[0]);
    a_block_begins_when_its_turn_comes(&served, &tenants[0]);
    many_clients_share_one_connection(&served, &tenants[0]);
    what_moves_meanwhile_is_found(&served, &tenants[0]);
    a_wait_ends_with_its_deadline(&served, &tenants[1]);
    assert!(!served.logged(0).contains("panicked"), "{}", served.logged(0));
}

/// Goal: while clients wait, a shard's statements go to the server process that has its plans and tables at hand (decision 20). Method: 40
/// clients on four connections ask for the process that runs their statement, of 64 tenants in turn. Of four processes that take turns as it
/// happens, each would run a quarter of a tenant's statements.
#[test]
fn connections_keep_to_their_shards() {
    let served = Served::start_with(1, 1, "[pool]\nsize = 4\n");
    served.psql("CREATE TABLE items (tenant int PRIMARY KEY)");
    served.psql("SELECT create_distributed_table('items', 'tenant')");
    served.psql("INSERT INTO items SELECT generate_series(1, 64)");
    let seen: Vec<(usize, String)> = std::thread::scope(|threads| {
        let asks = |client: usize| {
            let mut wire = connect(&served);
            wire.run_prepared("which", "SELECT pg_backend_pid() FROM items WHERE tenant = $1", &[Some("1")]);
            let mut seen = Vec::new();
            for turn in 0..64 {
                let tenant = (client * 7 + turn) % 64 + 1;
                send_prepared(&mut wire, "which", &tenant.to_string());
                seen.push((tenant, wire.answer()));
            }
            seen
        };
        let clients: Vec<_> = (0..40).map(|client| threads.spawn(move || asks(client))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("it does not panic")).collect()
    });
    let mut of_tenants: HashMap<usize, HashMap<&str, usize>> = HashMap::new();
    for (tenant, said) in &seen {
        assert!(said.ends_with("C(SELECT 1) Z(I)"), "{said}");
        *of_tenants.entry(*tenant).or_default().entry(said).or_default() += 1;
    }
    let at_home: usize = of_tenants.values().filter_map(|processes| processes.values().max()).sum();
    let share = at_home as f64 / seen.len() as f64;
    assert!(share > 0.6, "{share} of all statements ran where most of their tenant's did");
}

fn connect(served: &Served) -> Client {
    Client::connect(served.proxy_port(0), &[])
}

/// A client that keeps the connection to the tenant's worker.
fn holder(served: &Served, tenant: &str) -> Client {
    let mut holder = connect(served);
    let said = holder.query(&format!("BEGIN; SELECT count(*) FROM items WHERE tenant = {tenant}"));
    assert!(said.ends_with("Z(T)"), "{said}");
    holder
}

fn await_waiting(served: &Served, count: usize) {
    let waiting = || {
        let page = served.metrics(0);
        let of_pools = page.lines().filter(|line| line.starts_with("tenantry_pool_waiting{"));
        of_pools.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as usize
    };
    assert!(wait_until(PATIENCE, || waiting() == count), "{} wait, not {count}", waiting());
}

fn send_prepared(client: &mut Client, name: &str, tenant: &str) {
    client.bind_and_execute(name, &[Some(tenant)]);
    tenantry::wire::frontend::sync(&mut client.out);
    client.flush();
}

fn everyone_gets_what_is_its_own(served: &Served, tenant: &str) {
    let mut clients: Vec<_> = (0..4).map(|_| connect(served)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        // The last one has no setting of its own.
        if number < 3 {
            client.query(&format!("SET app.who = 'client {number}'"));
        }
        client.run_prepared("who", WHO, &[Some(tenant)]);
    }
    let mut holder = holder(served, tenant);
    for (number, client) in clients.iter_mut().enumerate() {
        match number {
            0 => client.send(&WHO.replace("$1", tenant)),
            _ => send_prepared(client, "who", tenant),
        }
        await_waiting(served, number + 1);
    }
    holder.query("COMMIT");
    for (number, client) in clients.iter_mut().enumerate().take(3) {
        let said = client.answer();
        assert!(said.contains(&format!("D(client {number}) C(SELECT 1) Z(I)")), "{said}");
    }
    let said = clients[3].answer();
    assert!(said.contains("D(NULL) ") || said.contains("D() "), "{said}");
}

fn a_block_begins_when_its_turn_comes(served: &Served, tenant: &str) {
    let mut client = connect(served);
    let write = "UPDATE items SET id = id + 1 WHERE tenant = $1";
    assert_eq!(client.run_prepared("write", write, &[Some(tenant)]), "1 2 C(UPDATE 1) Z(I)");
    let mut holder = holder(served, tenant);
    client.query("BEGIN");
    send_prepared(&mut client, "write", tenant);
    await_waiting(served, 1);
    holder.query("COMMIT");
    assert_eq!(client.answer(), "2 C(UPDATE 1) Z(T)");
    assert_eq!(client.query("ROLLBACK"), "C(ROLLBACK) Z(I)");
    let read = format!("SELECT id FROM items WHERE tenant = {tenant}");
    assert_eq!(client.query(&read), "T D(2) C(SELECT 1) Z(I)", "the block was one");
}

/// Half of them with settings of their own, so that the connection is made ready for each anew.
fn many_clients_share_one_connection(served: &Served, tenant: &str) {
    std::thread::scope(|threads| {
        for number in 0..16 {
            threads.spawn(move || {
                let mut client = connect(served);
                if number % 2 == 0 {
                    client.query(&format!("SET app.who = 'client {number}'"));
                }
                let who = if number % 2 == 0 { format!("client {number}") } else { String::new() };
                client.run_prepared("who", WHO, &[Some(tenant)]);
                for turn in 0..40 {
                    let said = match turn % 3 {
                        0 => client.query(&WHO.replace("$1", tenant)),
                        1 => client.run_prepared("", WHO, &[Some(tenant)]),
                        _ => {
                            send_prepared(&mut client, "who", tenant);
                            client.answer()
                        }
                    };
                    let is_own = said.contains(&format!("D({who}) ")) || who.is_empty() && said.contains("D(NULL) ");
                    assert!(is_own, "{number}: {said}");
                }
            });
        }
    });
}

/// The tenant's shard moves to the other worker while a statement waits at the one where it was.
fn what_moves_meanwhile_is_found(served: &Served, tenant: &str) {
    let shard = served.psql(&format!("SELECT get_shard_id_for_distribution_column('items', {tenant})"));
    let neighbour = served.psql(&format!(
        "SELECT min(t) FROM (SELECT t, get_shard_id_for_distribution_column('items', t) AS shard \
         FROM generate_series(1, 100) t) tenants JOIN pg_dist_shard_placement p ON p.shardid = shard \
         WHERE p.nodeport = {} AND shard <> {shard}",
        served.worker_port(0)
    ));
    let read = "SELECT id FROM items WHERE tenant = $1";
    let mut clients = [connect(served), connect(served)];
    for client in &mut clients {
        client.run_prepared("read", read, &[Some(tenant)]);
    }
    let mut holder = holder(served, &neighbour);
    let [prepared, simple] = &mut clients;
    send_prepared(prepared, "read", tenant);
    simple.send(&read.replace("$1", tenant));
    await_waiting(served, 2);
    served.psql(&format!(
        "SELECT citus_move_shard_placement({shard}, '127.0.0.1', {}, '127.0.0.1', {}, 'block_writes')",
        served.worker_port(0),
        served.worker_port(1)
    ));
    holder.query("COMMIT");
    assert_eq!(prepared.answer(), "2 D(2) C(SELECT 1) Z(I)");
    assert_eq!(simple.answer(), "T D(2) C(SELECT 1) Z(I)");
}

fn a_wait_ends_with_its_deadline(served: &Served, tenant: &str) {
    let text = std::fs::read_to_string(served.config_file(0)).expect("it was written");
    std::fs::write(served.config_file(0), text.replace("2min", "500ms")).expect("the folder can be written");
    served.signal_proxy(0, "HUP");
    assert!(wait_until(PATIENCE, || served.logged(0).contains("configuration was read again")));
    let read = "SELECT id FROM items WHERE tenant = $1";
    let mut clients = [connect(served), connect(served)];
    for client in &mut clients {
        client.run_prepared("read", read, &[Some(tenant)]);
    }
    let mut holder = holder(served, tenant);
    let [alone, in_block] = &mut clients;
    send_prepared(alone, "read", tenant);
    assert_eq!(alone.answer(), "E(53300) Z(I)");
    assert_eq!(alone.query(&read.replace("$1", tenant)), "E(53300) Z(I)");
    in_block.query("BEGIN");
    send_prepared(in_block, "read", tenant);
    assert_eq!(in_block.answer(), "E(53300) Z(E)");
    holder.query("COMMIT");
    assert_eq!(in_block.query("COMMIT"), "C(ROLLBACK) Z(I)");
    for client in &mut clients {
        send_prepared(client, "read", tenant);
        assert_eq!(client.answer(), "2 D(1) C(SELECT 1) Z(I)");
    }
}
