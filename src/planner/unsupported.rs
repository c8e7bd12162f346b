//! Every refusal of SELECT, INSERT, UPDATE, DELETE and MERGE, in one place.

use crate::error::{PgError, SqlState};
use crate::shard_map::Table;

const RESTRICT: &str = "Restrict every distributed table to one value of its distribution column.";

/// Was it refused because it could not be read here? Then it may be none that Postgres can read.
pub fn may_be_no_sql(refused: &PgError) -> bool {
    [CANNOT_ANALYSE, OTHER_STATEMENT].contains(&refused.message())
}

const CANNOT_ANALYSE: &str = "cannot analyse this statement";
/// A utility statement, by its first words.
pub(super) const OTHER_STATEMENT: &str = "the statement is not supported with distributed or reference tables";

pub(super) fn cannot_analyse(construct: &str) -> PgError {
    PgError::unsupported(CANNOT_ANALYSE)
        .detail(format!(
            "It names distributed or reference tables and has a construct that is not understood: {construct}."
        ))
        .hint("Rewrite the construct, or split the statement.")
}

pub(super) fn tenant_changed() -> PgError {
    PgError::unsupported("modifying the partition value of rows is not allowed")
        .hint("Delete the row and insert it again with the new value.")
}

pub(super) fn tenant_missing(table: &Table) -> PgError {
    PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, "cannot perform an INSERT without a partition column value")
        .detail(format!("Column \"{}\" of table \"{}\" says where the row belongs.", column(table), table.name))
}

pub(super) fn subqueries_in_values() -> PgError {
    PgError::unsupported("subqueries are not supported within INSERT queries")
        .hint("Try rewriting your queries with 'INSERT INTO ... SELECT' syntax.")
}

pub(super) fn tenant_null() -> PgError {
    PgError::new(SqlState::NULL_VALUE_NOT_ALLOWED, "cannot perform an INSERT with NULL in the partition column")
}

pub(super) fn tenant_computed(table: &Table) -> PgError {
    PgError::unsupported("cannot tell the shard of a row whose distribution column is computed")
        .detail(format!("The value of \"{}\" is neither a constant nor a parameter.", column(table)))
        .hint("Compute the value in the application, or use INSERT ... SELECT.")
}

pub(super) fn locks_many() -> PgError {
    PgError::unsupported("could not run distributed query with FOR UPDATE/SHARE commands")
        .hint("Consider using an equality filter on the distributed table's partition column.")
}

pub(super) fn session_function(name: &str) -> PgError {
    PgError::unsupported(format!("function {name} cannot be called in a statement on distributed tables"))
        .detail("Its effect belongs to one session of one server, and is expected on the coordinator.")
        .hint("Call it in a statement of its own.")
}

pub(super) fn sequence_function(name: &str) -> PgError {
    PgError::unsupported(format!("function {name} cannot be called in a statement on distributed tables"))
        .detail("Sequences live on the coordinator.")
        .hint("Call it in a statement of its own and pass the value on.")
}

/// Each server has OIDs of its own, of which the coordinator would print other tables' names.
pub(super) fn table_oid() -> PgError {
    PgError::unsupported("tableoid is not supported in statements on distributed tables that concern several shards")
        .hint("Ask for one tenant's rows, or select the table's name as a constant.")
}

pub(super) fn lent_function() -> PgError {
    PgError::unsupported("functions of the catalog cannot be called where distributed or reference tables are changed")
        .hint("Call the function in a statement of its own and pass the value on.")
}

pub(super) fn select_into() -> PgError {
    PgError::unsupported("SELECT INTO from distributed tables is not supported")
        .hint("Create the table, then use INSERT ... SELECT.")
}

/// What a server has prepared, which is not its client's.
pub(super) fn servers_statements(name: &str) -> PgError {
    PgError::unsupported(format!("{name} is not supported here"))
        .detail("Server connections keep statements of several clients.")
        .hint("SELECT from the view pg_prepared_statements.")
}

pub(super) fn needs_figures() -> PgError {
    PgError::unsupported(
        "sizes, loads and activity of servers cannot be read together with distributed tables in one statement",
    )
    .hint("Read the view, or call the function, in a statement of its own.")
}

pub(super) fn write_many_tables(detail: &str) -> PgError {
    PgError::unsupported(
        "complex joins are only supported when all distributed tables are co-located and joined on their distribution columns",
    )
    .detail(detail)
    .hint(RESTRICT)
}

pub(super) fn write_in_cte() -> PgError {
    PgError::unsupported("data-modifying statements in WITH are not supported over several shards").hint(RESTRICT)
}

pub(super) fn volatile_write(name: &str) -> PgError {
    PgError::unsupported("functions used in modification queries over several shards must not be VOLATILE")
        .detail(format!("Function {name} may give another value at each call."))
        .hint(RESTRICT)
}

pub(super) fn reference_from_distributed() -> PgError {
    PgError::unsupported(
        "only reference tables may be queried when targeting a reference table with multi shard UPDATE/DELETE queries with multiple tables",
    )
    .hint("Read the distributed tables first, then write the reference table.")
}

pub(super) fn reference_from_local() -> PgError {
    PgError::unsupported("cannot modify a reference table from a local table")
        .detail("The statement runs on every node, and the local table is on the coordinator only.")
}

pub(super) fn reference_write_in_cte() -> PgError {
    PgError::unsupported("cannot modify a reference table together with other tables in one statement")
        .hint("Split the statement.")
}

pub(super) fn insert_select(what: &str) -> PgError {
    PgError::unsupported(format!("INSERT ... SELECT with {what} is not supported when its rows come from other nodes than they go to"))
        .hint("Select from a table of the same colocation group, with its distribution column for the target's; or fill a local table first and use COPY.")
}

pub(super) fn merge() -> PgError {
    PgError::unsupported("MERGE on distributed tables is only supported for one value of the distribution column")
        .hint("Restrict source and target to one value, and insert that value.")
}

fn column(table: &Table) -> &str {
    table.distribution_column().map_or("", |c| &c.name)
}
