//! OIDs in what goes from one server to another: a worker's become the coordinator's, which is where drivers look them up,
//! and the other way round.
//!
//! ```text
//!   worker   T: public_102010.orders = 16999, mood = 16500      D: {16500: bad, good}
//!   client   T: public.orders        = 24601, mood = 16390      D: {16390: bad, good}
//! ```
//!
//! A table and its type have one name on every server and an OID of its own on each. What an OID of a worker means is
//! asked once, on control connections, for all shards of the table that are there. What nobody knows yet, because an open
//! transaction has made it, is told as no table (0) and as a value of unknown type, which drivers read as text.
//!
//! Binary values of arrays and composites name types too (`wire::nested_oids`). Of a type that is asked for, all that its
//! values may name become known with it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

use bytes::BytesMut;
use foldhash::HashMap;

use crate::catalog::{Catalog, pg_error};
use crate::error::Result;
use crate::shard_map::{NodeId, ShardGroupId, ShardMap, Table};
use crate::wire::frame::{self, HEADER_LEN};
use crate::wire::frontend::Bind;
use crate::wire::nested_oids::{Form, Look, Meaning, may_nest, replace_in_rows};
use crate::wire::rows::{FIRST_USER_OID, Named, nesting_columns, replace_user_oids};

/// What is known so far; each data thread asks for itself.
#[derive(Default)]
pub struct ObjectIds {
    known: RefCell<HashMap<(NodeId, Named, u32), u32>>,
    /// A node's type for one of the coordinator's.
    theirs: RefCell<HashMap<(NodeId, u32), u32>>,
    /// By the coordinator's OID.
    forms: RefCell<HashMap<u32, Form>>,
}

/// For each column what its values name types in.
pub type Forms = Rc<[Form]>;

/// From where to where a value goes. One of the two is the coordinator, or the client, who knows the coordinator's OIDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    From(NodeId),
    To(NodeId),
}

impl ObjectIds {
    /// Gives the RowDescription frame at `start` of `out`, which is whole and which `node` has sent, the coordinator's OIDs.
    /// Answers what the values of its columns name types in; `None` when they name none.
    pub async fn translate(&self, catalog: &Catalog, node: NodeId, out: &mut BytesMut, start: usize) -> Option<Forms> {
        if node.is_coordinator() {
            return None;
        }
        let Ok(Some(header)) = frame::header(&out[start..]) else { return None };
        let end = out.len().min(start + header.len);
        let (unknown, may_nest) = self.replace_known(node, &mut out[start + HEADER_LEN..end]);
        if !unknown.is_empty() {
            match Box::pin(self.ask(catalog, node, &unknown)).await {
                Ok(()) => {}
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
        // What was asked for above is known with its form.
        may_nest.then(|| self.known_forms(&nesting_columns(&out[start + HEADER_LEN..end]))).flatten()
    }

    /// Answers what is not known yet, and where it stands; and whether values of any column may name types.
    fn replace_known(&self, node: NodeId, payload: &mut [u8]) -> (Vec<(Named, u32, usize)>, bool) {
        let known = self.known.borrow();
        let mut unknown = Vec::new();
        let may_nest = replace_user_oids(payload, |named, oid, at| match known.get(&(node, named, oid)) {
            Some(own) => *own,
            None => {
                unknown.push((named, oid, at));
                nobodys(named)
            }
        });
        (unknown, may_nest)
    }

    /// Gives DataRow frames that `node` has sent, with columns of these forms, the coordinator's OIDs.
    pub async fn translate_rows(&self, catalog: &Catalog, node: NodeId, forms: &Forms, rows: &mut [u8]) {
        let way = Way::From(node);
        Box::pin(self.replace(catalog, way, |look| replace_in_rows(rows, forms, look))).await;
    }

    /// The parameters of these types of the coordinator, as `node` knows the types in them.
    pub async fn bind_for<'b>(&self, catalog: &Catalog, node: NodeId, bind: &'b Bind, types: &[u32]) -> Cow<'b, Bind> {
        if node.is_coordinator() || !types.iter().any(|oid| may_nest(*oid)) || bind.formats_are_text() {
            return Cow::Borrowed(bind);
        }
        let Some(forms) = Box::pin(self.forms(catalog, types)).await else { return Cow::Borrowed(bind) };
        let mut replaced = None;
        let replace = |look: &mut Look<'_>| replaced = Some(bind.with_nested_oids(&forms, look));
        Box::pin(self.replace(catalog, Way::To(node), replace)).await;
        replaced.map_or(Cow::Borrowed(bind), Cow::Owned)
    }

