//! Do two servers sort text alike? Both may name one collation, and have it from other versions of libc or ICU.
//!
//! Shards compare, sort and cut off (`ORDER BY ... LIMIT`) their own rows, the coordinator puts them together by its own order.
//! Where the orders differ, statements over several shards may find other rows than one server would.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use crate::catalog::pg_error;
use crate::catalog::quote::qualified;
use crate::error::Result;
use crate::shard_map::ShardMap;

/// By collation, its schema and name; that of the database is one without a name. The version: none where the library tells none,
/// as of `C`.
pub type Versions = BTreeMap<(String, String), Option<String>>;

/// The database's collation and those that columns of distributed and reference tables have, as the coordinator has them.
pub async fn in_use(coordinator: &Client, map: &ShardMap) -> Result<Versions> {
    let tables: Vec<u32> = map.tables().map(|table| table.oid.0).collect();
    let sql = "SELECT DISTINCT n.nspname::text, c.collname::text FROM pg_attribute a \
               JOIN pg_collation c ON c.oid = a.attcollation JOIN pg_namespace n ON n.oid = c.collnamespace \
               WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND c.collprovider <> 'd'";
    let rows = coordinator.query(sql, &[&tables]).await.map_err(pg_error)?;
    read(coordinator, rows.iter().map(|row| (row.get(0), row.get(1))).collect()).await
}

/// The same collations on another server, which has them or not. It runs PostgreSQL 15 or later.
pub async fn of(client: &Client, wanted: &Versions) -> Result<Versions> {
    read(client, wanted.keys().cloned().collect()).await
}

async fn read(client: &Client, names: Vec<(String, String)>) -> Result<Versions> {
    let (schemas, names): (Vec<String>, Vec<String>) = names.into_iter().unzip();
    let sql = "SELECT '', '', pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database() \
               UNION ALL SELECT n.nspname::text, c.collname::text, pg_collation_actual_version(c.oid) \
               FROM unnest($1::text[], $2::text[]) w (schema, name) JOIN pg_namespace n ON n.nspname = w.schema \
               JOIN pg_collation c ON c.collnamespace = n.oid AND c.collname = w.name AND c.collencoding IN \
                   (-1, (SELECT encoding FROM pg_database WHERE datname = current_database()))";
    let rows = client.query(sql, &[&schemas, &names]).await.map_err(pg_error)?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// Postgres's own ones that the other server does not have, quoted. Users' are made there.
pub fn missing(other: &Versions, coordinator: &Versions) -> Vec<String> {
    let lacks = |name: &&(String, String)| name.0 == "pg_catalog" && !other.contains_key(*name);
    coordinator.keys().filter(lacks).map(|(_, name)| format!("\"{name}\"")).collect()
}

/// Which versions differ, as sentences. Nothing is said where one of both is not known.
pub fn differences(other: &Versions, coordinator: &Versions) -> Vec<String> {
    let differing = coordinator.iter().filter_map(|(name, here)| {
        let (here, there) = (here.as_ref()?, other.get(name)?.as_ref()?);
        let what = match name {
            (_, name) if name.is_empty() => "Its database's collation".to_owned(),
            (schema, name) if schema == "pg_catalog" => format!("Its collation \"{name}\""),
            (schema, name) => format!("Its collation {}", qualified(schema, name)),
        };
        (here != there).then(|| format!("{what} has version {there}, the coordinator's {here}."))
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_where_both_are_known() {
        let versions = |of: &[(&str, &str, Option<&str>)]| -> Versions {
            of.iter()
                .map(|(schema, name, version)| (((*schema).into(), (*name).into()), version.map(str::to_owned)))
                .collect()
        };
        let here = versions(&[
            ("", "", Some("2.36")),
            ("pg_catalog", "de-x-icu", Some("153.120")),
            ("pg_catalog", "sv-x-icu", Some("153.120")),
            ("pg_catalog", "C", None),
            ("public", "Own", Some("153.120")),
            ("public", "unknown", Some("1")),
        ]);
        let there = versions(&[
            ("", "", Some("2.41")),
            ("pg_catalog", "de-x-icu", Some("153.120")),
            ("pg_catalog", "C", Some("1")),
            ("public", "Own", Some("153.128")),
            ("public", "unknown", None),
        ]);
        assert_eq!(missing(&there, &here), ["\"sv-x-icu\""]);
        let told = [
            "Its database's collation has version 2.41, the coordinator's 2.36.",
            "Its collation \"public\".\"Own\" has version 153.128, the coordinator's 153.120.",
        ];
        assert_eq!(differences(&there, &here), told);
        assert_eq!(differences(&here, &here), Vec::<String>::new());
    }
}
