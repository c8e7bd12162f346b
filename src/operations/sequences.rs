//! Serial and identity columns of shards: their servers are lent values of the coordinator's sequence, in blocks.
//!
//! ```text
//!   coordinator: nextval('orders_id_seq') x 256 ──lend──> worker: tenantry.lent_<oid>_0 .. _7   the blocks' first values
//!                                                                 tenantry.next_value_<oid>()   DEFAULT of the shards
//! ```
//!
//! Blocks belong to a server, not to a shard: one that has moved draws from those of its new server, and nothing has to
//! move with it. What only distribution columns draw is drawn on the coordinator, whole: of that nothing is lent unless a shard asks.
//! How a draw is safe against everything that goes on meanwhile is told in `next_value.sql`.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, GenericClient, Row};

use super::table_definition::{Sequence, TableDefinition};
use crate::catalog::quote::literal;
use crate::catalog::{Address, Catalog, checkout, connect, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::executor::Transaction;
use crate::planner::Sequences;
use crate::shard_map::NodeId;

/// Makes sure that every worker can draw from the sequences of these tables, which are distributed by `column`, before they have
/// shards. What workers had been lent of them is not used any more.
///
/// The first values are drawn in the client's transaction: nobody else may see the sequence yet.
pub async fn prepare(
    txn: &mut Transaction,
    definitions: impl Iterator<Item = &TableDefinition>,
    column: &str,
) -> Result<()> {
    let sequences = sequences_of(definitions, column);
    if sequences.is_empty() {
        return Ok(());
    }
    txn.keep_nodes().await?;
    txn.query(NodeId::COORDINATOR, &lock()).await?;
    let map = txn.map();
    for worker in map.active_workers() {
        let address = Address { host: worker.host.clone(), port: worker.port };
        let mut client = connect(txn.executor.catalog.settings(), &address).await?;
        for drawn in &sequences {
            prepare_worker(txn, &mut client, drawn).await?;
        }
    }
    Ok(())
}

/// On the coordinator, to the end of the transaction. What is lent is committed at once, and that a table draws from it only
/// later: who forgets what nobody draws from waits for those in between. Everybody may take it, as owners of tables must.
fn lock() -> String {
    format!("SELECT pg_catalog.pg_advisory_xact_lock({LOCK}, 0)")
}

/// What tables draw from.
struct Drawn {
    sequence: Sequence,
    /// By columns other than those that tables are distributed by.
    by_shards: bool,
}

impl Drawn {
    /// How many blocks workers are lent beyond the one that they draw from, before they ask.
    fn ahead(&self) -> i64 {
        if self.by_shards { 1 } else { NOT_EVEN_ONE }
    }
}

/// Each once.
fn sequences_of<'a>(definitions: impl Iterator<Item = &'a TableDefinition>, column: &str) -> Vec<Drawn> {
    let mut sequences: BTreeMap<u32, Drawn> = BTreeMap::new();
    for drawing in definitions.flat_map(|definition| &definition.columns) {
        if let Some(sequence) = &drawing.sequence {
            let new = || Drawn { sequence: sequence.clone(), by_shards: false };
            sequences.entry(sequence.oid).or_insert_with(new).by_shards |= drawing.name != column;
        }
    }
    sequences.into_values().collect()
}

async fn prepare_worker(txn: &mut Transaction, worker: &mut Client, drawn: &Drawn) -> Result<()> {
    let Drawn { sequence, by_shards } = drawn;
    let mut firsts = Vec::new();
    let attempts = if *by_shards { ATTEMPTS_MAX } else { 0 };
    for _ in 0..attempts {
        let rows = txn.query(NodeId::COORDINATOR, &draws(sequence.oid, BLOCK)).await?;
        let values: Vec<i64> = rows.iter().filter_map(|row| row.first()?.as_ref()?.parse().ok()).collect();
        firsts = whole_blocks(&values, sequence.step);
        if !firsts.is_empty() {
            break;
        }
    }
    let loan = begin(worker, sequence.oid, Some(&sequence.name)).await?;
    loan.execute("SELECT tenantry.discard_lent($1)", &[&sequence.oid]).await.map_err(pg_error)?;
    let state = State::read(&loan, sequence.oid).await?;
    loan.batch_execute(&state.fill(sequence, &firsts)).await.map_err(pg_error)?;
    loan.commit().await.map_err(pg_error)
}

