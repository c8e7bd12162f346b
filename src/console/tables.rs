//! What can be shown: the columns of each table, and its rows as they are now.
//!
//! Source of the columns that PgBouncer has too: its manual, "Admin console", "Show commands".

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::Console;
use super::time::shown;
use super::value::Kind::{Number, Text};
use super::value::{Column, Value};
use crate::backend::{PoolMode, ServerAddress};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Clients,
    Config,
    Databases,
    Help,
    Lists,
    Pools,
    Servers,
    Stats,
    Version,
}

type Row = Vec<Value>;

/// Name, table, meaning.
const TABLES: &[(&str, Table, &str)] = &[
    ("clients", Table::Clients, "sessions of clients"),
    ("config", Table::Config, "settings"),
    ("databases", Table::Databases, "the database as it lies on each node"),
    ("help", Table::Help, "these commands"),
    ("lists", Table::Lists, "how many there are of everything"),
    ("pools", Table::Pools, "connections to each node, by role"),
    ("servers", Table::Servers, "every connection to a node"),
    ("stats", Table::Stats, "what was done since the start"),
    ("version", Table::Version, "which program this is"),
];

impl Table {
    /// The table with this name, in lower case.
    pub fn named(name: &str) -> Option<Self> {
        TABLES.iter().find(|(known, ..)| *known == name).map(|(_, table, _)| *table)
    }

    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Clients => CLIENTS,
            Self::Config => CONFIG,
            Self::Databases => DATABASES,
            Self::Help => HELP,
            Self::Lists => LISTS,
            Self::Pools => POOLS,
            Self::Servers => SERVERS,
            Self::Stats => STATS,
            Self::Version => VERSION,
        }
    }
}

/// The rows of a table; each has a value for each column.
pub fn rows(table: Table, console: &Console) -> Vec<Row> {
    match table {
        Table::Clients => clients(console),
        Table::Config => config(console),
        Table::Databases => databases(console),
        Table::Help => help(),
        Table::Lists => lists(console),
        Table::Pools => pools(console),
        Table::Servers => servers(console),
        Table::Stats => vec![stats(console)],
        Table::Version => vec![vec![Value::text(concat!("Tenantry ", env!("CARGO_PKG_VERSION")))]],
    }
}

const CLIENTS: &[Column] = &[
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Number),
    ("local_addr", Text),
    ("local_port", Number),
    ("connect_time", Text),
    ("request_time", Text),
    ("tls", Text),
    ("application_name", Text),
    ("id", Number),
];

fn clients(console: &Console) -> Vec<Row> {
    let row = |presence: &std::sync::Arc<crate::session::Presence>| {
        vec![
            Value::text("C"),
            Value::text(&*presence.user),
            Value::text(&*presence.database),
            Value::text(presence.state().as_str()),
            Value::text(presence.peer.ip().to_string()),
            Value::number(presence.peer.port()),
            Value::text(presence.local.ip().to_string()),
            Value::number(presence.local.port()),
            Value::text(shown(presence.since)),
            Value::text(shown(presence.requested())),
            Value::text(if presence.is_encrypted { "on" } else { "off" }),
            Value::text(presence.application()),
            Value::number(presence.id),
        ]
    };
    console.presences.all().iter().map(row).collect()
}

const CONFIG: &[Column] = &[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)];

fn config(console: &Console) -> Vec<Row> {
    let or_null = |value: Option<String>| value.map_or(Value::Null, Value::Text);
    let row = |setting: crate::config::Shown| {
        let changeable = Value::text(if setting.reloads { "yes" } else { "no" });
        vec![Value::Text(setting.name), or_null(setting.value), or_null(setting.default), changeable]
    };
    console.settings.shown().into_iter().map(row).collect()
}

const DATABASES: &[Column] = &[
    ("name", Text),
    ("host", Text),
    ("port", Number),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Number),
    ("server_lifetime", Number),
    ("pool_mode", Text),
    ("max_connections", Number),
    ("current_connections", Number),
    ("current_client_connections", Number),
    ("role", Text),
    ("node_id", Number),
    ("shard_groups", Number),
    ("is_active", Number),
    ("outage", Text),
];

fn databases(console: &Console) -> Vec<Row> {
    let map = console.catalog.map();
    let figures = console.nodes.figures();
    let settings = console.nodes.settings().load();
    let name = &console.catalog.settings().dbname;
    let clients = console.presences.all().iter().filter(|presence| &*presence.database == name).count();
    let row = |address: ServerAddress, role, id, shard_groups: usize, is_active| {
        let of_node = figures.iter().find(|node| node.address == address && !node.is_replica);
        vec![
            Value::text(name),
            Value::text(&address.host),
            Value::number(address.port),
            Value::text(name),
            Value::Null,
            Value::number(settings.size),
            Value::number(settings.age_max.as_secs()),
            Value::text(mode(settings.mode)),
            of_node.map_or(Value::Null, |node| Value::number(node.limit)),
            Value::number(of_node.map_or(0, |node| node.open)),
            Value::number(clients),
            Value::text(role),
            Value::number(id),
            Value::number(shard_groups),
            Value::number(i64::from(is_active)),
            of_node.and_then(|node| node.outage.clone()).map_or(Value::Null, Value::Text),
        ]
    };
    let groups = |id| map.colocations().flat_map(|c| &c.shard_groups).filter(|group| group.node == id).count();
    let coordinator = row(console.coordinator.clone(), "coordinator", 0, 0, true);
    let workers = map.nodes().iter().filter(|node| node.group_id != 0).map(|node| {
        let address = ServerAddress { host: node.host.clone(), port: node.port };
        row(address, "worker", node.id.0, groups(node.id), node.is_active)
    });
    std::iter::once(coordinator).chain(workers).collect()
}

