//! OIDs in the descriptions of answers: a worker's become the coordinator's, which is where drivers look them up.
//!
//! ```text
//!   worker   T: public_102010.orders = 16999, mood = 16500
//!   client   T: public.orders        = 24601, mood = 16390
//! ```
//!
//! A table and its type have one name on every server and an OID of its own on each. What an OID of a worker means is
//! asked once, on control connections, for all shards of the table that are there. What nobody knows yet, because an open
//! transaction has made it, is told as no table (0) and as a value of unknown type, which drivers read as text.

use std::cell::RefCell;

use bytes::BytesMut;
use foldhash::HashMap;

use crate::catalog::{Catalog, pg_error};
use crate::error::Result;
use crate::shard_map::{NodeId, ShardGroupId, ShardMap};
use crate::wire::frame::{self, HEADER_LEN};
use crate::wire::rows::{Named, replace_user_oids};

/// What is known so far; each data thread asks for itself.
#[derive(Default)]
pub struct ObjectIds {
    known: RefCell<HashMap<(NodeId, Named, u32), u32>>,
}

impl ObjectIds {
    /// Gives the RowDescription frame at `start` of `out`, which is whole and which `node` has sent, the coordinator's OIDs.
    pub async fn translate(&self, catalog: &Catalog, node: NodeId, out: &mut BytesMut, start: usize) {
        if node.is_coordinator() {
            return;
        }
        let Ok(Some(header)) = frame::header(&out[start..]) else { return };
        let end = out.len().min(start + header.len);
        let unknown = self.replace_known(node, &mut out[start + HEADER_LEN..end]);
        if unknown.is_empty() {
            return;
        }
        match Box::pin(ask(catalog, node, &unknown)).await {
            Ok(found) => self.known.borrow_mut().extend(found),
            Err(error) => tracing::warn!(%error, %node, "could not ask what the OIDs of a node mean"),
        }
        let known = self.known.borrow();
        for (named, oid, at) in unknown {
            if let Some(own) = known.get(&(node, named, oid)) {
                let at = start + HEADER_LEN + at;
                out[at..at + 4].copy_from_slice(&own.to_be_bytes());
            }
        }
    }

    /// Answers what is not known yet, and where it stands.
    fn replace_known(&self, node: NodeId, payload: &mut [u8]) -> Vec<(Named, u32, usize)> {
        let known = self.known.borrow();
        let mut unknown = Vec::new();
        replace_user_oids(payload, |named, oid, at| match known.get(&(node, named, oid)) {
            Some(own) => *own,
            None => {
                unknown.push((named, oid, at));
                nobodys(named)
            }
        });
        unknown
    }
}

/// What is told of an object that the coordinator does not have.
fn nobodys(named: Named) -> u32 {
    match named {
        Named::Table => 0,
        Named::Type => UNKNOWN_TYPE,
    }
}

type Meaning = ((NodeId, Named, u32), u32);

async fn ask(catalog: &Catalog, node: NodeId, unknown: &[(Named, u32, usize)]) -> Result<Vec<Meaning>> {
    let of = |kind| unknown.iter().filter(|(named, ..)| *named == kind).map(|(_, oid, _)| *oid).collect::<Vec<_>>();
    let (tables, types) = (of(Named::Table), of(Named::Type));
    let mut found = Vec::new();
    let worker = catalog.client(node).await?;
    let map = catalog.map();
    if !tables.is_empty() {
        for row in worker.query(TABLES, &[&tables]).await.map_err(pg_error)? {
            let (oid, schema, name) = (row.get(0), row.get::<_, String>(1), row.get::<_, String>(2));
            if let Some(table) = map.table(users_schema(&map, &schema), &name) {
                found.push(((node, Named::Table, oid), table.oid.0));
            }
        }
    }
    if !types.is_empty() {
        let (mut oids, mut schemas, mut names, mut arrays) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for row in worker.query(TYPES, &[&types]).await.map_err(pg_error)? {
            oids.push(row.get::<_, u32>(0));
            schemas.push(users_schema(&map, row.get(1)).to_owned());
            names.push(row.get::<_, String>(2));
            arrays.push(row.get::<_, bool>(3));
        }
        let coordinator = catalog.client(NodeId::COORDINATOR).await?;
        let rows = coordinator.query(OWN_TYPES, &[&oids, &schemas, &names, &arrays]).await.map_err(pg_error)?;
        found.extend(rows.iter().map(|row| ((node, Named::Type, row.get(0)), row.get(1))));
    }
    Ok(found)
}

/// The schema whose shards' schema this is, or the schema itself.
fn users_schema<'s>(map: &ShardMap, schema: &'s str) -> &'s str {
    let shards = schema.rsplit_once('_').filter(|(_, digits)| {
        let group = digits.parse().map(ShardGroupId);
        group.is_ok_and(|group| map.colocations().any(|c| c.group(group).is_some()))
    });
    shards.map_or(schema, |(users, _)| users)
}

/// Every table that has the name of one of these.
const TABLES: &str = "SELECT c.oid, n.nspname::text, c.relname::text FROM pg_class c \
    JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relname IN (SELECT relname FROM pg_class WHERE oid = ANY ($1)) AND c.relkind IN ('r', 'p')";

/// Types by name; of arrays their elements' names, because their own are made up.
const TYPES: &str = "SELECT t.oid, n.nspname::text, coalesce(e.typname, t.typname)::text, e.oid IS NOT NULL \
    FROM pg_type t LEFT JOIN pg_type e ON e.typarray = t.oid \
    JOIN pg_namespace n ON n.oid = coalesce(e.typnamespace, t.typnamespace) WHERE t.oid = ANY ($1)";

const OWN_TYPES: &str = "SELECT w.oid, CASE WHEN w.is_array THEN t.typarray ELSE t.oid END \
    FROM unnest($1::oid[], $2::text[], $3::text[], $4::bool[]) AS w (oid, nspname, typname, is_array) \
    JOIN pg_namespace n ON n.nspname = w.nspname \
    JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = w.typname";

/// Source: PostgreSQL src/include/catalog/pg_type.dat.
const UNKNOWN_TYPE: u32 = 705;