/// Lends a worker more values, if it is as short of them as it was when it asked. `ahead`: how many blocks it should have
/// beyond the one that it draws from; what has been lent before counts.
///
/// A client can ask by a message of its own: for what no shard draws from, nothing is lent.
/// Errors: those of the coordinator and the worker, when one of them cannot be reached for example.
pub async fn lend(catalog: &Catalog, node: NodeId, oid: u32, ahead: i64) -> Result<()> {
    let coordinator = checkout(catalog.pool()).await?;
    let mut worker = catalog.client(node).await?;
    // Before the transaction that distributes a table commits, the worker alone knows that shards draw.
    let is_there = format!("SELECT to_regclass('tenantry.lent_{oid}_counter') IS NOT NULL");
    let is_there: bool = worker.query_one(&is_there, &[]).await.map_err(pg_error)?.try_get(0).map_err(pg_error)?;
    if !is_there && !drawn(&**coordinator).await?.iter().any(|drawn| drawn.sequence.oid == oid) {
        return Err(PgError::new(SqlState::UNDEFINED_OBJECT, format!("no shard draws from sequence {oid}")));
    }
    lend_to(&**coordinator, &mut worker, oid, ahead).await
}

/// What distributed tables draw from.
async fn drawn(coordinator: &impl GenericClient) -> Result<Vec<Drawn>> {
    let sql = "SELECT q.seqrelid, c.relname::text, q.seqincrement, bool_or(d.attnum <> t.partkey) \
               FROM tenantry.distributed_table t CROSS JOIN LATERAL tenantry.drawn_sequences(t.logicalrelid) d \
               JOIN pg_class c ON c.oid = d.sequence JOIN pg_sequence q ON q.seqrelid = c.oid \
               WHERE t.partmethod = 'h' GROUP BY q.seqrelid, c.relname, q.seqincrement ORDER BY q.seqrelid";
    let rows = coordinator.query(sql, &[]).await.map_err(pg_error)?;
    let read = |row: &Row| {
        let sequence = Sequence { oid: row.try_get(0)?, name: row.try_get(1)?, step: row.try_get(2)? };
        Ok(Drawn { sequence, by_shards: row.try_get(3)? })
    };
    rows.iter().map(|row| read(row).map_err(pg_error)).collect()
}

/// Sequences were set anew: what workers have been lent of them is not used any more. Workers are asked only where one of
/// them is lent.
pub async fn discard(catalog: &Catalog, which: &Sequences) -> Result<()> {
    let coordinator = checkout(catalog.pool()).await?;
    let mut lent = drawn(&**coordinator).await?;
    lent.retain(|drawn| match which {
        Sequences::Named(names) => names.contains(&drawn.sequence.name),
        Sequences::Any => true,
    });
    if lent.is_empty() {
        return Ok(());
    }
    for node in catalog.map().active_workers() {
        let mut worker = catalog.client(node.id).await?;
        for Drawn { sequence: Sequence { oid, .. }, .. } in &lent {
            let loan = begin(&mut worker, *oid, None).await?;
            if State::read(&loan, *oid).await?.is_there {
                loan.execute("SELECT tenantry.discard_lent($1)", &[oid]).await.map_err(pg_error)?;
            }
            loan.commit().await.map_err(pg_error)?;
        }
    }
    Ok(())
}

/// Of the sequences that tables drew from before they were dropped, those that no distributed table draws from any more are
/// forgotten on the workers, in the client's transaction. One whose snapshot may be older than the lock leaves them to
/// `forget_unused`.
pub async fn forget(txn: &mut Transaction, oids: &BTreeSet<u32>) -> Result<()> {
    if oids.is_empty() {
        return Ok(());
    }
    txn.query(NodeId::COORDINATOR, &lock()).await?;
    let list: Vec<_> = oids.iter().map(u32::to_string).collect();
    let sql = format!(
        "SELECT o FROM pg_catalog.unnest('{{{}}}'::pg_catalog.oid[]) o WHERE NOT EXISTS (SELECT FROM \
         tenantry.distributed_table t, tenantry.drawn_sequences(t.logicalrelid) d WHERE t.partmethod = 'h' AND d.sequence = o) \
         AND pg_catalog.current_setting('transaction_isolation') = 'read committed'",
        list.join(",")
    );
    let rows = txn.query(NodeId::COORDINATOR, &sql).await?;
    // A worker that was lent nothing since it became one has not the function.
    let forget = |oid: &str| {
        format!(
            "DO $tenantry$ BEGIN IF pg_catalog.to_regprocedure('tenantry.forget_lending(oid)') IS NOT NULL THEN \
             PERFORM tenantry.forget_lending({oid}); END IF; END $tenantry$;\n"
        )
    };
    let text: String = rows.iter().filter_map(|row| row.first()?.as_deref()).map(forget).collect();
    if text.is_empty() {
        return Ok(());
    }
    let workers: Vec<NodeId> = txn.map().active_workers().map(|node| node.id).collect();
    txn.query_each(workers.into_iter().map(|node| (node, text.clone())).collect()).await
}

