//! A move that cuts a shard group into pieces: each an interval of hashes, a shard group of its own, on a node of its own.
//!
//! ```text
//!   source:  public_<group> ──fence──> tenantry_moved_<id>_<n> ──> dropped
//!                └─ each row by its hash ──> public_<piece 1> on node a, public_<piece 2> on node b, ...
//! ```
//!
//! All pieces are copies, those that stay on the source's node too: so nothing has to be deleted while clients wait.

use std::collections::HashMap;

use super::state::Move;
use crate::catalog::quote::identifier;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::hash::Value;
use crate::shard_map::{ColocationGroup, HashType, NodeId, ShardGroup, ShardGroupId, ShardMap, TableKind};

/// One of the shard groups that take the place of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub group: ShardGroupId,
    pub node: NodeId,
    /// Hashes of its rows, both ends inclusive.
    pub min: i32,
    pub max: i32,
}

/// Which shard group each row of a move goes to.
pub struct Routes {
    /// Of the pieces; none where everything goes to one place.
    cut: Option<Cut>,
    /// The distribution column by (schema, table); empty where everything goes to one place.
    columns: HashMap<(String, String), String>,
    /// Shard groups that come together, by their schemas on the source, unquoted.
    united: HashMap<String, Piece>,
}

struct Cut {
    pieces: ColocationGroup,
    hash: HashType,
}

impl Routes {
    /// Errors: 0A000 when the tables' distribution column is of no type that the proxy can hash.
    pub fn new(mv: &Move, map: &ShardMap) -> Result<Self> {
        if mv.pieces.is_empty() {
            return Ok(Self { cut: None, columns: HashMap::new(), united: HashMap::new() });
        }
        let mut columns = HashMap::new();
        let mut hash = None;
        for table in map.tables_of(mv.colocation) {
            if let TableKind::Distributed { column, hash: of } = table.kind {
                hash = Some(of);
                columns.insert((table.schema.clone(), table.name.clone()), table.columns[column].name.clone());
            }
        }
        let hash = hash.ok_or_else(not_hashable)?;
        let group = |p: &Piece| ShardGroup { id: p.group, min: p.min, max: p.max, node: p.node, tenant: None };
        let pieces = ColocationGroup::new(mv.colocation, Some(hash), mv.pieces.iter().map(group).collect());
        let known = |id: &ShardGroupId| map.colocation(mv.colocation).and_then(|colocation| colocation.group(*id));
        let piece = |g: &ShardGroup| Piece { group: g.id, node: g.node, min: g.min, max: g.max };
        let of_schemas = |piece: Piece| mv.schemas_of(piece.group).into_iter().map(move |schema| (schema, piece));
        let united = mv.united.iter().filter_map(known).map(piece).flat_map(of_schemas).collect();
        Ok(Self { cut: Some(Cut { pieces, hash }), columns, united })
    }

    /// Of tables, each with its schema and name, to the shard groups of a colocation group. `column` is the distribution
    /// column of all.
    pub fn of_tables(
        tables: impl Iterator<Item = (String, String)>,
        column: &str,
        pieces: ColocationGroup,
        hash: HashType,
    ) -> Self {
        let columns = tables.map(|table| (table, column.to_owned())).collect();
        Self { cut: Some(Cut { pieces, hash }), columns, united: HashMap::new() }
    }

    /// The distribution column of a table, where it decides.
    pub fn column_of(&self, schema: &str, table: &str) -> Option<&str> {
        self.columns.get(&(schema.to_owned(), table.to_owned())).map(String::as_str)
    }

    /// The condition by which a table's rows are told from those of the others that come to the same place; none where there
    /// are no others. `schema` is that on the source, `column` the distribution column, both unquoted.
    pub fn own_rows(&self, schema: &str, column: Option<&str>) -> Option<String> {
        self.united.get(schema).zip(column).map(|(piece, column)| piece.condition(column))
    }

    /// Errors: 0A000 for a value that the proxy cannot hash, or that belongs to no piece.
    pub fn group_of_text(&self, text: &[u8]) -> Result<ShardGroupId> {
        self.group_of(|hash| std::str::from_utf8(text).ok().and_then(|text| hash.read_text(text)))
    }

    /// As `group_of_text`, from the type's binary form.
    pub fn group_of_binary(&self, bytes: &[u8]) -> Result<ShardGroupId> {
        self.group_of(|hash| hash.read_binary(hash.oid(), bytes))
    }

    fn group_of<'a>(&self, read: impl Fn(HashType) -> Option<Value<'a>>) -> Result<ShardGroupId> {
        let Some(cut) = &self.cut else { return Err(not_hashable()) };
        let value = read(cut.hash).ok_or_else(not_hashable)?;
        let piece = cut.pieces.group_of(&value).ok_or_else(|| {
            PgError::new(SqlState::DATA_CORRUPTED, "a row on the source node does not belong to its shard")
        })?;
        Ok(piece.id)
    }
}

impl Piece {
    /// The condition that rows of the piece fulfil, by Postgres's own hash of `column` (unquoted).
    ///
    /// The hash of an array of one element is 31 and the element's hash, modulo 2^32: that way any type's own hash
    /// function is called. Source: PostgreSQL 15, hash_array in src/backend/utils/adt/arrayfuncs.c.
    pub fn condition(&self, column: &str) -> String {
        let hash = format!("hash_array(ARRAY[{}])", identifier(column));
        let (min, max) = (self.min.wrapping_add(31), self.max.wrapping_add(31));
        if min <= max {
            format!("{hash} BETWEEN {min} AND {max}")
        } else {
            format!("({hash} >= {min} OR {hash} <= {max})")
        }
    }
}

fn not_hashable() -> PgError {
    PgError::unsupported("cannot split a shard whose distribution column the proxy cannot hash by itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_holds_where_the_interval_wraps_around() {
        let piece = |min, max| Piece { group: ShardGroupId(1), node: NodeId(1), min, max };
        assert_eq!(piece(-5, 5).condition("t"), "hash_array(ARRAY[\"t\"]) BETWEEN 26 AND 36");
        let wrapped = piece(5, i32::MAX).condition("t");
        assert_eq!(wrapped, "(hash_array(ARRAY[\"t\"]) >= 36 OR hash_array(ARRAY[\"t\"]) <= -2147483618)");
    }
}