    /// What values of these types of the coordinator name types in; `None` when they name none.
    pub async fn forms(&self, catalog: &Catalog, types: &[u32]) -> Option<Forms> {
        let is_unknown = |oid: &&u32| **oid >= FIRST_USER_OID && !self.forms.borrow().contains_key(*oid);
        let unknown: Vec<u32> = types.iter().filter(is_unknown).copied().collect();
        if !unknown.is_empty()
            && let Err(error) = self.learn(catalog, Way::To(NodeId::COORDINATOR), &unknown).await
        {
            tracing::warn!(%error, "could not ask what types are made of");
        }
        self.known_forms(types)
    }

    /// The same for columns of a table, by name.
    pub async fn forms_of_columns(&self, catalog: &Catalog, table: &Table, columns: &[String]) -> Option<Forms> {
        let type_of = |name: &String| table.columns.iter().find(|c| c.name == *name).map_or(0, |c| c.type_oid);
        self.forms(catalog, &columns.iter().map(type_of).collect::<Vec<_>>()).await
    }

    fn known_forms(&self, types: &[u32]) -> Option<Forms> {
        let forms = self.forms.borrow();
        let form = |oid: &u32| forms.get(oid).copied().unwrap_or_else(|| Form::of_builtin(*oid));
        let forms: Forms = types.iter().map(form).collect();
        forms.iter().any(|form| *form != Form::Plain).then_some(forms)
    }

    /// Has `walk` replace the OIDs that it finds. It is called until it finds none that is not known, and once more.
    pub async fn replace(&self, catalog: &Catalog, way: Way, mut walk: impl FnMut(&mut Look<'_>)) {
        for _ in 0..ASKED_MAX {
            let mut unknown = Vec::new();
            walk(&mut |oid| {
                let form = self.meaning(way, oid).map(|meaning| meaning.form);
                if form.is_none() && !unknown.contains(&oid) {
                    unknown.push(oid);
                }
                Meaning { oid, form: form.unwrap_or_default() }
            });
            if unknown.is_empty() {
                break;
            }
            match self.learn(catalog, way, &unknown).await {
                Ok(()) if unknown.iter().any(|oid| self.meaning(way, *oid).is_some()) => {}
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, ?way, "could not ask what the OIDs of a node mean");
                    break;
                }
            }
        }
        walk(&mut |oid| {
            let unknown = match way {
                Way::From(_) => UNKNOWN_TYPE,
                Way::To(_) => oid,
            };
            self.meaning(way, oid).unwrap_or(Meaning { oid: unknown, form: Form::Plain })
        });
    }

    fn meaning(&self, way: Way, oid: u32) -> Option<Meaning> {
        let (other, own) = match way {
            Way::From(node) => {
                let own = *self.known.borrow().get(&(node, Named::Type, oid))?;
                (own, own)
            }
            Way::To(node) => (*self.theirs.borrow().get(&(node, oid))?, oid),
        };
        Some(Meaning { oid: other, form: self.forms.borrow().get(&own).copied().unwrap_or_default() })
    }

    async fn ask(&self, catalog: &Catalog, node: NodeId, unknown: &[(Named, u32, usize)]) -> Result<()> {
        let of = |kind| unknown.iter().filter(|(named, ..)| *named == kind).map(|(_, oid, _)| *oid).collect::<Vec<_>>();
        let (tables, types) = (of(Named::Table), of(Named::Type));
        if !tables.is_empty() {
            let worker = catalog.client(node).await?;
            let map = catalog.map();
            for row in worker.query(TABLES, &[&tables]).await.map_err(pg_error)? {
                let (oid, schema, name) = (row.get(0), row.get::<_, String>(1), row.get::<_, String>(2));
                if let Some(table) = map.table(users_schema(&map, &schema), &name) {
                    self.known.borrow_mut().insert((node, Named::Table, oid), table.oid.0);
                }
            }
        }
        if !types.is_empty() {
            self.learn(catalog, Way::From(node), &types).await?;
        }
        Ok(())
    }

    /// Types of where a value comes from, with all that their values may name: what they are where it goes to.
    async fn learn(&self, catalog: &Catalog, way: Way, types: &[u32]) -> Result<()> {
        let (here, there, node) = match way {
            Way::From(node) => (node, NodeId::COORDINATOR, node),
            Way::To(node) => (NodeId::COORDINATOR, node, node),
        };
        let map = catalog.map();
        let (mut oids, mut schemas, mut names, mut arrays) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut found_forms = HashMap::default();
        for row in catalog.client(here).await?.query(TYPES, &[&types]).await.map_err(pg_error)? {
            let oid: u32 = row.get(0);
            oids.push(oid);
            schemas.push(users_schema(&map, row.get(1)).to_owned());
            names.push(row.get::<_, String>(2));
            arrays.push(row.get::<_, bool>(3));
            found_forms.insert(oid, form_of(row.get(4)));
        }
        if here == there {
            self.forms.borrow_mut().extend(found_forms);
            return Ok(());
        }
        let other = catalog.client(there).await?;
        let rows = other.query(TYPES_THERE, &[&oids, &schemas, &names, &arrays]).await.map_err(pg_error)?;
        let (mut known, mut theirs, mut forms) =
            (self.known.borrow_mut(), self.theirs.borrow_mut(), self.forms.borrow_mut());
        for row in rows {
            let (oid, other): (u32, u32) = (row.get(0), row.get(1));
            let (own, of_node) = if here.is_coordinator() { (oid, other) } else { (other, oid) };
            known.insert((node, Named::Type, of_node), own);
            theirs.insert((node, own), of_node);
            forms.insert(own, found_forms.get(&oid).copied().unwrap_or_default());
        }
        Ok(())
    }
}

