//! `tenantry_explain_move`: what a move would mean and what stands in its way, without moving anything.

use std::time::Duration;

use serde_json::{Value, json};

use super::room::Room;
use super::session::Session;
use super::{MoveRequest, MoverEnvironment, TransferMode, address_of, check, group_of, schemas, session, snapshot};
use crate::catalog::pg_error;
use crate::catalog::quote::shard_schema;
use crate::error::{PgError, Result, SqlState};
use crate::operations::disk::megabytes;
use crate::shard_map::{NodeId, ShardId, ShardMap};

/// One line of the answer.
struct Aspect {
    name: &'static str,
    value: String,
    /// The move cannot be done as it is.
    is_obstacle: bool,
    hint: Option<String>,
}

/// Rows (aspect, value, stands_in_the_way, hint).
///
/// Errors: 42704 for an unknown shard, 42P01 for a local table, 08006 when a node cannot be reached.
pub async fn tenantry_explain_move(environment: &MoverEnvironment, arguments: &Value) -> Result<Value> {
    let map = environment.catalog.refresh().await?;
    let request = request(environment, &map, arguments).await?;
    let mut aspects = vec![told(
        "move",
        format!(
            "shard group {} from {} to {}",
            request.group,
            address_of(&map, request.source),
            address_of(&map, request.target)
        ),
    )];
    let colocation = match check(&map, request) {
        Ok((colocation, false)) => colocation,
        Ok((_, true)) => {
            aspects.push(obstacle("placement", "the shard group is on that node already", None));
            return Ok(rows(aspects));
        }
        Err(error) => {
            aspects.push(refusal("placement", &error));
            return Ok(rows(aspects));
        }
    };
    let source = session::connect(environment, request.source).await?;
    let target = session::connect(environment, request.target).await?;
    let catalog = session::connect(environment, NodeId::COORDINATOR).await?;
    let shard_schemas: Vec<String> =
        schemas(&map, colocation).iter().map(|schema| shard_schema(schema, request.group)).collect();

    let (bytes, of_indexes) = tables(&source, &shard_schemas, &mut aspects).await?;
    load(&catalog, request, &mut aspects).await?;
    transactions(&source, &shard_schemas, &mut aspects).await?;
    estimates(&catalog, bytes, &mut aspects).await?;
    if let Err(error) = snapshot::check_source(&source).await {
        aspects.push(refusal("source", &error));
    }
    let senders = "SELECT current_setting('max_wal_senders')::bigint - (SELECT count(*) FROM pg_stat_replication)";
    let senders: i64 = source.query_one(senders, &[]).await.map_err(pg_error)?.get(0);
    if senders < 1 {
        aspects.push(obstacle(
            "source",
            "all of its wal senders are in use",
            Some("Increase max_wal_senders, or end a replication.".to_owned()),
        ));
    }
    let taken = "SELECT string_agg(nspname, ', ') FROM pg_namespace WHERE nspname = ANY ($1)";
    if let Some(there) = target.query_one(taken, &[&shard_schemas]).await.map_err(pg_error)?.get::<_, Option<String>>(0)
    {
        aspects.push(obstacle(
            "target",
            &format!("it has schema {there} already"),
            Some("Drop what is left over there: CALL citus_cleanup_orphaned_resources().".to_owned()),
        ));
    }
    let size = "SELECT pg_size_pretty(pg_database_size(current_database()))";
    let size: String = target.query_one(size, &[]).await.map_err(pg_error)?.get(0);
    let has = format!("its database has {size}");
    aspects.push(match Room::on(&target, bytes + of_indexes).await {
        Some(room) if room.is_enough() => told("target", format!("{has}, and its disk {} free", megabytes(room.free))),
        Some(room) => obstacle(
            "target",
            &format!("its disk has {} free, {} are needed", megabytes(room.free), megabytes(room.needed)),
            Some("Make room there, or choose another node.".to_owned()),
        ),
        None => {
            let hint = Some("The server does not tell how much of its disk is free.".to_owned());
            Aspect { hint, ..told("target", has) }
        }
    });
    let running = format!(
        "SELECT moveid, shard_group_id, phase, CASE WHEN is_rehearsal THEN 'rehearsal' ELSE 'move' END, {IS_WHOLE}
         FROM tenantry.shard_move WHERE colocationid = $1 AND state NOT IN ('done', 'failed', 'undoable')"
    );
    for row in catalog.query(&running, &[&(colocation.0 as i32)]).await.map_err(pg_error)? {
        let (id, group, phase): (i64, i64, String) = (row.get(0), row.get(1), row.get(2));
        let (what, is_whole): (&str, bool) = (row.get(3), row.get(4));
        let value = format!("{what} {id} of shard group {group} is under way ({phase})");
        let is_obstacle = group == request.group.0 as i64;
        let hint = match is_obstacle || !is_whole {
            true => "The move would wait for its end.".to_owned(),
            false => "Up to moves.at_once shards of one colocation group move at the same time.".to_owned(),
        };
        aspects.push(Aspect { is_obstacle, hint: Some(hint), ..told("other moves", value) });
    }
    let undoable = "SELECT EXISTS (SELECT FROM tenantry.shard_move WHERE shard_group_id = $1 AND state = 'undoable')";
    if catalog.query_one(undoable, &[&(request.group.0 as i64)]).await.map_err(pg_error)?.get(0) {
        aspects.push(told(
            "undo",
            "the last move of the shard group can still be undone, and this one ends that".to_owned(),
        ));
    }
    Ok(rows(aspects))
}

