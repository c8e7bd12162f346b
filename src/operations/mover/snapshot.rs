//! The source's side of a move: its tables, publication and slot.

use std::time::Duration;

use super::guard::Guard;
use super::part;
use super::pieces::Routes;
use super::session::{self, Session, with_short_locks_while};
use super::state::Move;
use super::{MoverEnvironment, Notice, Notify};
use crate::backend::replication::{CreatedSlot, ReplicationConnection, ReplicationStream};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal, qualified, readable};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{ShardGroupId, ShardMap};
use crate::wire::pgoutput::Lsn;

/// One table of the shard group, as it stands on the source.
#[derive(Debug, Clone)]
pub struct SourceTable {
    /// With the shard schema, quoted.
    pub name: String,
    /// Index of its schema in the move's, and its name without that, unquoted.
    schema: usize,
    bare_name: String,
    /// The distribution column, unquoted, where rows go to several places.
    pub key: Option<String>,
    /// The condition for the rows that leave; all if none.
    pub filter: Option<String>,
    /// All columns, quoted.
    pub columns: Vec<String>,
    /// Columns that can be written: not the generated ones.
    pub stored: Vec<String>,
    /// Every type has the same oid on every server, so the binary form means the same everywhere.
    pub is_binary: bool,
    has_replica_identity: bool,
    /// A change of it comes with the whole old row.
    pub has_full_identity: bool,
    pub bytes: i64,
    /// Its schema on the source, unquoted.
    schema_name: String,
    /// The partitioned tables of the same schema that it is a part of, unquoted, the outermost first.
    ancestors: Vec<String>,
}

/// Everything that clients could reach the tables' rows by, each once, quoted.
///
/// Who inserts through a partitioned table locks that first and the partition only when a row gets there: one that waits
/// for a partition alone would write into it whatever it is called by then.
pub fn to_lock(tables: &[SourceTable]) -> String {
    names(tables, |table| table.schema_name.clone())
}

/// As `to_lock`, of a shard group on a target.
pub fn to_lock_in(tables: &[SourceTable], mv: &Move, group: ShardGroupId) -> String {
    let schemas = mv.placed_schemas(group);
    names(tables, |table| schemas[table.schema].clone())
}

