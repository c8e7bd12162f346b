//! `run_command_on_workers` and its relatives: one text on many servers or shards, as the client's own role, outside of its
//! transaction. What fails on one is told in its row, and runs on the others.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::{Value, json};

use crate::backend::Row;
use crate::catalog::quote::{literal, qualified, shard_schema};
use crate::error::{PgError, Result, SqlState};
use crate::executor::{Answered, Transaction};
use crate::shard_map::{Node, NodeId, ShardGroupId, ShardMap, Table, TableOid};
use crate::sql::lexer::{fold, lex};

/// What is to be run, and how.
pub struct Command {
    pub text: String,
    /// On several servers at once.
    pub is_parallel: bool,
    /// A warning tells of each server that cannot be reached.
    pub warns: bool,
}

/// `SELECT * FROM run_command_on_workers(...)`.
pub async fn on_workers(txn: &mut Transaction, command: &Command) -> Result<Value> {
    let map = txn.map();
    let nodes: Vec<_> = map.active_workers().collect();
    let work = nodes.iter().map(|node| (node.id, vec![command.text.clone()])).collect();
    let row = |(node, (success, result)): (&&Node, (bool, String))| json!({ "nodename": node.host, "nodeport": node.port, "success": success, "result": result });
    Ok(nodes.iter().zip(run(txn, work, command).await?).map(row).collect())
}

/// `SELECT * FROM run_command_on_all_nodes(...)`, or with `only_there` on the coordinator.
pub async fn on_all_nodes(txn: &mut Transaction, command: &Command, only_there: bool) -> Result<Value> {
    let map = txn.map();
    if let Some(table) = names_distributed_table(&command.text, &map) {
        return Err(PgError::unsupported(format!(
            "the command names distributed table \"{table}\", whose rows are on workers"
        ))
        .hint("Run it as a statement of its own, or on the shards by run_command_on_shards()."));
    }
    let workers = map.active_workers().map(|node| node.id).filter(|_| !only_there);
    let nodes: Vec<NodeId> = std::iter::once(NodeId::COORDINATOR).chain(workers).collect();
    let known = txn.query(NodeId::COORDINATOR, "SELECT tenantry.coordinator_number()").await?;
    let coordinator: i64 = known.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).unwrap_or_default();
    let work = nodes.iter().map(|node| (*node, vec![command.text.clone()])).collect();
    let row = |(node, (success, result)): (&NodeId, (bool, String))| {
        let id = if node.is_coordinator() { coordinator } else { node.0.into() };
        json!({ "nodeid": id, "success": success, "result": result })
    };
    Ok(nodes.iter().zip(run(txn, work, command).await?).map(row).collect())
}

/// `SELECT * FROM run_command_on_shards(...)` and `run_command_on_placements(...)`: `%s` in the command is the shard's name. A shard
/// has one placement; a reference table's has one on each worker, of which only the second function uses all.
pub async fn on_shards(
    txn: &mut Transaction,
    table: TableOid,
    command: &Command,
    all_placements: bool,
) -> Result<Value> {
    let map = txn.map();
    let table = managed(&map, table)?;
    let mut placements = placements(&map, table);
    if table.is_reference() && !all_placements {
        placements.truncate(1);
    }
    let texts = formatted(txn, &command.text, placements.iter().map(|p| vec![p.name.clone()]).collect()).await?;
    let answers = run_each(txn, nodes_of(&placements), texts, command).await?;
    let row = |(placement, (success, result)): (&Placement, (bool, String))| {
        let node = map.node(placement.node);
        json!({
            "nodename": node.map(|n| &n.host), "nodeport": node.map(|n| n.port),
            "shardid": placement.shard, "success": success, "result": result,
        })
    };
    Ok(placements.iter().zip(answers).map(row).collect())
}

/// `SELECT * FROM run_command_on_colocated_placements(...)`: the first `%s` is the first table's shard, the second the other's.
pub async fn on_colocated(txn: &mut Transaction, tables: [TableOid; 2], command: &Command) -> Result<Value> {
    let map = txn.map();
    let [first, second] = [managed(&map, tables[0])?, managed(&map, tables[1])?];
    if first.colocation != second.colocation {
        let message = format!("tables {} and {} are not co-located", first.name, second.name);
        return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, message));
    }
    let [ones, others] = [placements(&map, first), placements(&map, second)];
    let names = ones.iter().zip(&others).map(|(one, other)| vec![one.name.clone(), other.name.clone()]).collect();
    let texts = formatted(txn, &command.text, names).await?;
    let answers = run_each(txn, nodes_of(&ones), texts, command).await?;
    let row = |((one, other), (success, result)): ((&Placement, &Placement), (bool, String))| {
        let node = map.node(one.node);
        json!({
            "nodename": node.map(|n| &n.host), "nodeport": node.map(|n| n.port),
            "shardid1": one.shard, "shardid2": other.shard, "success": success, "result": result,
        })
    };
    Ok(ones.iter().zip(&others).zip(answers).map(row).collect())
}