/// Has workers forget what they were lent of sequences that no distributed table draws from any more; answers how many there
/// were. What shards could still draw from stays.
pub async fn forget_unused(catalog: &Catalog) -> Result<usize> {
    let mut lent = Vec::new();
    for node in catalog.map().active_workers() {
        lent.push((node.id, lent_to(&**catalog.client(node.id).await?).await?));
    }
    let mut pooled = checkout(catalog.pool()).await?;
    let coordinator: &mut Client = &mut pooled;
    let is_unused = |drawn: &[Drawn], oid: &u32| drawn.iter().all(|other| other.sequence.oid != *oid);
    let drawn_now = drawn(coordinator).await?;
    lent.iter_mut().for_each(|(_, oids)| oids.retain(|oid| is_unused(&drawn_now, oid)));
    lent.retain(|(_, oids)| !oids.is_empty());
    if lent.is_empty() {
        return Ok(0);
    }
    let transaction = coordinator.transaction().await.map_err(pg_error)?;
    transaction.batch_execute(&lock()).await.map_err(pg_error)?;
    let sql = "SELECT EXISTS (SELECT FROM tenantry.shard_move WHERE relation IS NOT NULL AND state NOT IN ('done', 'failed'))";
    if transaction.query_one(sql, &[]).await.map_err(pg_error)?.try_get(0).map_err(pg_error)? {
        return Ok(0);
    }
    let drawn_now = drawn(&transaction).await?;
    let mut forgotten = 0;
    for (node, oids) in lent {
        let mut worker = catalog.client(node).await?;
        for oid in oids.into_iter().filter(|oid| is_unused(&drawn_now, oid)) {
            let loan = begin(&mut worker, oid, None).await?;
            // What an older Tenantry has lent, it may not have known how to forget.
            let forget = format!(
                "SELECT pg_catalog.pg_advisory_xact_lock({LOCK}, 0);\n{FUNCTIONS}\nSELECT tenantry.forget_lending({oid})"
            );
            loan.batch_execute(&forget).await.map_err(pg_error)?;
            forgotten += usize::from(!State::read(&loan, oid).await?.is_there);
            loan.commit().await.map_err(pg_error)?;
        }
    }
    Ok(forgotten)
}

/// Sequences that a worker has been lent values of.
async fn lent_to(worker: &impl GenericClient) -> Result<Vec<u32>> {
    let sql = "SELECT (regexp_match(relname, '^lent_([0-9]{1,10})_counter$'))[1]::oid FROM pg_class
               WHERE relnamespace = to_regnamespace('tenantry') AND relkind = 'S' AND relname ~ '^lent_[0-9]{1,10}_counter$'";
    let rows = worker.query(sql, &[]).await.map_err(pg_error)?;
    rows.iter().map(|row| row.try_get(0).map_err(pg_error)).collect()
}

/// Makes sure that a server can draw from all sequences that it may have to: it is about to become a worker.
pub async fn prepare_server(coordinator: &Client, server: &mut Client) -> Result<()> {
    for drawn in drawn(coordinator).await? {
        lend_to(coordinator, server, drawn.sequence.oid, drawn.ahead()).await?;
    }
    Ok(())
}

/// As `prepare`, for tables that are committed.
pub async fn prepare_committed(
    catalog: &Catalog,
    definitions: impl Iterator<Item = &TableDefinition>,
    column: &str,
) -> Result<()> {
    let map = catalog.map();
    let mut pooled = checkout(catalog.pool()).await?;
    let coordinator: &mut Client = &mut pooled;
    let coordinator = coordinator.transaction().await.map_err(pg_error)?;
    coordinator.batch_execute(&lock()).await.map_err(pg_error)?;
    for drawn in sequences_of(definitions, column) {
        for worker in map.active_workers() {
            lend_to(&coordinator, &mut *catalog.client(worker.id).await?, drawn.sequence.oid, drawn.ahead()).await?;
        }
    }
    coordinator.commit().await.map_err(pg_error)
}

