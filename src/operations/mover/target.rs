//! The target's side of a move: schemas and tables first, keys and indexes after the copy, foreign keys last.

use std::future::Future;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::MoverEnvironment;
use super::definition::Definition;
use super::session::{self, Session, with_short_locks};
use super::snapshot::marker_table;
use super::state::Move;
use super::stream::Apply;
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{NodeId, ShardGroupId};

/// One node that rows go to.
pub struct Target {
    /// Writes rows as they are: no triggers, no foreign key checks.
    pub session: Session,
    pub node: NodeId,
    /// What is to stand there.
    pub groups: Vec<ShardGroupId>,
}

impl Target {
    /// Connects to all of them.
    pub async fn connect(environment: &MoverEnvironment, mv: &Move) -> Result<Vec<Self>> {
        let mut targets = Vec::new();
        for (node, groups) in mv.targets() {
            targets.push(Self { session: session::connect_as_replica(environment, node).await?, node, groups });
        }
        Ok(targets)
    }
}

/// Creates the shards' schemas with their tables, and the move's own schema, in one transaction.
///
/// Each shard schema carries the move's mark, by which cleaning up knows it.
/// Errors: 42P06 when a schema of that name is there already.
pub async fn create_shards(target: &Target, mv: &Move, on_source: &Definition) -> Result<()> {
    let mut statements = Vec::new();
    for group in &target.groups {
        for schema in mv.schemas_of(*group) {
            let name = identifier(&schema);
            statements.push(format!("CREATE SCHEMA {name}"));
            statements.push(mark(mv, &schema));
        }
        statements.extend(on_source.clone().on_target(mv, *group).tables);
    }
    create(target, mv, statements).await.map_err(|error| match error.code() {
        SqlState::DUPLICATE_SCHEMA => error.hint(
            "A node that came back after it had been removed may have half a copy: \
             CALL citus_cleanup_orphaned_resources() drops it.",
        ),
        _ => error,
    })
}

/// The statement that marks a schema as this move's.
pub fn mark(mv: &Move, schema: &str) -> String {
    format!("COMMENT ON SCHEMA {} IS {}", identifier(schema), literal(&mv.mark()))
}

/// Runs the statements and creates the move's own schema, in one transaction.
pub async fn create(target: &Target, mv: &Move, statements: Vec<String>) -> Result<()> {
    let mut statements: Vec<String> = ["BEGIN".to_owned()].into_iter().chain(statements).collect();
    let name = identifier(&mv.target_name());
    statements.push(format!("CREATE SCHEMA {name}"));
    statements.push(marker_table(&mv.target_marker()));
    statements.push(format!("CREATE TABLE {name}.progress (lsn pg_lsn)"));
    statements.push(format!("INSERT INTO {name}.progress VALUES (NULL)"));
    statements.push("COMMIT".to_owned());
    let created = target.session.batch_execute(&statements.join(";\n")).await.map_err(pg_error);
    if created.is_err() {
        // The connection may be gone; then so is the transaction.
        let _ = target.session.batch_execute("ROLLBACK").await;
    }
    created
}

/// Keys, indexes, statistics: one statement after the other on each node, while nothing is applied.
pub async fn build_keys_and_indexes(targets: &[Target], mv: &Move, on_source: &Definition) -> Result<()> {
    let on_each = targets.iter().map(|target| async move {
        for group in &target.groups {
            for statement in on_source.clone().on_target(mv, *group).keys_and_indexes {
                target.session.batch_execute(&statement).await.map_err(pg_error)?;
            }
        }
        Ok(())
    });
    try_join_all(on_each).await.map(|_: Vec<()>| ())
}

/// Foreign keys, and what else only matters once clients write here. Changes, if there are any, are applied while keys are
/// checked.
pub async fn finish(
    environment: &MoverEnvironment,
    targets: &[Target],
    mv: &Move,
    on_source: &Definition,
    apply: &mut Option<&mut Apply>,
) -> Result<()> {
    for (target, group) in each_group(targets) {
        let definition = on_source.clone().on_target(mv, group);
        // Reference tables are in use here already.
        let with_short_locks = |statement| with_short_locks(environment, (&target.session, target.node), statement);
        for key in &definition.foreign_keys {
            once_referenced(|| with_short_locks(&key.add)).await?;
        }
        for statement in &definition.rest {
            with_short_locks(statement).await?;
        }
        for statement in definition.foreign_keys.iter().filter_map(|key| key.validate.as_ref()) {
            beside(apply, validate(&target.session, statement)).await?;
        }
        let sql = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = ANY ($1)";
        for row in target.session.query(sql, &[&mv.schemas_of(group)]).await.map_err(pg_error)? {
            analyze(target, row.get(0), apply).await?;
        }
    }
    Ok(())
}

/// What stands where.
pub fn each_group(targets: &[Target]) -> Vec<(&Target, ShardGroupId)> {
    targets.iter().flat_map(|target| target.groups.iter().map(move |group| (target, *group))).collect()
}

/// Fresh tables have no statistics, and plans made without them are bad ones. `table` is quoted.
pub async fn analyze(target: &Target, table: &str, apply: &mut Option<&mut Apply>) -> Result<()> {
    let statement = format!("ANALYZE {table}");
    beside(apply, async { target.session.batch_execute(&statement).await.map_err(pg_error) }).await
}

/// Awaits `work` while changes are applied.
async fn beside<T>(apply: &mut Option<&mut Apply>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(apply) = apply else { return work.await };
    let (done, applied) = apply.run_while(work).await;
    applied?;
    done
}

pub async fn validate(target: &Session, statement: &str) -> Result<()> {
    once_referenced(|| async { target.batch_execute(statement).await.map_err(pg_error) }).await
}

/// Awaits what checks a foreign key. A row that one transaction made together with a reference row may be here before that is:
/// each node commits its part of a transaction by itself.
async fn once_referenced<C: Future<Output = Result<()>>>(check: impl Fn() -> C) -> Result<()> {
    let mut last = None;
    for _ in 0..VALIDATE_ATTEMPTS {
        match check().await {
            Err(error) if error.code() == SqlState::FOREIGN_KEY_VIOLATION => last = Some(error),
            done => return done,
        }
        tokio::time::sleep(VALIDATE_PAUSE).await;
    }
    Err(last.unwrap_or_else(|| PgError::new(SqlState::FOREIGN_KEY_VIOLATION, "a foreign key does not hold")))
}

const VALIDATE_ATTEMPTS: usize = 10;
const VALIDATE_PAUSE: Duration = Duration::from_millis(200);