fn names(tables: &[SourceTable], schema: impl Fn(&SourceTable) -> String) -> String {
    let mut names: Vec<String> = Vec::new();
    for table in tables {
        for bare in table.ancestors.iter().chain([&table.bare_name]) {
            let name = qualified(&schema(table), bare);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.join(", ")
}

/// The group's tables with rows of their own, partitions included, in order of creation.
///
/// Errors: 0A000 for an unlogged table: its changes are in no stream.
pub async fn tables(source: &Session, mv: &Move, map: &ShardMap, routes: &Routes) -> Result<Vec<SourceTable>> {
    let sql = "SELECT n.nspname::text, c.relname::text, c.relpersistence = 'u',
            ARRAY(SELECT a.attname::text FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
            ARRAY(SELECT a.attname::text FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                  ORDER BY a.attnum),
            NOT EXISTS (SELECT FROM pg_attribute a
                        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384),
            c.relreplident = 'f' OR EXISTS (
                SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END),
            pg_table_size(c.oid),
            ARRAY(SELECT p.relname::text
                  FROM pg_partition_ancestors(c.oid) WITH ORDINALITY u (relid, n) JOIN pg_class p ON p.oid = u.relid
                  WHERE p.oid <> c.oid AND p.relnamespace = c.relnamespace ORDER BY u.n DESC),
            c.relreplident = 'f'
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY ($1) AND c.relkind = 'r'
        AND ($2::oid IS NULL OR c.oid = $2 OR c.oid IN (SELECT relid FROM pg_partition_tree($2)))
        AND ($3::text[] IS NULL OR c.oid IN (SELECT to_regclass(name) FROM unnest($3) name)) ORDER BY c.oid";
    let only = mv.table.as_ref().map(|table| table.oid.0);
    let named = mv.newcomer.as_ref().map(|newcomer| &newcomer.tables);
    let quote = |names: Vec<String>| names.iter().map(|name| identifier(name)).collect();
    let mut tables = Vec::new();
    let shard_schemas = mv.shard_schemas();
    for row in source.query(sql, &[&shard_schemas, &only, &named]).await.map_err(pg_error)? {
        let name: String = row.get(1);
        if row.get(2) {
            return Err(PgError::unsupported(format!("cannot move a shard of the unlogged table \"{name}\""))
                .detail("Changes of unlogged tables are not replicated.")
                .hint(format!("Run ALTER TABLE {} SET LOGGED first.", readable(&name))));
        }
        let schema: &str = row.get(0);
        // Each shard group has all of them.
        let at = shard_schemas.iter().position(|s| s == schema).unwrap_or_default() % mv.schemas.len().max(1);
        let key = routes.column_of(&mv.schemas[at], &name).map(str::to_owned);
        if key.is_none() && !mv.pieces.is_empty() {
            return Err(PgError::unsupported(format!(
                "cannot split a shard while \"{name}\" has no distribution column"
            ))
            .detail("Every table of the shard must say where its rows belong."));
        }
        tables.push(SourceTable {
            name: qualified(schema, &name),
            schema: at,
            bare_name: name.clone(),
            key,
            filter: match &mv.part {
                Some(part) => Some(part::filter(map, part, &mv.schemas[at], &name)?),
                None => None,
            },
            columns: quote(row.get(3)),
            stored: quote(row.get(4)),
            is_binary: row.get(5),
            has_replica_identity: row.get(6),
            has_full_identity: !row.get::<_, bool>(6) || row.get::<_, bool>(9),
            bytes: row.get(7),
            schema_name: schema.to_owned(),
            ancestors: row.get(8),
        });
    }
    Ok(tables)
}

/// Marker table and publication on the source; tables without a replica identity get a full one for the move.
///
/// `watch` may end the wait for its locks.
/// A full identity makes UPDATE and DELETE log the whole old row, which is slower but refuses nothing.
pub async fn prepare(
    environment: &MoverEnvironment,
    catalog: &Session,
    source: &Session,
    mv: &mut Move,
    tables: &[SourceTable],
    watch: Option<&Guard>,
    notify: &Notify<'_>,
) -> Result<()> {
    let goes_on = || watch.map_or(Ok(()), Guard::check);
    let without: Vec<String> = tables.iter().filter(|t| !t.has_replica_identity).map(|t| t.name.clone()).collect();
    if !without.is_empty() {
        mv.remember_full_identity(catalog, without.clone()).await?;
        for table in tables.iter().filter(|table| !table.has_replica_identity) {
            let name = readable(&table.bare_name);
            let what = format!("table {name} has no replica identity, its whole rows are logged for the move");
            notify(Notice::new(what));
        }
        for table in &without {
            let sql = format!("ALTER TABLE {table} REPLICA IDENTITY FULL");
            with_short_locks_while(environment, (source, mv.source), &sql, goes_on).await?;
        }
    }
    let name = identifier(&mv.name());
    let marker = mv.marker();
    let published: Vec<String> = tables.iter().map(|t| format!("{}{}", t.name, t.condition())).collect();
    let sql = format!(
        "CREATE SCHEMA {name}; {}; CREATE PUBLICATION {name} FOR TABLE {}",
        marker_table(&marker),
        published.into_iter().chain([marker.clone()]).collect::<Vec<_>>().join(", ")
    );
    with_short_locks_while(environment, (source, mv.source), &sql, goes_on).await
}

/// The marker table's definition, alike on source and target.
pub fn marker_table(name: &str) -> String {
    format!("CREATE TABLE {name} (id bigint PRIMARY KEY, purpose text NOT NULL)")
}

impl SourceTable {
    /// Its name as part of a shard group on a target, quoted.
    pub fn name_in(&self, mv: &Move, group: ShardGroupId) -> String {
        qualified(&mv.placed_schemas(group)[self.schema], &self.bare_name)
    }

    /// Do rows of both come together in one table?
    pub fn is_alike(&self, other: &Self) -> bool {
        (self.schema, &self.bare_name) == (other.schema, &other.bare_name)
    }

    /// With a space before it; empty when all rows leave.
    pub fn condition(&self) -> String {
        self.filter.as_ref().map_or_else(String::new, |filter| format!(" WHERE ({filter})"))
    }
}

/// Creates the slot. Its snapshot lives as long as nothing else is done on the connection.
///
/// Errors: 55P03 when transactions that were open before stay open for longer than `slot_patience`.
pub async fn create_slot(environment: &MoverEnvironment, mv: &Move) -> Result<(ReplicationConnection, CreatedSlot)> {
    let mut connection = connect_for_replication(environment, mv).await?;
    let created = tokio::time::timeout(environment.settings.slot_patience, connection.create_slot(&mv.name())).await;
    let slot = created.map_err(|_| {
        PgError::new(SqlState::LOCK_NOT_AVAILABLE, "transactions on the source node stay open for too long")
            .detail("A move starts once every transaction that was open before it has ended.")
            .hint("See pg_stat_activity and pg_prepared_xacts on the source node.")
    })??;
    Ok((connection, slot))
}

/// The stream of the slot, from `position` on. A connection of the slot's last user may be on its way out.
///
/// Errors: 55006 when it stays.
pub async fn resume_slot(environment: &MoverEnvironment, mv: &Move, position: Lsn) -> Result<ReplicationStream> {
    let source = session::connect(environment, mv.source).await?;
    let end_sender = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = {} AND active_pid IS NOT NULL",
        literal(&mv.name())
    );
    let mut attempts = 0;
    loop {
        let connection = connect_for_replication(environment, mv).await?;
        match connection.start(&mv.name(), &mv.name(), position).await {
            Err(error) if error.code() == SqlState::OBJECT_IN_USE && attempts < RESUME_ATTEMPTS => attempts += 1,
            done => return done,
        }
        source.batch_execute(&end_sender).await.map_err(pg_error)?;
        tokio::time::sleep(RESUME_PAUSE).await;
    }
}

async fn connect_for_replication(environment: &MoverEnvironment, mv: &Move) -> Result<ReplicationConnection> {
    let (address, identity) = session::replication_login(environment, mv.source)?;
    let settings = environment.catalog.settings();
    let mut logins = session::Logins::begin(settings);
    loop {
        match ReplicationConnection::connect(&settings.access, &address, &identity, settings.connect_timeout).await {
            Err(error) if logins.go_on(&error).await => {}
            done => return done,
        }
    }
}

/// Has the server room for one more slot and the right `wal_level`? Asked before anything is created.
pub async fn check_source(source: &Session) -> Result<()> {
    let sql = "SELECT current_setting('wal_level'), current_setting('max_replication_slots')::bigint
               - (SELECT count(*) FROM pg_replication_slots)";
    let row = source.query_one(sql, &[]).await.map_err(pg_error)?;
    let (wal_level, free): (String, i64) = (row.get(0), row.get(1));
    if wal_level != "logical" {
        return Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "logical decoding requires wal_level >= logical on the source node",
        )
        .detail(format!("Its wal_level is {wal_level}."))
        .hint("Set wal_level = logical on every worker and restart it."));
    }
    if free < 1 {
        return Err(PgError::new(
            SqlState::INSUFFICIENT_RESOURCES,
            "all replication slots of the source node are in use",
        )
        .hint("Free one or increase max_replication_slots."));
    }
    Ok(())
}

const RESUME_ATTEMPTS: usize = 100;
const RESUME_PAUSE: Duration = Duration::from_millis(50);