/// What the arguments name: `shard_id`, or `table_name` and `tenant_id`; and `node_id`. The source is where it is.
pub(super) async fn request(environment: &MoverEnvironment, map: &ShardMap, arguments: &Value) -> Result<MoveRequest> {
    let number = |name: &str| arguments.get(name).and_then(Value::as_i64);
    let null = |name: &str| PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, format!("{name} cannot be NULL"));
    let shard = if arguments.get("table_name").is_some() {
        let table = number("table_name").ok_or_else(|| null("table_name"))? as u32;
        let tenant = match arguments.get("tenant_id") {
            Some(Value::String(text)) => text.clone(),
            Some(value) if !value.is_null() => value.to_string(),
            _ => return Err(null("tenant_id")),
        };
        let catalog = environment.catalog.client(NodeId::COORDINATOR).await?;
        let sql = "SELECT tenantry.shard_id_of_text($1::oid::regclass, $2)";
        let row = catalog.query_one(sql, &[&table, &tenant]).await.map_err(pg_error)?;
        row.get::<_, Option<i64>>(0).unwrap_or_default()
    } else {
        number("shard_id").ok_or_else(|| null("shard_id"))?
    };
    let target = NodeId(u32::try_from(number("node_id").ok_or_else(|| null("node_id"))?).unwrap_or(u32::MAX));
    let (colocation, group) = group_of(map, ShardId(shard as u64), "move")?;
    let source = map.colocation(colocation).and_then(|c| c.group(group)).map(|g| g.node);
    let source = source.ok_or_else(|| {
        PgError::new(SqlState::UNDEFINED_OBJECT, format!("could not find a placement of shard {shard}"))
    })?;
    Ok(MoveRequest { group, source, target, mode: TransferMode::Online })
}

