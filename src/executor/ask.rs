//! What a statement has to ask before it can be routed: values that only Postgres can read, groups that are held.

use super::Transaction;
use super::route::{Use, Values};
use crate::backend::quote_literal;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::hash::Value;
use crate::shard_map::{ColocationGroup, ColocationId, HashType, NodeId, ShardGroupId};
use crate::sql::Operand;
use crate::wire::frontend::Bind;
use crate::wire::reply_queue::To;

impl Transaction {
    /// The shard groups that a statement concerns, entered, as the map is once none of them is held.
    ///
    /// Errors: 40001 after the hold timeout.
    pub async fn free_groups(
        &mut self,
        colocation: ColocationId,
        groups_of: impl Fn(&ColocationGroup) -> Vec<ShardGroupId>,
    ) -> Result<Vec<ShardGroupId>> {
        loop {
            let map = self.map();
            let groups = groups_of(map.colocation(colocation).ok_or_else(super::stale_plan)?);
            self.enter(&groups).await?;
            // A hold may have ended because other groups have the rows now.
            let map = self.map();
            let now = map.colocation(colocation).ok_or_else(super::stale_plan)?;
            if groups.iter().all(|group| now.group(*group).is_some()) {
                return Ok(groups);
            }
        }
    }

    /// A tenant value that cannot be read here (a date in words, a binary parameter of another type): Postgres casts and
    /// hashes it. `None` for NULL.
    ///
    /// Errors: what the cast says, e.g. 22P02.
    pub async fn ask_value(
        &mut self,
        operand: &Operand,
        hash_type: HashType,
        used: Use,
        values: Values<'_>,
    ) -> Result<Option<Value<'static>>> {
        // Where storing would fail because the value is too long, the cast cuts it, and the shard complains.
        let cast = hash_type.sql_type(used.type_modifier());
        let (expression, bind, types) = match (operand, values) {
            (Operand::Literal(text), _) => (quote_literal(text), Bind::text(&[]), Vec::new()),
            (Operand::Param(n), Values::Bind { bind, types }) => {
                let one = bind.only_parameter(*n)?;
                ("$1".to_owned(), one, vec![types.get(*n as usize).copied().unwrap_or(0)])
            }
            _ => return Ok(None),
        };
        // An array's hash is built with its elements' hash function, whatever its name and argument are called; the hash of
        // an array of one is 31 more. Source: PostgreSQL src/backend/utils/adt/arrayfuncs.c, hash_array().
        let sql = format!(
            "SELECT pg_catalog.hash_array(ARRAY[value]), pg_catalog.encode(pg_catalog.array_send(ARRAY[value]), 'hex') FROM (SELECT ({expression})::{cast} AS value) AS x \
             WHERE value IS NOT NULL"
        );
        let participant = self.join(NodeId::COORDINATOR).await?;
        let server = &mut participant.server;
        server.queue_parse("", &sql, &types, To::Nobody);
        server.queue_bind(&bind, b"", "", To::Nobody);
        server.queue_execute(b"", 0, To::Nobody);
        server.queue_sync();
        let rows = server.finish().await;
        participant.statements += 1;
        self.failed |= rows.is_err();
        let rows = rows?;
        let Some([Some(of_array), Some(sent)]) = rows.first().map(Vec::as_slice) else { return Ok(None) };
        let of_array: Option<i32> = of_array.parse().ok();
        let value = of_array
            .zip(only_element(sent))
            .map(|(of_array, binary)| hash_type.value_of_postgres(of_array.wrapping_sub(31), &binary));
        value.map(Some).ok_or_else(|| PgError::new(SqlState::INTERNAL_ERROR, "could not read a value's hash"))
    }
}

/// The binary form of the one element of an array of one dimension, from `array_send` in hexadecimal.
///
/// Source: PostgreSQL src/backend/utils/adt/arrayfuncs.c, array_send(): five words of header, then length and bytes.
fn only_element(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|d| d as u8);
    let bytes = hex.as_bytes().get(2 * (5 + 1) * 4..)?;
    bytes.chunks(2).map(|pair| Some(digit(pair.first()?)? << 4 | digit(pair.get(1)?)?)).collect()
}