const HELP: &[Column] = &[("command", Text), ("meaning", Text)];

fn help() -> Vec<Row> {
    let row = |command: String, meaning: &str| vec![Value::Text(command), Value::text(meaning)];
    let shows = TABLES.iter().map(|(name, _, meaning)| row(format!("SHOW {}", name.to_uppercase()), meaning));
    shows.chain([row("RELOAD".to_owned(), "reads the configuration file again, as SIGHUP does")]).collect()
}

const LISTS: &[Column] = &[("list", Text), ("items", Number)];

fn lists(console: &Console) -> Vec<Row> {
    let figures = console.nodes.figures();
    let pools = || figures.iter().flat_map(|node| &node.pools);
    let users: BTreeSet<&str> = pools().map(|pool| pool.user.as_str()).collect();
    let mut lists = vec![
        ("databases".to_owned(), 1),
        ("users".to_owned(), users.len()),
        ("pools".to_owned(), pools().count()),
        ("nodes".to_owned(), figures.len()),
        ("free_servers".to_owned(), pools().map(|pool| pool.idle).sum()),
        ("used_servers".to_owned(), pools().map(|pool| pool.in_use).sum()),
    ];
    let by_state: Vec<_> = console.presences.by_state().collect();
    lists.push(("used_clients".to_owned(), by_state.iter().map(|(_, count)| count).sum()));
    lists.extend(by_state.iter().map(|(state, count)| (format!("{} clients", state.as_str()), *count)));
    lists.into_iter().map(|(list, items)| vec![Value::Text(list), Value::number(items)]).collect()
}

const POOLS: &[Column] = &[
    ("database", Text),
    ("user", Text),
    ("cl_active", Number),
    ("cl_waiting", Number),
    ("sv_active", Number),
    ("sv_idle", Number),
    ("sv_login", Number),
    ("maxwait", Number),
    ("maxwait_us", Number),
    ("pool_mode", Text),
    ("host", Text),
    ("port", Number),
    ("total_waits", Number),
    ("total_wait_time", Number),
    ("longest_wait_time", Number),
    ("timeouts", Number),
];

fn pools(console: &Console) -> Vec<Row> {
    let mode = mode(console.nodes.settings().load().mode);
    let figures = console.nodes.figures();
    let all = figures.iter().flat_map(|node| node.pools.iter().map(move |pool| (&node.address, pool)));
    all.map(|(address, pool)| {
        vec![
            Value::text(&pool.database),
            Value::text(&pool.user),
            // A session that has a connection, and a connection that a session has, are the same number.
            Value::number(pool.in_use),
            Value::number(pool.waiting),
            Value::number(pool.in_use),
            Value::number(pool.idle),
            Value::number(pool.logging_in),
            Value::number(pool.longest_waiting.as_secs()),
            Value::number(pool.longest_waiting.subsec_micros()),
            Value::text(mode),
            Value::text(&address.host),
            Value::number(address.port),
            Value::number(pool.waits.count()),
            Value::number(pool.waits.micros),
            Value::number(pool.longest_wait.as_micros()),
            Value::number(pool.timeouts),
        ]
    })
    .collect()
}

const SERVERS: &[Column] = &[
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Number),
    ("connect_time", Text),
    ("remote_pid", Number),
    ("age", Number),
];

fn servers(console: &Console) -> Vec<Row> {
    let now = SystemTime::now();
    let figures = console.nodes.figures();
    let all = figures.iter().flat_map(|node| node.servers.iter().map(move |server| (&node.address, server)));
    all.map(|(address, server)| {
        let state = match (server.in_use, server.is_waited_for) {
            (false, _) => "idle",
            (true, true) => "active",
            (true, false) => "held",
        };
        vec![
            Value::text("S"),
            Value::text(&server.user),
            Value::text(&server.database),
            Value::text(state),
            Value::text(&address.host),
            Value::number(address.port),
            Value::text(shown(now.checked_sub(server.age).unwrap_or(now))),
            Value::number(server.pid),
            Value::number(server.age.as_secs()),
        ]
    })
    .collect()
}

const STATS: &[Column] = &[
    ("database", Text),
    ("total_xact_count", Number),
    ("total_query_count", Number),
    ("total_received", Number),
    ("total_sent", Number),
    ("total_xact_time", Number),
    ("total_query_time", Number),
    ("total_wait_time", Number),
];

/// Times are in microseconds, as PgBouncer's.
fn stats(console: &Console) -> Row {
    let totals = console.tallies.totals();
    let pools = console.nodes.figures().into_iter().flat_map(|node| node.pools);
    let waited: u64 = pools.map(|pool| pool.waits.micros).sum();
    vec![
        Value::text(&console.catalog.settings().dbname),
        Value::number(totals.transactions),
        Value::number(totals.statements.iter().sum::<u64>()),
        Value::number(totals.received_bytes),
        Value::number(totals.sent_bytes),
        Value::number(totals.transaction_micros),
        Value::number(totals.requests.micros),
        Value::number(waited),
    ]
}

const VERSION: &[Column] = &[("version", Text)];

fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_name_of_its_own_and_columns() {
        let names: BTreeSet<&str> = TABLES.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names.len(), TABLES.len());
        for (name, table, _) in TABLES {
            assert_eq!(Table::named(name), Some(*table));
            let columns: BTreeSet<&str> = table.columns().iter().map(|(column, _)| *column).collect();
            assert_eq!(columns.len(), table.columns().len(), "{name}");
        }
        assert!(help().len() > TABLES.len());
        assert_eq!(Table::named("tenants"), None);
    }
}