/// Rows and bytes; tables that cannot be moved, or cost more. Answers the bytes that are copied, and those of indexes.
async fn tables(source: &Session, shard_schemas: &[String], aspects: &mut Vec<Aspect>) -> Result<(i64, i64)> {
    let sql =
        "SELECT format('%I.%I', n.nspname, c.relname), c.relname::text, c.reltuples::float8, pg_table_size(c.oid),
            pg_indexes_size(c.oid), c.relpersistence = 'u',
            c.relreplident = 'f' OR EXISTS (
                SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ANY ($1) AND c.relkind = 'r' ORDER BY c.oid";
    let (mut count, mut rows, mut is_exact) = (0, 0.0, true);
    let (mut bytes, mut of_indexes) = (0i64, 0i64);
    let mut notes = Vec::new();
    for row in source.query(sql, &[&shard_schemas]).await.map_err(pg_error)? {
        let (name, bare): (String, String) = (row.get(0), row.get(1));
        let estimate: f64 = row.get(2);
        rows += if estimate < 0.0 {
            // Never analysed.
            let counted =
                source.query_one(&format!("SELECT count(*) FROM ONLY {name}"), &[]).await.map_err(pg_error)?;
            counted.get::<_, i64>(0) as f64
        } else {
            is_exact = false;
            estimate
        };
        count += 1;
        bytes += row.get::<_, i64>(3);
        of_indexes += row.get::<_, i64>(4);
        if row.get(5) {
            notes.push(obstacle(
                "unlogged table",
                &format!("\"{bare}\": its changes are not replicated"),
                Some(format!("Run ALTER TABLE {bare} SET LOGGED first.")),
            ));
        } else if !row.get::<_, bool>(6) {
            notes.push(Aspect {
                hint: Some("A primary key makes UPDATE and DELETE cheaper while the move runs.".to_owned()),
                ..told("no replica identity", format!("\"{bare}\": its whole rows are logged for the move"))
            });
        }
    }
    aspects.push(told("tables", count.to_string()));
    aspects.push(told("rows", format!("{}{rows:.0}", if is_exact { "" } else { "about " })));
    aspects.push(told("bytes", format!("{bytes}, and {of_indexes} of indexes, which are built anew")));
    aspects.append(&mut notes);
    Ok((bytes, of_indexes))
}

/// What clients do there, as the proxies have seen it.
async fn load(catalog: &Session, request: MoveRequest, aspects: &mut Vec<Aspect>) -> Result<()> {
    let sql = "SELECT sum(statements_per_second)::float8,
            sum(statements_per_second * (1 - (read_count_in_this_period + read_count_in_last_period)::float8
                / nullif(query_count_in_this_period + query_count_in_last_period, 0)))::float8
        FROM tenantry.tenantry_loads WHERE tenant IS NULL AND shard_group_id = $1";
    let row = catalog.query_one(sql, &[&(request.group.0 as i64)]).await.map_err(pg_error)?;
    let seen = row.get::<_, Option<f64>>(0).zip(row.get::<_, Option<f64>>(1));
    aspects.push(match seen {
        Some((all, writes)) => told("statements", format!("{all:.1} a second, {writes:.1} of them write")),
        None => told("statements", "none seen in the last minutes".to_owned()),
    });
    Ok(())
}

/// Transactions that the move would wait for: those that write, when it begins; those that use the tables, at the cutover.
async fn transactions(source: &Session, schemas: &[String], aspects: &mut Vec<Aspect>) -> Result<()> {
    let sql = "SELECT pid::text, extract(epoch FROM clock_timestamp() - xact_start)::float8, state, application_name,
            EXISTS (SELECT FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE l.pid = a.pid AND n.nspname = ANY ($1)), backend_xid IS NOT NULL
        FROM pg_stat_activity a
        WHERE xact_start IS NOT NULL AND backend_type = 'client backend' AND pid <> pg_backend_pid()
        UNION ALL
        SELECT 'prepared ' || gid, extract(epoch FROM clock_timestamp() - prepared)::float8, 'prepared', '', true, true
        FROM pg_prepared_xacts WHERE database = current_database()
        ORDER BY 2 DESC";
    let rows = source.query(sql, &[&schemas]).await.map_err(pg_error)?;
    let Some(longest) = rows.first() else {
        aspects.push(told("longest transaction", "none is open on the source".to_owned()));
        return Ok(());
    };
    let seconds: f64 = longest.get(1);
    let (pid, state): (String, Option<String>) = (longest.get(0), longest.get(2));
    let uses = |at: usize| rows.iter().filter(|row| row.get::<_, bool>(at)).count();
    let value = format!(
        "open for {seconds:.1} s (process {pid}, {}); of {} open ones {} have written and {} use the shard's tables",
        state.unwrap_or_default(),
        rows.len(),
        uses(5),
        uses(4)
    );
    let hint = (seconds >= LONG_TRANSACTION.as_secs_f64()).then(|| {
        "A move begins when those that have written have ended, and is cut over between those that use the tables: \
         see pg_stat_activity on the source."
            .to_owned()
    });
    aspects.push(Aspect { hint, ..told("longest transaction", value) });
    Ok(())
}

/// From what earlier moves of this kind took: a table that is distributed, a tenant taken out, pieces and undone moves are held otherwise,
/// and a move that keeps writes waiting holds them for all of its time.
async fn estimates(catalog: &Session, bytes: i64, aspects: &mut Vec<Aspect>) -> Result<()> {
    let sql = format!(
        "SELECT count(*), avg(hold_microseconds)::float8, max(hold_microseconds)::float8,
            (sum(bytes_total) / nullif(sum(extract(epoch FROM finished_at - started_at)), 0))::float8
        FROM (SELECT * FROM tenantry.shard_move
              WHERE state = 'done' AND hold_microseconds IS NOT NULL AND NOT blocks_writes AND {IS_WHOLE} ORDER BY moveid DESC LIMIT 20) m"
    );
    let row = catalog.query_one(&sql, &[]).await.map_err(pg_error)?;
    let moves: i64 = row.get(0);
    let (average, longest): (Option<f64>, Option<f64>) = (row.get(1), row.get(2));
    let rate: Option<f64> = row.get::<_, Option<f64>>(3).filter(|rate| *rate > 0.0);
    let rehearse = || Some("SELECT * FROM tenantry_rehearse_move(...) measures it.".to_owned());
    match (average, longest) {
        (Some(average), Some(longest)) => aspects.push(told(
            "expected hold",
            format!("{:.1} ms, at most {:.1} ms: as in the last {moves} moves", average / 1000.0, longest / 1000.0),
        )),
        _ => aspects
            .push(Aspect { hint: rehearse(), ..told("expected hold", "not known: there was no move yet".to_owned()) }),
    }
    aspects.push(match rate {
        Some(rate) => told(
            "expected time",
            format!(
                "{:.1} s, with everything, at {rate:.0} bytes a second as in the last {moves} moves",
                bytes as f64 / rate
            ),
        ),
        None => Aspect { hint: rehearse(), ..told("expected time", "not known: there was no move yet".to_owned()) },
    });
    Ok(())
}

fn rows(aspects: Vec<Aspect>) -> Value {
    let row = |aspect: Aspect| {
        json!({
            "aspect": aspect.name,
            "value": aspect.value,
            "stands_in_the_way": aspect.is_obstacle,
            "hint": aspect.hint,
        })
    };
    Value::Array(aspects.into_iter().map(row).collect())
}

fn told(name: &'static str, value: String) -> Aspect {
    Aspect { name, value, is_obstacle: false, hint: None }
}

fn obstacle(name: &'static str, value: &str, hint: Option<String>) -> Aspect {
    Aspect { name, value: value.to_owned(), is_obstacle: true, hint }
}

fn refusal(name: &'static str, error: &PgError) -> Aspect {
    obstacle(name, error.message(), error.hint_text().map(str::to_owned))
}

/// A shard group goes to another node as it is.
const IS_WHOLE: &str = "coalesce(tenant, relation_name) IS NULL AND cardinality(piece_groups) = 0 AND join_rest IS NULL
    AND back_of IS NULL AND relations IS NULL";
/// One that is open for longer is worth a word.
const LONG_TRANSACTION: Duration = Duration::from_secs(5);
