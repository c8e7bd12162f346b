//! The target's side of a move: schemas and tables first, keys and indexes after the copy, foreign keys last.

use std::time::Duration;

use super::definition::Definition;
use super::session::{Session, with_short_locks};
use super::snapshot::marker_table;
use super::state::Move;
use super::stream::Apply;
use super::{MoverEnvironment, MoverSettings};
use crate::catalog::pg_error;
use crate::catalog::quote::{identifier, literal};
use crate::error::{PgError, Result, SqlState};

/// Creates the shard's schemas with their tables, and the move's own schema, in one transaction.
///
/// Each shard schema carries the move's mark, by which cleaning up knows it.
/// Errors: 42P06 when a schema of that name is there already.
pub async fn create(target: &Session, mv: &Move, definition: &Definition) -> Result<()> {
    let mut statements = vec!["BEGIN".to_owned()];
    for schema in mv.target_schemas() {
        let name = identifier(&schema);
        statements.push(format!("CREATE SCHEMA {name}"));
        statements.push(format!("COMMENT ON SCHEMA {name} IS {}", literal(&mv.mark())));
    }
    statements.extend(definition.tables.iter().cloned());
    let name = identifier(&mv.target_name());
    statements.push(format!("CREATE SCHEMA {name}"));
    statements.push(marker_table(&mv.target_marker()));
    statements.push(format!("CREATE TABLE {name}.progress (lsn pg_lsn)"));
    statements.push(format!("INSERT INTO {name}.progress VALUES (NULL)"));
    statements.push("COMMIT".to_owned());
    let created = target.batch_execute(&statements.join(";\n")).await.map_err(pg_error);
    if created.is_err() {
        // The connection may be gone; then so is the transaction.
        let _ = target.batch_execute("ROLLBACK").await;
    }
    created
}

/// Keys, indexes, statistics: one statement after the other, while nothing is applied.
pub async fn build_keys_and_indexes(target: &Session, definition: &Definition) -> Result<()> {
    for statement in &definition.keys_and_indexes {
        target.batch_execute(statement).await.map_err(pg_error)?;
    }
    Ok(())
}

/// Foreign keys, and what else only matters once clients write here. Changes are applied while keys are checked.
pub async fn finish(
    environment: &MoverEnvironment,
    target: &Session,
    mv: &Move,
    definition: &Definition,
    apply: &mut Apply,
) -> Result<()> {
    let MoverSettings { lock_timeout, lock_patience, .. } = environment.settings;
    for statement in definition.foreign_keys.iter().map(|key| &key.add).chain(&definition.rest) {
        // Reference tables are in use here already.
        with_short_locks(target, statement, lock_timeout, lock_patience).await?;
    }
    for statement in definition.foreign_keys.iter().filter_map(|key| key.validate.as_ref()) {
        let (validated, applied) = apply.run_while(validate(target, statement)).await;
        applied?;
        validated?;
    }
    // Fresh tables have no statistics, and plans made without them are bad ones.
    let analyze: Vec<String> = {
        let sql = "SELECT format('ANALYZE %I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = ANY ($1)";
        target.query(sql, &[&mv.target_schemas()]).await.map_err(pg_error)?.iter().map(|row| row.get(0)).collect()
    };
    for statement in analyze {
        let (analyzed, applied) = apply.run_while(target.batch_execute(&statement)).await;
        applied?;
        analyzed.map_err(pg_error)?;
    }
    Ok(())
}

/// A row that two transactions on two nodes made together may refer to a reference row that is not here yet.
async fn validate(target: &Session, statement: &str) -> Result<()> {
    let mut last = None;
    for _ in 0..VALIDATE_ATTEMPTS {
        match target.batch_execute(statement).await.map_err(pg_error) {
            Err(error) if error.code() == SqlState::FOREIGN_KEY_VIOLATION => last = Some(error),
            done => return done,
        }
        tokio::time::sleep(VALIDATE_PAUSE).await;
    }
    Err(last.unwrap_or_else(|| PgError::new(SqlState::FOREIGN_KEY_VIOLATION, "a foreign key does not hold")))
}

const VALIDATE_ATTEMPTS: usize = 10;
const VALIDATE_PAUSE: Duration = Duration::from_millis(200);
