//! Is a server fit to be a node? What is wrong is told all at once.

use tokio_postgres::Client;

use super::collation_versions;
use crate::backend::WRITTEN_TIMELINE;
use crate::catalog::quote::readable;
use crate::catalog::{Address, Catalog, connect, connect_to_coordinator, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::operations::disk::{self, ROOM_TO_SPARE, megabytes};
use crate::shard_map::{NodeId, ShardMap};

/// Everything that makes a server unfit, told at once; what makes it doubtful, as a warning.
///
/// Errors: 08006 when it can't be reached, 55000 when unfit.
pub async fn check_server(txn: &mut Transaction, catalog: &Catalog, map: &ShardMap, address: &Address) -> Result<()> {
    let settings = catalog.settings();
    let (new, old) = (connect(settings, address).await?, connect_to_coordinator(settings).await?);
    let (candidate, coordinator) = (facts(&new).await?, facts(&old).await?);
    let mut complaints = unfit(&candidate, &coordinator, &settings.dbname);
    complaints.extend(in_the_way(&new, &reference_tables(map)).await?);
    if candidate.version >= VERSION_MIN {
        let here = collation_versions::in_use(&old, map).await?;
        let there = collation_versions::of(&new, &here).await?;
        let missing = collation_versions::missing(&there, &here);
        if !missing.is_empty() {
            complaints.push(format!("It lacks collations of tables' columns: {}.", missing.join(", ")));
        }
        if complaints.is_empty() {
            warn_of_order(txn, address, &collation_versions::differences(&there, &here));
        }
    }
    if let Some(free) = disk::free(&new).await {
        let needed = bytes_of_reference_tables(&old, map).await? + ROOM_TO_SPARE;
        if free < needed {
            complaints.push(format!(
                "The disk of its data directory has {} free; {} are needed for the reference tables and to begin with.",
                megabytes(free),
                megabytes(needed)
            ));
        }
    }
    complaints.extend(other_names(catalog, map, None, &candidate).await);
    if complaints.is_empty() {
        return Ok(());
    }
    Err(PgError::new(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("cannot add node {}:{}", address.host, address.port),
    )
    .detail(complaints.join(" "))
    .hint("Call citus_add_node again when that is mended; settings count once the server is restarted."))
}

/// A warning and no complaint: the numbers of versions tell that orders may differ, and mostly they do not; and who brings a cluster to
/// another release of his operating system does so one server after the other. Postgres itself says no more of a database whose
/// version has changed.
fn warn_of_order(txn: &mut Transaction, address: &Address, differences: &[String]) {
    if differences.is_empty() {
        return;
    }
    let Address { host, port } = address;
    let message = format!("node {host}:{port} may sort text in another order than the coordinator");
    txn.warning(
        PgError::new(SqlState::WARNING, message).detail(differences.join(" ")).hint(
            "Where the orders differ, comparisons of text and ORDER BY with LIMIT find other rows in its shards. Have the same \
             versions of libc and ICU on all servers.",
        ),
    );
}

/// Complaints of what has the name of a reference table, (schema, name), on a server that is to get a copy, and is no copy of before.
/// Distributed tables are in schemas of their own there.
async fn in_the_way(client: &Client, tables: &[(&str, &str)]) -> Result<Vec<String>> {
    let (schemas, names): (Vec<&str>, Vec<&str>) = tables.iter().copied().unzip();
    // A server that was a node once.
    let knows_copies = "SELECT coalesce(has_table_privilege(to_regclass('tenantry.reference_copy'), 'SELECT'), false)";
    let copy = match client.query_one(knows_copies, &[]).await.map_err(pg_error)?.get(0) {
        true => "EXISTS (SELECT FROM tenantry.reference_copy r WHERE r.schema = w.schema AND r.name = w.name)",
        false => "false",
    };
    let sql = format!(
        "SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' \
             WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' ELSE 'index' END, \
             w.schema, w.name \
         FROM unnest($1::text[], $2::text[]) w (schema, name) JOIN pg_namespace n ON n.nspname = w.schema \
         JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name WHERE NOT (c.relkind = 'r' AND {copy}) \
         UNION ALL SELECT 'type', w.schema, w.name \
         FROM unnest($1::text[], $2::text[]) w (schema, name) JOIN pg_namespace n ON n.nspname = w.schema \
         JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = w.name AND t.typrelid = 0 \
         WHERE NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid) ORDER BY 2, 3"
    );
    let rows = client.query(&sql, &[&schemas, &names]).await.map_err(pg_error)?;
    let complaint = |row: &tokio_postgres::Row| {
        let (kind, schema, name): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        format!("Its {kind} {}.{} is in the way of the reference table of that name.", readable(schema), readable(name))
    };
    Ok(rows.iter().map(complaint).collect())
}

fn reference_tables(map: &ShardMap) -> Vec<(&str, &str)> {
    map.tables().filter(|table| table.is_reference()).map(|t| (t.schema.as_str(), t.name.as_str())).collect()
}

/// Complaints that the server is one of the active workers already, but for this one, under whatever name.
pub async fn other_names(catalog: &Catalog, map: &ShardMap, except: Option<NodeId>, candidate: &Facts) -> Vec<String> {
    let mut complaints = Vec::new();
    for worker in map.active_workers().filter(|worker| Some(worker.id) != except) {
        let at = Address { host: worker.host.clone(), port: worker.port };
        // A worker that is down cannot be the server that has just answered.
        if let Ok(client) = connect(catalog.settings(), &at).await
            && facts(&client).await.is_ok_and(|known| known.identity == candidate.identity)
        {
            complaints.push(format!("It is the same server as node {}:{}.", worker.host, worker.port));
        }
    }
    complaints
}

/// What a server's facts have against it. `database`: the name of the one that clients see.
fn unfit(candidate: &Facts, coordinator: &Facts, database: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if candidate.version < VERSION_MIN {
        complaints.push(format!("It runs PostgreSQL {}; 15 or later is needed.", candidate.version / 10000));
    }
    if candidate.in_recovery {
        complaints.push("It is in recovery (a standby).".to_owned());
    }
    // Less does not do: roles are made with all their attributes, SUPERUSER and REPLICATION among them, objects become their
    // owners', and rows are copied under session_replication_role.
    if !candidate.is_superuser {
        complaints.push(format!("Its role \"{}\", as which Tenantry logs in, is no superuser.", candidate.role));
    }
    if candidate.wal_level != "logical" {
        complaints.push(format!("Its wal_level is {}; logical is needed to move shards.", candidate.wal_level));
    }
    if candidate.max_prepared_transactions == 0 {
        complaints.push("Its max_prepared_transactions is 0; two-phase commit needs more.".to_owned());
    }
    if candidate.max_replication_slots == 0 {
        complaints.push("Its max_replication_slots is 0; moving shards needs more.".to_owned());
    }
    if candidate.max_wal_senders == 0 {
        complaints.push("Its max_wal_senders is 0; moving shards needs more.".to_owned());
    }
    if candidate.locale != coordinator.locale {
        complaints.push(format!(
            "Its database sorts text by {}, the coordinator's by {}.",
            candidate.locale, coordinator.locale
        ));
    }
    let missing: Vec<&str> = coordinator
        .extensions
        .iter()
        .filter(|name| !candidate.available_extensions.contains(name))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        complaints.push(format!("It lacks extensions that the coordinator has: {}.", missing.join(", ")));
    }
    if candidate.encoding != coordinator.encoding {
        complaints.push(format!(
            "Its database \"{}\" has encoding {}, the coordinator's has {}.",
            database, candidate.encoding, coordinator.encoding
        ));
    }
    if candidate.identity == coordinator.identity {
        complaints.push("It is the coordinator itself.".to_owned());
    }
    complaints
}

