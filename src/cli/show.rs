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
    let known = proxy.connect().await?.ask(PROXIES).await?;
    let columns = ["endpoint", "connection", "metrics", "dashboard"].map(str::to_owned).to_vec();
    let mut rows = Vec::new();
    for row in 0..known.rows.len() {
        let port = known.at(row, 1).and_then(|port| port.parse().ok());
        let (Some(host), Some(port)) = (known.at(row, 0).map(in_url), port) else { continue };
        let connection = ProxyAddress { host, port, ..proxy.clone() }.connection_string();
        let pages =
            known.at(row, 2).zip(known.at(row, 3)).map(|(host, port)| format!("http://{}:{port}", in_url(host)));
        let metrics = pages.as_ref().map(|pages| format!("{pages}/metrics"));
        rows.push(vec![Some(format!("proxy {}", row + 1)), Some(connection), metrics, pages.map(|pages| pages + "/")]);
    }
    if rows.is_empty() {
        // It has not told where it is reached yet, or is an older one.
        rows.push(vec![Some("proxy 1".to_owned()), Some(proxy.connection_string()), None, None]);
    }
    print(&Table { columns, rows }, json);
    Ok(())
}

/// An IPv6 address needs brackets in front of a port.
fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// To the standard output stream.
pub fn print(table: &Table, json: bool) {
    if json {
        println!("{:#}", table.to_json());
    } else {
        println!("{table}");
    }
}

const PROXIES: &str = "SELECT clients_host, clients_port, admin_host, admin_port FROM tenantry.tenantry_proxies WHERE clients_port IS NOT NULL";

// Only tables of the catalog: this works whatever state the workers are in.
const NODES: &str = "
    SELECT n.nodeid AS node, n.nodename AS host, n.nodeport AS port,
           CASE WHEN n.noderole <> 'primary' THEN 'standby' WHEN n.groupid = 0 THEN 'coordinator' ELSE 'worker' END AS role,
           n.isactive AS active, n.shouldhaveshards AS takes_shards, count(g.id) AS shard_groups
    FROM tenantry.node n LEFT JOIN tenantry.shard_group g ON g.nodeid = n.nodeid
    GROUP BY n.nodeid ORDER BY n.groupid = 0 DESC, n.nodeid";