async fn lend_to(coordinator: &impl GenericClient, worker: &mut Client, oid: u32, ahead: i64) -> Result<()> {
    let sql = "SELECT relname::text, seqincrement FROM pg_class JOIN pg_sequence ON seqrelid = oid WHERE oid = $1";
    let Some(row) = coordinator.query_opt(sql, &[&oid]).await.map_err(pg_error)? else {
        return Err(PgError::new(SqlState::UNDEFINED_TABLE, format!("sequence with OID {oid} does not exist")));
    };
    let sequence = Sequence { oid, name: row.try_get(0).map_err(pg_error)?, step: row.try_get(1).map_err(pg_error)? };
    let loan = begin(worker, oid, None).await?;
    let mut state = State::read(&loan, oid).await?;
    if !state.is_there || !state.has_function {
        loan.batch_execute(&make(&sequence.name, oid)).await.map_err(pg_error)?;
    }
    if state.is_there && (state.is_outrun() || state.step != sequence.step) {
        loan.execute("SELECT tenantry.discard_lent($1)", &[&oid]).await.map_err(pg_error)?;
        state = State::read(&loan, oid).await?;
    }
    let mut wanted = state.blocks_short(ahead);
    let mut firsts = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        if wanted <= 0 {
            break;
        }
        match coordinator.query(&draws(oid, BLOCK * wanted), &[]).await.map_err(pg_error) {
            Ok(rows) => {
                let values: Vec<i64> =
                    rows.iter().map(|row| row.try_get(0).map_err(pg_error)).collect::<Result<_>>()?;
                let runs = whole_blocks(&values, sequence.step);
                wanted -= runs.len() as i64;
                firsts.extend(runs);
            }
            // The draw that gets there says so.
            Err(error) if error.code() == SqlState::SEQUENCE_GENERATOR_LIMIT_EXCEEDED && wanted > 1 => wanted = 1,
            Err(error) if error.code() == SqlState::SEQUENCE_GENERATOR_LIMIT_EXCEEDED => {
                firsts.push(NO_MORE);
                wanted = 0;
            }
            Err(error) => return Err(error),
        }
    }
    loan.batch_execute(&state.fill(&sequence, &firsts)).await.map_err(pg_error)?;
    loan.commit().await.map_err(pg_error)
}

/// A transaction on the worker in which nobody else lends or takes back values of the sequence. With a name it makes
/// sure that there is something to lend into.
async fn begin<'c>(worker: &'c mut Client, oid: u32, make_as: Option<&str>) -> Result<tokio_postgres::Transaction<'c>> {
    let loan = worker.transaction().await.map_err(pg_error)?;
    let lock = format!(
        "SET LOCAL synchronous_commit TO on; SET LOCAL client_min_messages TO warning; \
         SELECT pg_catalog.pg_advisory_xact_lock({LOCK}, {})",
        oid.cast_signed()
    );
    loan.batch_execute(&lock).await.map_err(pg_error)?;
    if let Some(name) = make_as {
        loan.batch_execute(&make(name, oid)).await.map_err(pg_error)?;
    }
    Ok(loan)
}

/// One at a time: two that replace the same function would be in each other's way.
fn make(name: &str, oid: u32) -> String {
    format!(
        "SELECT pg_catalog.pg_advisory_xact_lock({LOCK}, 0);\n{FUNCTIONS}\nSELECT tenantry.prepare_lending({oid}, {});",
        literal(name)
    )
}

fn draws(oid: u32, count: i64) -> String {
    format!(
        "SELECT pg_catalog.nextval({oid}::pg_catalog.oid::pg_catalog.regclass) FROM pg_catalog.generate_series(1, {count})"
    )
}

/// The first values of as many blocks as `values` has whole: the application draws too, and what it takes in between is
/// not ours.
fn whole_blocks(values: &[i64], step: i64) -> Vec<i64> {
    let mut firsts = Vec::new();
    let mut rest = values;
    while let Some(first) = rest.first() {
        let follows =
            |(place, value): (i64, &i64)| Some(*value) == place.checked_mul(step).and_then(|d| first.checked_add(d));
        let run = (0..BLOCK).zip(rest).take_while(|pair| follows(*pair)).count();
        if run as i64 == BLOCK {
            firsts.push(*first);
        }
        rest = &rest[run..];
    }
    firsts
}

/// A worker's, of one sequence; what `next_value.sql` tells of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    is_there: bool,
    /// Not where all was lent by an older Tenantry.
    has_function: bool,
    counter: i64,
    filled: i64,
    step: i64,
}

