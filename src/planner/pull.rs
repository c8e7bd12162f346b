//! The plan that is always right: fetch the rows of each distributed table, run the user's text over them.
//!
//!   SELECT ... FROM orders o ...   ──>   rowset: SELECT * FROM <shard>.orders
//!                                        query:  SELECT ... FROM pg_temp.tenantry_rows_0 o ...

use std::collections::HashSet;

use crate::error::PgError;
use crate::sql::lexer::is_keyword;
use crate::sql::scope::Meaning;
use crate::sql::{Operand, Splice, Spliced, With};

use super::inline::inline_splices;
use super::names::quote_identifier;
use super::statement::{Statement, ends, fitting};
use super::{Combine, Figures, Plan, Rowset, Shards, unsupported};

pub(super) fn plan(statement: &Statement<'_>) -> Result<Plan, PgError> {
    if statement.needs().iter().any(|figures| *figures != Figures::Settings) {
        return Err(unsupported::needs_figures());
    }
    let mut rowsets: Vec<Rowset> = Vec::new();
    let mut rowset_of = Vec::new();
    for (i, table) in statement.distributed() {
        let name = format!("{}.{}", quote_identifier(&table.schema), quote_identifier(&table.name));
        let shell = Spliced::verbatim(format!("SELECT * FROM {name}"));
        let wanted = statement.restrictions[i].as_ref().map(|v| v.iter().map(|o| fitting(o, table)).collect());
        match rowsets.iter_mut().position(|r| r.shell_query == shell) {
            Some(at) => {
                widen(&mut rowsets[at].shards, wanted);
                rowset_of.push((i, at));
            }
            None => {
                let text = format!("SELECT * FROM {}", quote_identifier(&table.name));
                let splice = Splice {
                    at: "SELECT * FROM ".len() as u32,
                    len: 0,
                    with: With::ShardSchema(table.schema.as_str().into()),
                };
                rowset_of.push((i, rowsets.len()));
                rowsets.push(Rowset {
                    name: format!("tenantry_rows_{}", rowsets.len()),
                    colocation: table.colocation,
                    shards: wanted.map_or(Shards::All, Shards::Holding),
                    query: Spliced::new(text, vec![splice]),
                    shell_query: shell,
                });
            }
        }
    }
    let mut splices = inline_splices(statement.text, statement.tokens, statement.ctx);
    for (i, relation) in statement.relations.iter().enumerate() {
        let (first, last) = ends(&relation.name);
        let with = match &relation.meaning {
            Meaning::Distributed(_) => {
                let rowset = rowset_of.binary_search_by_key(&i, |(relation, _)| *relation);
                let rowset = rowset.map_or("", |found| &rowsets[rowset_of[found].1].name);
                let alias = if relation.has_alias || follows_table_keyword(statement, first.at) {
                    String::new()
                } else {
                    format!(" AS {}", quote_identifier(&last.value))
                };
                // A column reference that carries the schema loses it: the rowset has none.
                splices.extend(relation.schema_prefixes.iter().map(|&(at, len)| Splice {
                    at,
                    len,
                    with: With::Fixed("".into()),
                }));
                splices.push(Splice {
                    at: first.at,
                    len: last.end() - first.at,
                    with: With::Fixed(format!("pg_temp.{rowset}{alias}").into()),
                });
                continue;
            }
            Meaning::View(_) => With::Fixed("tenantry.".into()),
            Meaning::Reference(_) | Meaning::Local => continue,
        };
        splices.push(Splice { at: first.at, len: last.at - first.at, with });
    }
    Ok(Plan::Combine(Combine {
        rowsets,
        query: Spliced::new(statement.text, splices),
        pins: false,
        needs_block: false,
    }))
}

/// `TABLE t` takes no alias.
fn follows_table_keyword(statement: &Statement<'_>, at: u32) -> bool {
    let before = statement.tokens.partition_point(|t| t.start < at).checked_sub(1);
    before.map(|i| &statement.tokens[i]).is_some_and(|t| is_keyword(statement.text, t, "table"))
}

/// A rowset serves several occurrences of its table: it holds what any of them wants.
fn widen(shards: &mut Shards, wanted: Option<Vec<Operand>>) {
    match (&mut *shards, wanted) {
        (Shards::All, _) => {}
        (_, None) => *shards = Shards::All,
        (Shards::Holding(all) | Shards::One(all), Some(more)) => {
            if *all != more {
                let known: HashSet<Operand> = all.iter().cloned().collect();
                all.extend(more.into_iter().filter(|operand| !known.contains(operand)));
            }
        }
    }
}