/// `SELECT * FROM master_run_on_worker(...)`: a command for each of these workers.
///
/// Errors: 22023 for lists of different lengths. A server that is no worker is told in its row.
pub async fn on_named(
    txn: &mut Transaction,
    names: Vec<String>,
    ports: Vec<i32>,
    commands: Vec<String>,
    is_parallel: bool,
) -> Result<Value> {
    if names.len() != ports.len() || names.len() != commands.len() {
        let message = "expected same number of node name, port, and query string";
        return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, message)
            .hint("Use run_command_on_workers() for one command on all workers."));
    }
    let map = txn.map();
    let find = |(name, port): (&String, &i32)| {
        map.active_workers().find(|node| node.host == *name && i32::from(node.port) == *port).map(|node| node.id)
    };
    let found: Vec<Option<NodeId>> = names.iter().zip(&ports).map(find).collect();
    let (nodes, texts) = found.iter().zip(commands).filter_map(|(node, text)| Some(((*node)?, text))).unzip();
    let mut answers =
        run_each(txn, nodes, texts, &Command { text: String::new(), is_parallel, warns: false }).await?.into_iter();
    let row = |((node, name), port): ((&Option<NodeId>, &String), &i32)| {
        let missing = || (false, format!("ERROR:  there is no active worker {name}:{port}"));
        let (success, result) = node.and_then(|_| answers.next()).unwrap_or_else(missing);
        json!({ "node_name": name, "node_port": port, "success": success, "result": result })
    };
    Ok(found.iter().zip(&names).zip(&ports).map(row).collect())
}

/// On the coordinator it would be found empty.
fn names_distributed_table(text: &str, map: &ShardMap) -> Option<String> {
    let tokens = lex(text, true).ok()?;
    let names = tokens.iter().filter(|token| token.is_identifier()).map(|token| fold(text, token).into_owned());
    names.into_iter().find(|name| map.tables().any(|table| !table.is_reference() && table.name == *name))
}

/// One table's part of one shard group, or a copy of a reference table.
struct Placement {
    shard: u64,
    node: NodeId,
    /// Qualified and quoted.
    name: String,
}

fn managed(map: &ShardMap, oid: TableOid) -> Result<&Table> {
    let known = map.table_by_oid(oid).map(AsRef::as_ref);
    known.ok_or_else(|| PgError::new(SqlState::INVALID_TABLE_DEFINITION, "the table is not distributed"))
}

fn placements(map: &ShardMap, table: &Table) -> Vec<Placement> {
    let name = |group: Option<ShardGroupId>| match group {
        Some(group) => qualified(&shard_schema(&table.schema, group), &table.name),
        None => qualified(&table.schema, &table.name),
    };
    if table.is_reference() {
        let shard = table.shards.first().map_or(0, |shard| shard.0);
        return map.active_workers().map(|node| Placement { shard, node: node.id, name: name(None) }).collect();
    }
    let groups = map.colocation(table.colocation).map(|c| c.shard_groups.as_slice()).unwrap_or_default();
    let placement = |(shard, group): (&crate::shard_map::ShardId, &crate::shard_map::ShardGroup)| Placement {
        shard: shard.0,
        node: group.node,
        name: name(Some(group.id)),
    };
    table.shards.iter().zip(groups).map(placement).collect()
}

/// The command for each, names in the places that Postgres's `format()` gives them.
async fn formatted(txn: &mut Transaction, command: &str, names: Vec<Vec<String>>) -> Result<Vec<String>> {
    let arguments = |names: &Vec<String>| names.iter().map(|name| format!(", {}", literal(name))).collect::<String>();
    let each: Vec<_> =
        names.iter().map(|names| format!("(pg_catalog.format({}{}))", literal(command), arguments(names))).collect();
    if each.is_empty() {
        return Ok(Vec::new());
    }
    let rows = txn.query(NodeId::COORDINATOR, &format!("VALUES {}", each.join(", "))).await?;
    Ok(rows.into_iter().map(|row| row.into_iter().next().flatten().unwrap_or_default()).collect())
}

fn nodes_of(placements: &[Placement]) -> Vec<NodeId> {
    placements.iter().map(|placement| placement.node).collect()
}

/// A text for each of these nodes; answers in their order.
async fn run_each(
    txn: &mut Transaction,
    nodes: Vec<NodeId>,
    texts: Vec<String>,
    command: &Command,
) -> Result<Vec<(bool, String)>> {
    let mut work: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
    for (node, text) in nodes.iter().zip(texts) {
        work.entry(*node).or_default().push(text);
    }
    let mut answers = run(txn, work.clone().into_iter().collect(), command).await?.into_iter();
    let mut by_node: HashMap<NodeId, VecDeque<_>> =
        work.iter().map(|(node, texts)| (*node, answers.by_ref().take(texts.len()).collect())).collect();
    Ok(nodes.iter().filter_map(|node| by_node.get_mut(node)?.pop_front()).collect())
}

/// Whether each command succeeded, and its only value, its tag or its error.
async fn run(
    txn: &mut Transaction,
    work: Vec<(NodeId, Vec<String>)>,
    command: &Command,
) -> Result<Vec<(bool, String)>> {
    let answers = txn.run_apart(&work, !command.is_parallel).await?;
    let mut told = Vec::new();
    for answers in answers {
        let is_away = |answer: &Result<Answered>| matches!(answer, Err(e) if e.code() == SqlState::CONNECTION_FAILURE);
        if let Some(Err(error)) = answers.iter().find(|answer| command.warns && is_away(answer)) {
            txn.warning(PgError::new(SqlState::WARNING, error.message().to_owned()));
        }
        told.extend(answers.into_iter().map(|answer| match answer.and_then(only_value) {
            Ok(value) => (true, value),
            Err(error) => (false, format!("ERROR:  {}", error.message())),
        }));
    }
    Ok(told)
}

/// Errors: 21000 for more rows or columns than one.
fn only_value(Answered { rows, tag }: Answered) -> Result<String> {
    let too_many =
        |what: &str| PgError::new(SqlState::CARDINALITY_VIOLATION, format!("expected a single {what} in query result"));
    match rows.as_slice() {
        [] if tag == "SELECT 0" => Ok(String::new()),
        [] => Ok(tag),
        [row] => one_column(row).ok_or_else(|| too_many("column")),
        _ => Err(too_many("row")),
    }
}

fn one_column(row: &Row) -> Option<String> {
    match row.as_slice() {
        [value] => Some(value.clone().unwrap_or_default()),
        _ => None,
    }
}
