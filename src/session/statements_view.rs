//! What a session has prepared, for the view `pg_prepared_statements`: a client's names and texts, which no server has.
//!
//! ```text
//!   Statements ──JSON──> set_config('tenantry.prepared_statements', .., true) ──> view tenantry.pg_prepared_statements
//! ```
//!
//! The view has the columns of the coordinator's version. How often a server has made which kind of plan is not known here.

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};

use super::run::Session;
use super::statement::Statement;
use crate::error::Result;
use crate::executor::{Kind, figures};
use crate::planner::Figures;
use crate::wire::rows;

impl Session {
    /// Brings to the coordinator what the system views of a statement read.
    pub(super) async fn gather_figures(&mut self, needs: &[Figures]) -> Result<()> {
        for needed in needs {
            let told = match needed {
                Figures::PreparedStatements => Box::pin(self.prepared_statements()).await,
                Figures::Settings => self.defaults(),
                _ => String::new(),
            };
            figures::gather(self.txn(), *needed, &told).await?;
        }
        Ok(())
    }

    /// Types that nobody has asked for yet are asked for outside of a transaction only: a failure there would end it.
    async fn prepared_statements(&mut self) -> String {
        let may_ask = self.transaction.as_mut().is_none_or(|t| t.kind == Kind::Auto && t.participants().is_empty());
        let named: Vec<_> =
            self.statements.named().map(|(name, statement)| (name.clone(), statement.clone())).collect();
        let mut rows = Vec::with_capacity(named.len());
        for (name, statement) in named {
            if may_ask && let Err(error) = self.describe(&statement).await {
                tracing::debug!(%error, "a prepared statement is not what it was");
            }
            rows.push(row(&name, &statement));
        }
        Value::Array(rows).to_string()
    }
}

fn row(name: &Bytes, statement: &Rc<Statement>) -> Value {
    let naming = statement.naming.as_ref();
    let command = naming.and_then(|naming| naming.command.as_deref());
    let described = statement.known_description();
    let parameters = described.as_ref().map_or(&*statement.types, |described| &described.parameters);
    let columns = described.as_ref().and_then(|described| described.fields.as_deref()).map(rows::column_types);
    json!({
        "name": String::from_utf8_lossy(name),
        "statement": command.unwrap_or(&statement.text),
        "prepare_time": naming.map(|naming| shown(naming.at)),
        "parameter_types": types(parameters),
        "result_types": columns.as_deref().map(types),
        "from_sql": command.is_some(),
    })
}

/// As type `regtype` reads them.
fn types(oids: &[u32]) -> Vec<String> {
    oids.iter().map(u32::to_string).collect()
}

/// A Julian day and the time of day, as Postgres reads them.
fn shown(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (day, second) = (since.as_secs() / DAY, since.as_secs() % DAY);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("J{} {hour:02}:{minute:02}:{:02}.{:06} UTC", day + DAY_OF_EPOCH, second % 60, since.subsec_micros())
}

const DAY: u64 = 86_400;
/// The Julian day of 1970-01-01.
const DAY_OF_EPOCH: u64 = 2_440_588;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_written_as_postgres_reads_it() {
        assert_eq!(shown(UNIX_EPOCH), "J2440588 00:00:00.000000 UTC");
        assert_eq!(shown(UNIX_EPOCH + Duration::from_micros(90_061_000_002)), "J2440589 01:01:01.000002 UTC");
    }
}