impl State {
    async fn read(loan: &tokio_postgres::Transaction<'_>, oid: u32) -> Result<Self> {
        let part =
            |name: &str| format!("coalesce(pg_sequence_last_value(to_regclass('tenantry.lent_{oid}_{name}')), 0)");
        let sql = format!(
            "SELECT to_regclass('tenantry.lent_{oid}_counter') IS NOT NULL, {}, {}, {}, \
                 to_regprocedure('tenantry.next_value_{oid}()') IS NOT NULL",
            part("counter"),
            part("filled"),
            part("step")
        );
        let row = loan.query_one(&sql, &[]).await.map_err(pg_error)?;
        let number = |at: usize| row.try_get::<_, i64>(at).map_err(pg_error);
        Ok(Self {
            is_there: row.try_get(0).map_err(pg_error)?,
            counter: number(1)?,
            filled: number(2)?,
            step: number(3)?,
            has_function: row.try_get(4).map_err(pg_error)?,
        })
    }

    /// The block of the draw that was the last, which may still be under way.
    fn last_block(&self) -> i64 {
        (self.counter - 1).max(0) / BLOCK
    }

    /// More draws wait than slots can serve.
    fn is_outrun(&self) -> bool {
        self.last_block() > self.filled + 2
    }

    /// How many blocks are to be filled, so that `ahead` are there beyond the next draw's. A slot is not overwritten while
    /// a draw may be reading it: not before the counter is two blocks further.
    fn blocks_short(&self, ahead: i64) -> i64 {
        let wanted = self.counter / BLOCK + 1 + ahead;
        wanted.min(self.last_block() + SLOTS - 1) - self.filled
    }

    /// The statements that fill blocks, in an order in which each is whole before it counts.
    fn fill(&self, sequence: &Sequence, firsts: &[i64]) -> String {
        let set = |part: &str, value: i64| {
            format!("SELECT pg_catalog.setval('tenantry.lent_{}_{part}', {value});\n", sequence.oid)
        };
        if firsts.is_empty() {
            return String::new();
        }
        let filled = self.filled + firsts.len() as i64;
        let slots = (self.filled..).zip(firsts).map(|(block, first)| set(&(block % SLOTS).to_string(), *first));
        let alarm = filled * BLOCK - firsts.len() as i64 * BLOCK / 2;
        let mut statements: String = slots.collect();
        statements.push_str(&set("step", sequence.step));
        statements.push_str(&set("alarm", alarm));
        statements.push_str(&set("filled", filled));
        statements
    }
}

/// As in `next_value.sql`.
const BLOCK: i64 = 256;
const SLOTS: i64 = 8;
/// Beyond the block that a worker draws from: without it either.
const NOT_EVEN_ONE: i64 = -1;
const NO_MORE: i64 = -i64::MAX;
const FUNCTIONS: &str = include_str!("next_value.sql");
/// The most blocks that a worker can be lent beyond the one that it draws from.
pub const AHEAD_MAX: i64 = SLOTS - 2;
/// Class of the advisory locks: "tnsq" in ASCII.
const LOCK: i32 = i32::from_be_bytes(*b"tnsq");
/// An application that draws from the sequence at the same moment breaks a block.
const ATTEMPTS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_what_nobody_else_has_drawn_from() {
        let whole: Vec<i64> = (1..=512).collect();
        assert_eq!(whole_blocks(&whole, 1), [1, 257]);
        let broken: Vec<i64> = (1..=600).filter(|n| *n != 100).collect();
        assert_eq!(whole_blocks(&broken, 1), [101]);
        assert!(whole_blocks(&whole[..255], 1).is_empty());
        let fifties: Vec<i64> = (0..256).map(|n| 1 + n * 50).collect();
        assert_eq!(whole_blocks(&fifties, 50), [1]);
        let down: Vec<i64> = (0..256).map(|n| -n).collect();
        assert_eq!(whole_blocks(&down, -1), [0]);
    }

    /// Whatever the counter is: a slot that is filled belonged to a block at least two before the counter's last.
    #[test]
    fn no_slot_is_overwritten_while_it_may_be_read() {
        for counter in 0..(SLOTS + 4) * BLOCK {
            for filled in 0..SLOTS + 6 {
                let state = State { is_there: true, has_function: true, counter, filled, step: 1 };
                let newest = filled + state.blocks_short(AHEAD_MAX) - 1;
                assert!(newest < filled || newest - SLOTS + 2 <= state.last_block(), "{state:?}");
                assert!(state.is_outrun() || counter == 0 || newest.max(filled - 1) >= counter / BLOCK, "{state:?}");
            }
        }
    }
}
