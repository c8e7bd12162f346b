//! What can be shown: the columns of each table, and its rows as they are now.
//!
//! Source of the columns that PgBouncer has too: its manual, "Admin console", "Show commands".

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

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
    State,
    Stats,
    StatsAverages,
    StatsTotals,
    Totals,
    Users,
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
    ("state", Table::State, "whether the pools are paused"),
    ("stats", Table::Stats, "what was done since the start, and in the last minute on the average"),
    ("stats_averages", Table::StatsAverages, "the second half of it"),
    ("stats_totals", Table::StatsTotals, "the first half of it"),
    ("totals", Table::Totals, "what stats says, a figure a row"),
    ("users", Table::Users, "roles that have sessions or connections"),
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
            Self::State => STATE,
            Self::Stats => STATS,
            Self::StatsAverages | Self::StatsTotals => STATS_HALF,
            Self::Totals => TOTALS,
            Self::Users => USERS,
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
        Table::State => state(console),
        Table::Stats => vec![stats(console)],
        Table::StatsAverages => vec![of_database(console, averages(console))],
        Table::StatsTotals => vec![of_database(console, totals(console))],
        Table::Totals => all_figures(console),
        Table::Users => users(console),
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

/// The database as it lies on one server: no two rows of a table have the same. Tools that know PgBouncer tell rows apart by
/// it alone.
fn name_of(console: &Console, address: &ServerAddress, is_replica: bool) -> String {
    let name = &console.catalog.settings().dbname;
    match (is_replica, *address == console.coordinator) {
        (false, true) => name.clone(),
        (false, false) => format!("{name}@{address}"),
        (true, _) => format!("{name}@{address} (standby)"),
    }
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
    ("paused", Number),
    ("disabled", Number),
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
    let row = |address: ServerAddress, role, id, shard_groups: usize, is_active: bool| {
        let of_node = figures.iter().find(|node| node.address == address && !node.is_replica);
        vec![
            Value::Text(name_of(console, &address, false)),
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
            Value::number(i64::from(console.nodes.is_paused())),
            Value::number(i64::from(!is_active || console.door.is_closed())),
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
    shows.chain(COMMANDS.iter().map(|(command, meaning)| row((*command).to_owned(), meaning))).collect()
}

/// Those that change something.
const COMMANDS: &[(&str, &str)] = &[
    ("DISABLE db", "nobody new comes into the database"),
    ("ENABLE db", "ends that"),
    ("KILL", "ends all sessions with the database; who comes waits until RESUME"),
    ("KILL_CLIENT id", "ends a session, by its id in SHOW CLIENTS"),
    ("PAUSE", "no connection to a server is given to a session; done when all are closed"),
    ("RESUME", "ends a PAUSE or KILL: sessions that wait go on"),
    ("RECONNECT", "every connection to a server is replaced once no session has it"),
    ("RELOAD", "reads the configuration file again, as SIGHUP does"),
    ("SHUTDOWN", "ends the process; open transactions are rolled back"),
    ("SHUTDOWN WAIT_FOR_SERVERS", "ends it when open transactions have ended, as SIGTERM does"),
    ("SHUTDOWN WAIT_FOR_CLIENTS", "takes no new clients, and ends it when the last one has gone"),
    ("WAIT_CLOSE", "done when the connections are gone that RECONNECT has found"),
];

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
    lists.push(("login_clients".to_owned(), console.door.strangers()));
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
    ("sv_most", Number),
];

fn pools(console: &Console) -> Vec<Row> {
    let mode = mode(console.nodes.settings().load().mode);
    let figures = console.nodes.figures();
    let all = figures.iter().flat_map(|node| node.pools.iter().map(move |pool| (node, pool)));
    all.map(|(node, pool)| {
        let address = &node.address;
        vec![
            Value::Text(name_of(console, address, node.is_replica)),
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
            Value::number(pool.most),
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
    ("close_needed", Number),
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
            Value::number(i64::from(server.is_closing)),
            Value::number(server.age.as_secs()),
        ]
    })
    .collect()
}

const STATE: &[Column] = &[("key", Text), ("value", Text)];

fn state(console: &Console) -> Vec<Row> {
    let is_paused = console.nodes.is_paused();
    let row = |key, is_so| vec![Value::text(key), Value::text(if is_so { "yes" } else { "no" })];
    vec![row("active", !is_paused), row("paused", is_paused), row("suspended", false)]
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
    ("avg_xact_count", Number),
    ("avg_query_count", Number),
    ("avg_recv", Number),
    ("avg_sent", Number),
    ("avg_xact_time", Number),
    ("avg_query_time", Number),
    ("avg_wait_time", Number),
];

const STATS_HALF: &[Column] = &[
    ("database", Text),
    ("xact_count", Number),
    ("query_count", Number),
    ("bytes_received", Number),
    ("bytes_sent", Number),
    ("xact_time", Number),
    ("query_time", Number),
    ("wait_time", Number),
];

const TOTALS: &[Column] = &[("name", Text), ("value", Number)];

/// Those of all databases, of which there is one.
fn all_figures(console: &Console) -> Vec<Row> {
    let figures = STATS.iter().zip(stats(console)).skip(1);
    figures.map(|((name, _), value)| vec![Value::text(*name), value]).collect()
}

fn stats(console: &Console) -> Row {
    of_database(console, [totals(console), averages(console)].concat())
}

fn of_database(console: &Console, numbers: Vec<u64>) -> Row {
    let name = Value::text(&console.catalog.settings().dbname);
    std::iter::once(name).chain(numbers.into_iter().map(Value::number)).collect()
}

/// Times are in microseconds, as PgBouncer's.
fn totals(console: &Console) -> Vec<u64> {
    let sums = console.sums();
    let counts = [sums.transactions, sums.statements, sums.received_bytes, sums.sent_bytes];
    [&counts[..], &[sums.transaction_micros, sums.request_micros, sums.wait_micros]].concat()
}

fn averages(console: &Console) -> Vec<u64> {
    let average = console.averages.tell(Instant::now(), console.sums());
    let counts = [average.transactions, average.statements, average.received_bytes, average.sent_bytes];
    [&counts[..], &[average.transaction_micros, average.request_micros, average.wait_micros]].concat()
}

const USERS: &[Column] = &[
    ("name", Text),
    ("pool_size", Number),
    ("pool_mode", Text),
    ("max_user_client_connections", Number),
    ("current_connections", Number),
    ("current_client_connections", Number),
];

fn users(console: &Console) -> Vec<Row> {
    let settings = console.nodes.settings().load();
    let mut users: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for presence in console.presences.all() {
        users.entry(presence.user.to_string()).or_default().1 += 1;
    }
    let figures = console.nodes.figures();
    for pool in figures.iter().flat_map(|node| &node.pools) {
        users.entry(pool.user.clone()).or_default().0 += pool.in_use + pool.idle + pool.logging_in;
    }
    let most = console.settings.live().login.load().sessions.of_role;
    let row = |(name, (servers, clients))| {
        vec![
            Value::Text(name),
            Value::number(settings.size),
            Value::text(mode(settings.mode)),
            most.map_or(Value::Null, Value::number),
            Value::number(servers),
            Value::number(clients),
        ]
    };
    users.into_iter().map(row).collect()
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
        assert_eq!(help().len(), TABLES.len() + COMMANDS.len());
        assert_eq!(Table::named("tenants"), None);
    }
}
