//! Values and names inside SQL that we write ourselves, for the places where no parameters can be bound.

use crate::shard_map::ShardGroupId;

/// A string constant: `it's` becomes `'it''s'`. Right whatever standard_conforming_strings says.
pub fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A name: always in double quotes, so that no list of keywords is needed.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `"schema"."name"`.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// Name of the schema that holds a shard group's part of `schema`, unquoted: `public_102010`.
pub fn shard_schema(schema: &str, group: ShardGroupId) -> String {
    format!("{schema}_{group}")
}

/// A name as Postgres prints it in messages: quoted only where it must be. Keywords are not known here.
pub fn readable(name: &str) -> String {
    let plain = !name.is_empty()
        && name
            .bytes()
            .enumerate()
            .all(|(i, b)| b.is_ascii_lowercase() || b == b'_' || (i > 0 && (b.is_ascii_digit() || b == b'$')));
    if plain { name.to_owned() } else { identifier(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_cannot_end_a_constant() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"\'; DROP"), r" E'\\''; DROP'");
        assert_eq!(qualified("a\"b", "c"), "\"a\"\"b\".\"c\"");
    }
}
