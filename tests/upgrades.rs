//! What an earlier version has left out is made good once this one starts.

mod support;

use std::time::Duration;

use support::served::Served;
use support::wire_client::Client;
use support::{psql, psql_error, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);
/// What roles may do in schemas of shards.
const MAKERS: &str = "SELECT coalesce(string_agg(DISTINCT grantee::regrole || ' ' || privilege_type, ', '
        ORDER BY grantee::regrole || ' ' || privilege_type), '')
    FROM pg_namespace, aclexplode(nspacl) WHERE nspname ~ '^(sales|Of \"it\")_[0-9]+$' AND grantee <> nspowner";

/// Goal: roles may do in the schemas of shards what they may do in the tables' schemas, also where the shards were made before that was so.
/// Method: privileges are taken away on the workers, and the catalog is put back to before the upgrade; somebody makes a table meanwhile.
#[test]
fn schemas_of_shards_get_the_privileges_that_earlier_versions_did_not_give() {
    let mut served = Served::start(2);
    let wanted = "SELECT count(*) FROM tenantry.mend";
    assert_eq!(psql(&served.coordinator_dsn(), wanted), "0", "what is new has nothing to mend");
    served.psql("CREATE ROLE seller LOGIN; CREATE ROLE \"Head\" LOGIN; GRANT tenantry_admin TO \"Head\"");
    for schema in ["sales", "\"Of \"\"it\"\"\""] {
        served.psql(&format!("CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO seller"));
        served.psql(&format!("GRANT ALL ON SCHEMA {schema} TO \"Head\""));
        served.psql(&format!(
            "CREATE TABLE {schema}.orders (tenant int PRIMARY KEY); GRANT ALL ON {schema}.orders TO seller"
        ));
        served.psql(&format!("SELECT create_distributed_table('{schema}.orders', 'tenant', shard_count => 4)"));
    }
    let all = "\"Head\" CREATE, \"Head\" USAGE, seller USAGE";
    let makers = |served: &Served| [0, 1].map(|worker| psql(&served.worker_dsn(worker), MAKERS));
    assert_eq!(makers(&served), [all, all]);
    let revoke = "DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace WHERE nspname ~ '^(sales|Of \"it\")_' LOOP
        EXECUTE format('REVOKE ALL ON SCHEMA %I FROM seller, \"Head\"', s); END LOOP; END $$";
    (0..2).for_each(|worker| drop(psql(&served.worker_dsn(worker), revoke)));
    let dsn = served.dsn(0).replace("postgres@", "seller@");
    assert!(psql_error(&dsn, "SELECT count(*) FROM sales.orders").contains("42501"));
    let before = "DROP TABLE tenantry.mend; DELETE FROM tenantry.migration WHERE name = 'mends'";
    psql(&served.coordinator_dsn(), before);

    served.kill_proxy(0);
    let mut client = Client::connect(served.coordinator_port, &[]);
    client.query("BEGIN; LOCK TABLE tenantry.colocation IN SHARE ROW EXCLUSIVE MODE");
    served.start_proxy(0);
    assert_eq!(psql(&served.coordinator_dsn(), wanted), "1");
    served.psql("INSERT INTO sales.orders VALUES (1)");
    assert_eq!(makers(&served), ["", ""], "it waits for who makes tables, and nobody for it");
    client.query("COMMIT");
    assert!(wait_until(PATIENCE, || psql(&served.coordinator_dsn(), wanted) == "0"));
    assert_eq!(makers(&served), [all, all]);
    assert_eq!(psql(&dsn, "SELECT count(*) FROM sales.orders"), "1");
    assert_eq!(psql(&dsn, "SELECT count(*) FROM \"Of \"\"it\"\"\".orders"), "0");
}
