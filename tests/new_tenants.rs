//! Rows whose distribution column is left to its default: an application that makes a new tenant takes the id that the database gives.

mod support;

use std::collections::HashSet;

use support::served::{Served, Stop};
use support::wire_client::Client;

/// Goal: by Parse and Bind, through two proxies, while shards move: each row has an id of its own, and is where statements of its
/// tenant look for it.
#[test]
fn new_tenants_get_ids_of_their_own_while_shards_move() {
    let mut served = Served::start(2);
    served.start_proxy(1);
    served.psql(
        "SET citus.shard_count = 4; CREATE TABLE firms (id bigserial PRIMARY KEY, name text, secret uuid DEFAULT gen_random_uuid());
         SELECT create_distributed_table('firms', 'id')",
    );
    let shards = served.psql(
        "SELECT shardid, nodeid FROM pg_dist_shard JOIN pg_dist_placement USING (shardid) \
        JOIN pg_dist_node n USING (groupid) WHERE logicalrelid = 'firms'::regclass ORDER BY 1",
    );
    let shards: Vec<(String, u32)> = shards
        .lines()
        .map(|line| {
            line.split_once('|')
                .map(|(shard, node)| (shard.to_owned(), node.parse().expect("a number")))
                .expect("two columns")
        })
        .collect();
    let stop = Stop::default();
    let inserts = [
        "INSERT INTO firms (name) VALUES ($1), ($1 || '+') RETURNING id",
        "INSERT INTO firms (id, name) VALUES (nextval('firms_id_seq'), $1), (DEFAULT, $1 || '+') RETURNING id",
    ];
    let given: Vec<String> = std::thread::scope(|scope| {
        let writers: Vec<_> = [0, 1]
            .map(|proxy| {
                let (served, stop) = (&served, &stop);
                scope.spawn(move || {
                    let mut client = Client::connect(served.proxy_port(proxy), &[]);
                    let mut given = Vec::new();
                    for n in 0.. {
                        let name = format!("{proxy}-{n}");
                        let said = client.run_prepared("", inserts[proxy], &[Some(&name)]);
                        let ids = said.split(' ').filter_map(|word| word.strip_prefix("D(")?.strip_suffix(')'));
                        given.extend(ids.map(str::to_owned));
                        assert_eq!(given.len(), 2 * (n + 1), "{said}");
                        if n > 20 && stop.is_set() {
                            return given;
                        }
                    }
                    given
                })
            })
            .into_iter()
            .collect();
        for (shard, node) in &shards {
            served.psql(&format!("SELECT citus_move_shard_placement({shard}, {node}, {})", 3 - node));
        }
        stop.set();
        writers.into_iter().flat_map(|writer| writer.join().expect("it writes")).collect()
    });
    assert_eq!(given.iter().collect::<HashSet<_>>().len(), given.len(), "no id twice");
    assert_eq!(served.psql("SELECT count(*), count(DISTINCT secret) FROM firms"), format!("{0}|{0}", given.len()));
    for id in given.iter().step_by(7) {
        assert_eq!(served.psql(&format!("SELECT count(*) FROM firms WHERE id = {id}")), "1", "{id}");
    }
}

/// Goal: nothing of what tenants' ids are drawn from is lent: not where a table is distributed beside its writers, nor to a node that joins.
#[test]
fn ids_of_new_tenants_begin_with_the_first() {
    let served = Served::start(2);
    let node = format!("'127.0.0.1', {}", served.worker_port(1));
    served.psql(&format!("SELECT citus_remove_node({node})"));
    served.psql(
        "CREATE TABLE firms (id bigserial PRIMARY KEY, name text); SELECT create_distributed_table('firms', 'id')",
    );
    served.psql("CREATE TABLE teams (id bigserial PRIMARY KEY, name text)");
    served.psql("SELECT create_distributed_table_concurrently('teams', 'id')");
    served.psql(&format!("SELECT citus_add_node({node})"));
    for table in ["firms", "teams"] {
        assert_eq!(
            served.psql(&format!("INSERT INTO {table} (name) VALUES ('x'), ('y') RETURNING id")),
            "1\n2",
            "{table}"
        );
    }
}