/// Of a `pg_type.typcategory`; a domain has its base type's.
fn form_of(category: &str) -> Form {
    match category {
        "A" => Form::Array,
        "C" => Form::Composite,
        _ => Form::Plain,
    }
}

/// What is told of an object that the coordinator does not have.
fn nobodys(named: Named) -> u32 {
    match named {
        Named::Table => 0,
        Named::Type => UNKNOWN_TYPE,
    }
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

/// Types, and those of their elements and fields, by name; of arrays their elements' names, because their own are made up.
const TYPES: &str = "WITH RECURSIVE named (oid) AS ( \
        SELECT * FROM unnest($1::oid[]) UNION \
        SELECT inner_type.oid FROM named JOIN pg_type t ON t.oid = named.oid CROSS JOIN LATERAL ( \
            SELECT t.typelem UNION ALL SELECT t.typbasetype \
            UNION ALL SELECT a.atttypid FROM pg_attribute a \
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS inner_type (oid) \
        WHERE inner_type.oid >= 16384) \
    SELECT t.oid, n.nspname::text, coalesce(e.typname, t.typname)::text, e.oid IS NOT NULL, t.typcategory::text \
    FROM named JOIN pg_type t ON t.oid = named.oid LEFT JOIN pg_type e ON e.typarray = t.oid \
    JOIN pg_namespace n ON n.oid = coalesce(e.typnamespace, t.typnamespace)";

const TYPES_THERE: &str = "SELECT h.oid, CASE WHEN h.is_array THEN t.typarray ELSE t.oid END \
    FROM unnest($1::oid[], $2::text[], $3::text[], $4::bool[]) AS h (oid, nspname, typname, is_array) \
    JOIN pg_namespace n ON n.nspname = h.nspname \
    JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = h.typname";

/// Source: PostgreSQL src/include/catalog/pg_type.dat.
const UNKNOWN_TYPE: u32 = 705;
/// An anonymous record may name types that nothing tells of before it is seen, and these others.
const ASKED_MAX: usize = 8;
