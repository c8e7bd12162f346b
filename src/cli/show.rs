//! `node list` and `endpoint list`.

use super::connection::ProxyAddress;
use super::table::Table;
use crate::error::Result;

/// One line for each server, with the number of shard groups that it holds.
pub async fn nodes(proxy: &ProxyAddress, json: bool) -> Result<()> {
    print(&proxy.connect().await?.ask(NODES).await?, json);
    Ok(())
}

pub async fn endpoints(proxy: &ProxyAddress, json: bool) -> Result<()> {
    // A connection string that does not work is none.
    proxy.connect().await?.ask("SELECT 1").await?;
    let row = ["proxy".to_owned(), proxy.connection_string()];
    let columns = ["endpoint", "connection"].map(str::to_owned).to_vec();
    print(&Table { columns, rows: vec![row.map(Some).to_vec()] }, json);
    Ok(())
}

/// To the standard output stream.
pub fn print(table: &Table, json: bool) {
    if json {
        println!("{:#}", table.to_json());
    } else {
        println!("{table}");
    }
}

// Only tables of the catalog: this works whatever state the workers are in.
const NODES: &str = "
    SELECT n.nodeid AS node, n.nodename AS host, n.nodeport AS port,
           CASE WHEN n.noderole <> 'primary' THEN 'standby' WHEN n.groupid = 0 THEN 'coordinator' ELSE 'worker' END AS role,
           n.isactive AS active, n.shouldhaveshards AS takes_shards, count(g.id) AS shard_groups
    FROM tenantry.node n LEFT JOIN tenantry.shard_group g ON g.nodeid = n.nodeid
    GROUP BY n.nodeid ORDER BY n.groupid = 0 DESC, n.nodeid";