/// Bytes of the reference tables, which a node gets before anything else.
async fn bytes_of_reference_tables(coordinator: &Client, map: &ShardMap) -> Result<i64> {
    let tables: Vec<u32> = map.tables().filter(|table| table.is_reference()).map(|table| table.oid.0).collect();
    let sql = "SELECT coalesce(sum(pg_catalog.pg_total_relation_size(t)), 0)::pg_catalog.int8 \
               FROM pg_catalog.unnest($1::pg_catalog.oid[]) t";
    coordinator.query_one(sql, &[&tables]).await.and_then(|row| row.try_get(0)).map_err(pg_error)
}

/// What a server says of itself.
#[derive(Clone)]
pub struct Facts {
    version: i32,
    pub in_recovery: bool,
    /// None in recovery.
    pub timeline: Option<i32>,
    role: String,
    is_superuser: bool,
    wal_level: String,
    max_prepared_transactions: i32,
    max_replication_slots: i32,
    max_wal_senders: i32,
    encoding: String,
    /// Provider of the database's collation, its locale and rules there, and the locales of libc. Versions of PostgreSQL name them
    /// otherwise.
    locale: String,
    extensions: Vec<String>,
    available_extensions: Vec<String>,
    /// Differs between servers, even between copies of one data folder.
    pub identity: String,
}

impl Facts {
    /// Are they of the server that answers `STARTED_AT` so?
    pub fn are_of_server_started_at(&self, at: &str) -> bool {
        self.identity.rsplit_once('/').is_some_and(|(_, started)| started == at)
    }
}

/// For who may be any role.
pub const STARTED_AT: &str = "SELECT extract(epoch FROM pg_catalog.pg_postmaster_start_time())";

