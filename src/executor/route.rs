//! From a plan's operands and a statement's values to shard groups. Pure.

use crate::planner::Shards;
use crate::shard_map::hash::Value;
use crate::shard_map::{ColocationGroup, HashType, ShardGroupId, Table};
use crate::sql::Operand;
use crate::wire::frontend::Bind;

/// A statement's parameter values.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    None,
    /// `types` as far as they are known; 0 or missing means: as the column.
    Bind {
        bind: &'a Bind,
        types: &'a [u32],
    },
}

/// What one operand is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<'a> {
    Value(Value<'a>),
    Null,
    /// Not provable here; the coordinator can tell.
    Unknown,
}

/// Where a router plan's operands point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    One(ShardGroupId),
    /// Nothing but NULLs: no row can match.
    Nowhere,
    Many,
    /// The operand at this index is not provable here.
    Unknown(usize),
}

/// What happens to a value: a comparison takes it as it is, an assignment to a column cuts or rounds it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Compared,
    /// Stored in a column with this type modifier; -1: none.
    Stored(i32),
}

impl Use {
    /// For a value that becomes the distribution column's of a new row.
    pub fn stored_in(table: &Table) -> Self {
        Use::Stored(table.distribution_column().map_or(-1, |c| c.type_modifier))
    }

    pub fn type_modifier(self) -> i32 {
        match self {
            Use::Compared => -1,
            Use::Stored(type_modifier) => type_modifier,
        }
    }
}

impl<'a> Values<'a> {
    /// What the operand becomes.
    pub fn find<'b>(&self, operand: &'b Operand, hash: HashType, used: Use) -> Found<'b>
    where
        'a: 'b,
    {
        let known = |value: Option<Value<'b>>| value.map_or(Found::Unknown, Found::Value);
        let typmod = used.type_modifier();
        match operand {
            Operand::Null => Found::Null,
            Operand::Literal(text) => known(hash.read_stored_text(text, typmod)),
            Operand::Lifted { .. } => Found::Unknown,
            Operand::Param(n) => {
                let Values::Bind { bind, types } = self else { return Found::Unknown };
                match bind.parameter(*n) {
                    Err(_) => Found::Unknown,
                    Ok((_, None)) => Found::Null,
                    Ok((true, Some(bytes))) => match types.get(*n as usize) {
                        None | Some(0) => Found::Unknown,
                        Some(oid) => known(hash.read_stored_binary(*oid, bytes, typmod)),
                    },
                    Ok((false, Some(text))) => {
                        let Ok(text) = std::str::from_utf8(text) else { return Found::Unknown };
                        let stored = hash.read_stored_text(text, typmod);
                        known(match types.get(*n as usize) {
                            None | Some(0) => stored,
                            // The text is a value of the parameter's type first: '1 ' of char(n) is no '1 ' of text.
                            Some(oid) => stored.and_then(|_| hash.read_typed_text(*oid, text)),
                        })
                    }
                }
            }
        }
    }

    pub fn target(&self, colocation: &ColocationGroup, operands: &[Operand], used: Use) -> Target {
        self.target_seen(colocation, operands, used, |_, _| {})
    }

    /// As `target`; the values are shown on the way.
    pub fn target_seen(
        &self,
        colocation: &ColocationGroup,
        operands: &[Operand],
        used: Use,
        mut see: impl FnMut(HashType, &Value<'_>),
    ) -> Target {
        let Some(hash) = colocation.hash else { return Target::Many };
        let mut target = Target::Nowhere;
        for (index, operand) in operands.iter().enumerate() {
            match self.find(operand, hash, used) {
                Found::Null => {}
                Found::Unknown => return Target::Unknown(index),
                Found::Value(value) => {
                    see(hash, &value);
                    let Some(group) = colocation.group_of(&value) else { return Target::Many };
                    match target {
                        Target::One(other) if other != group.id => return Target::Many,
                        _ => target = Target::One(group.id),
                    }
                }
            }
        }
        target
    }

    /// The shard groups concerned, in the colocation group's order; all of them when a value is not provable.
    pub fn groups(&self, colocation: &ColocationGroup, shards: &Shards) -> Vec<ShardGroupId> {
        let all = || colocation.shard_groups.iter().map(|g| g.id).collect();
        let (Shards::Holding(operands) | Shards::One(operands), Some(hash)) = (shards, colocation.hash) else {
            return all();
        };
        let mut wanted = Vec::new();
        for operand in operands {
            match self.find(operand, hash, Use::Compared) {
                Found::Null => {}
                Found::Unknown => return all(),
                Found::Value(value) => wanted.extend(colocation.group_of(&value).map(|g| g.id)),
            }
        }
        // A read of no shard still needs one to say what its columns are.
        if wanted.is_empty() {
            wanted.extend(colocation.shard_groups.first().map(|g| g.id));
        }
        colocation.shard_groups.iter().map(|g| g.id).filter(|id| wanted.contains(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard_map::{ColocationId, NodeId, ShardGroup, hash};

    fn colocation() -> ColocationGroup {
        let shard_groups = hash::intervals(4)
            .into_iter()
            .enumerate()
            .map(|(i, (min, max))| ShardGroup { id: ShardGroupId(i as u64), min, max, node: NodeId(1), tenant: None })
            .collect();
        ColocationGroup::new(ColocationId(1), Some(HashType::Int4), shard_groups)
    }

    fn literal(text: &str) -> Operand {
        Operand::Literal(text.into())
    }

    #[test]
    fn operands_of_one_group_are_a_target_and_of_two_are_not() {
        let c = colocation();
        // hashes: 1 -> -1905060026 (group 0), 2 -> 1134484726 (group 3)
        assert_eq!(Values::None.target(&c, &[literal("1"), literal("1")], Use::Compared), Target::One(ShardGroupId(0)));
        assert_eq!(
            Values::None.target(&c, &[literal("1"), Operand::Null], Use::Compared),
            Target::One(ShardGroupId(0))
        );
        assert_eq!(Values::None.target(&c, &[literal("1"), literal("2")], Use::Compared), Target::Many);
        assert_eq!(Values::None.target(&c, &[Operand::Null], Use::Compared), Target::Nowhere);
        assert_eq!(Values::None.target(&c, &[literal("1"), literal("x")], Use::Compared), Target::Unknown(1));
    }

    #[test]
    fn an_unprovable_value_is_looked_for_everywhere() {
        let c = colocation();
        assert_eq!(Values::None.groups(&c, &Shards::Holding(vec![literal("x")])).len(), 4);
        assert_eq!(Values::None.groups(&c, &Shards::Holding(vec![literal("1")])), [ShardGroupId(0)]);
        assert_eq!(Values::None.groups(&c, &Shards::Holding(vec![Operand::Null])).len(), 1);
    }

    #[test]
    fn a_binary_parameter_of_unknown_type_is_not_guessed() {
        let bind = Bind::text(&[Some("1")]);
        let c = colocation();
        let values = Values::Bind { bind: &bind, types: &[] };
        assert_eq!(values.target(&c, &[Operand::Param(0)], Use::Compared), Target::One(ShardGroupId(0)));
        assert_eq!(values.target(&c, &[Operand::Param(1)], Use::Compared), Target::Unknown(0));
    }
}