pub async fn facts(client: &Client) -> Result<Facts> {
    let timeline = format!("CASE WHEN NOT pg_is_in_recovery() THEN {WRITTEN_TIMELINE} END");
    let row = client
        .query_one(
            &format!(
            "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('wal_level'), \
             current_setting('max_prepared_transactions')::int, current_setting('max_replication_slots')::int, \
             current_setting('server_encoding'), \
             (SELECT system_identifier FROM pg_control_system()) || '/' || extract(epoch FROM pg_postmaster_start_time()), \
             current_setting('max_wal_senders')::int, \
             (SELECT concat_ws(' ', CASE datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' ELSE 'builtin' END, \
                  coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'), to_jsonb(d) ->> 'daticurules', \
                  datcollate, datctype) FROM pg_database d WHERE datname = current_database()), \
             ARRAY(SELECT extname::text FROM pg_extension ORDER BY 1), \
             ARRAY(SELECT name::text FROM pg_available_extensions), \
             rolname::text, rolsuper, {timeline} FROM pg_roles WHERE rolname = current_user"
            ),
            &[],
        )
        .await
        .map_err(pg_error)?;
    let read = || {
        Ok(Facts {
            version: row.try_get(0)?,
            in_recovery: row.try_get(1)?,
            wal_level: row.try_get(2)?,
            max_prepared_transactions: row.try_get(3)?,
            max_replication_slots: row.try_get(4)?,
            encoding: row.try_get(5)?,
            identity: row.try_get(6)?,
            max_wal_senders: row.try_get(7)?,
            locale: row.try_get(8)?,
            extensions: row.try_get(9)?,
            available_extensions: row.try_get(10)?,
            role: row.try_get(11)?,
            is_superuser: row.try_get(12)?,
            timeline: row.try_get(13)?,
        })
    };
    read().map_err(pg_error)
}

const VERSION_MIN: i32 = 150000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use crate::dev_cluster::{self, DevCluster, ports::PortRange};

    /// Goal: servers that sort by ICU, but each by another locale, are told apart.
    #[tokio::test]
    async fn the_locale_of_icu_counts() {
        let ports = PortRange::reserve();
        let servers = DevCluster::start(dev_cluster::Settings {
            base_port: ports.first,
            workers: 1,
            shared_buffers_mib: 16,
            ..dev_cluster::Settings::default()
        })
        .unwrap();
        let mut facts_of = Vec::new();
        for (server, locale) in [(servers.coordinator(), "de"), (servers.workers()[0], "sv")] {
            let address = Address { host: "127.0.0.1".into(), port: server.port() };
            let mut settings = catalog::Settings::default();
            let made = format!("CREATE DATABASE app TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE '{locale}'");
            connect(&settings, &address).await.unwrap().batch_execute(&made).await.unwrap();
            settings.dbname = "app".into();
            facts_of.push(facts(&connect(&settings, &address).await.unwrap()).await.unwrap());
        }
        let complaints = unfit(&facts_of[1], &facts_of[0], "app");
        assert!(
            complaints.len() == 1 && complaints[0].starts_with("Its database sorts text by icu sv "),
            "{complaints:?}"
        );
        assert!(complaints[0].contains("the coordinator's by icu de "), "{complaints:?}");
        servers.stop();
    }

    #[test]
    fn everything_that_is_wrong_is_told() {
        let coordinator = Facts {
            version: 150004,
            in_recovery: false,
            timeline: Some(1),
            role: "keeper".into(),
            is_superuser: true,
            wal_level: "logical".into(),
            max_prepared_transactions: 200,
            max_replication_slots: 10,
            max_wal_senders: 10,
            encoding: "UTF8".into(),
            locale: "libc C C".into(),
            extensions: vec!["plpgsql".into(), "postgis".into(), "citext".into()],
            available_extensions: vec!["plpgsql".into()],
            identity: "1/a".into(),
        };
        let fit = Facts {
            available_extensions: coordinator.extensions.clone(),
            identity: "2/b".into(),
            ..coordinator.clone()
        };
        assert_eq!(unfit(&fit, &coordinator, "app"), Vec::<String>::new());
        let candidate = Facts {
            version: 140009,
            in_recovery: true,
            is_superuser: false,
            wal_level: "replica".into(),
            max_prepared_transactions: 0,
            max_replication_slots: 0,
            max_wal_senders: 0,
            encoding: "LATIN1".into(),
            locale: "libc en_US en_US".into(),
            ..coordinator.clone()
        };
        let expected = [
            "It runs PostgreSQL 14; 15 or later is needed.",
            "It is in recovery (a standby).",
            "Its role \"keeper\", as which Tenantry logs in, is no superuser.",
            "Its wal_level is replica; logical is needed to move shards.",
            "Its max_prepared_transactions is 0; two-phase commit needs more.",
            "Its max_replication_slots is 0; moving shards needs more.",
            "Its max_wal_senders is 0; moving shards needs more.",
            "Its database sorts text by libc en_US en_US, the coordinator's by libc C C.",
            "It lacks extensions that the coordinator has: postgis, citext.",
            "Its database \"app\" has encoding LATIN1, the coordinator's has UTF8.",
            "It is the coordinator itself.",
        ];
        assert_eq!(unfit(&candidate, &coordinator, "app"), expected);
    }
}
