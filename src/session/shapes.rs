//! Routes of the simple protocol by shape, for one data thread: a text that differs from an earlier one only in its
//! literals and comments is not analysed again.
//!
//! ```text
//!   text ──scan──> skeleton ──key──> Shape: which literals are tenants, where names are spliced
//!                     └─literals──> values ──hash──> one shard group? ──> the text with its splices
//! ```
//!
//! Whatever is not certain here (several groups, a value that is not hashed alike everywhere, no proof) is left to the
//! planner. A shape is good for one map version and one search_path.

mod kept;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;

use crate::executor::Use;
use crate::executor::loads::{Meter, Sighting};
use crate::planner::{Context, Plan, ShapePlan, plan_shape};
use crate::shard_map::{ColocationId, HashType, ShardGroupId};
use crate::sql::lexer::TokenKind;
use crate::sql::skeleton::{Skeleton, literal_value, shift};
use crate::sql::{Access, Operand, Spliced};
use crate::tally::Lookups;
use crate::wire::frontend::Bind;

pub use kept::{Keep, KeptShape};

/// Where one text goes.
#[derive(Debug)]
pub struct Route {
    pub colocation: ColocationId,
    pub group: ShardGroupId,
    pub query: Spliced,
    /// `Plan::kind`.
    pub kind: usize,
    /// Nothing is written; rows may be locked.
    pub is_read: bool,
    /// `Plan::only_reads`.
    pub only_reads: bool,
}

#[derive(Default)]
pub struct Shapes {
    known: RefCell<HashMap<Box<[u8]>, Known>>,
    /// The text at hand; kept for its buffers.
    scanned: RefCell<Skeleton>,
    lookups: Arc<Lookups>,
}

struct Known {
    version: u64,
    search_path: Vec<String>,
    /// None: texts of this shape are planned one by one.
    shape: Option<Shape>,
}

struct Shape {
    colocation: ColocationId,
    hash: HashType,
    used: Use,
    /// Indexes of the literals that are tenants.
    tenants: Vec<u16>,
    query: Spliced,
    skeleton: Skeleton,
    kind: usize,
    is_read: bool,
    only_reads: bool,
    kept: Option<Rc<KeptShape>>,
}

/// The statement that servers keep, and its values; none where the text goes as it is.
pub type Bound = Option<(Rc<KeptShape>, Bind)>;

/// Who asks for a route.
pub struct Asking<'a> {
    /// The tenants that the text names are shown to it.
    pub meter: &'a Meter,
    pub sighting: &'a mut Sighting,
    pub keep: Keep,
}

impl Shapes {
    /// An empty one that counts its hits there.
    pub fn counted(lookups: Arc<Lookups>) -> Self {
        Self { lookups, ..Self::default() }
    }

    /// Where a text of one statement goes; `None`: ask the planner.
    pub fn route(&self, text: &str, context: &Context<'_>) -> Option<Route> {
        let (meter, sighting) = (&Meter::default(), &mut Sighting::default());
        Some(self.route_for(text, context, &mut Asking { meter, sighting, keep: Keep::Nothing })?.0)
    }

    /// As `route`. Where servers keep it, its query has parameters, which are bound to these values.
    pub fn route_for(&self, text: &str, context: &Context<'_>, asking: &mut Asking<'_>) -> Option<(Route, Bound)> {
        let mut scanned = self.scanned.borrow_mut();
        if !context.standard_conforming_strings || !scanned.scan(text) {
            return None;
        }
        let mut known = self.known.borrow_mut();
        let version = context.map.version();
        if let Some(known) = known.get(scanned.key())
            && known.version == version
            && known.search_path == context.search_path
        {
            let route = known.shape.as_ref().and_then(|shape| shape.route(text, &scanned, context, asking));
            self.lookups.note(route.is_some());
            return route;
        }
        self.lookups.note(false);
        if known.len() >= MAX_SHAPES {
            known.clear();
        }
        let shape = Shape::new(text, &scanned, context);
        let route = shape.as_ref().and_then(|shape| shape.route(text, &scanned, context, asking));
        known.insert(scanned.key().into(), Known { version, search_path: context.search_path.to_vec(), shape });
        route
    }
}

impl Shape {
    fn new(text: &str, skeleton: &Skeleton, context: &Context<'_>) -> Option<Self> {
        let ShapePlan { plan, parameter_types } = plan_shape(text, context)?;
        let (kind, only_reads) = (plan.kind(), plan.only_reads());
        let is_read = matches!(&plan, Plan::Router(router) if router.access == Access::Read);
        let (colocation, operands, used, query, returns_rows) = match plan {
            Plan::Router(router) => {
                (router.colocation, router.operands, Use::Compared, router.query, router.returns_rows)
            }
            // Refused where the planner's way is gone.
            Plan::Insert(insert) if insert.rows.iter().any(|row| row.tenant == Operand::Null) => return None,
            Plan::Insert(insert) => {
                let used = Use::stored_in(&insert.table);
                let operands = insert.rows.into_iter().map(|row| row.tenant).collect();
                (insert.table.colocation, operands, used, insert.query, insert.returns_rows)
            }
            _ => return None,
        };
        let hash = context.map.colocation(colocation)?.hash?;
        let mut tenants = Vec::with_capacity(operands.len());
        for operand in operands {
            match operand {
                Operand::Null => {}
                Operand::Lifted { literal, negative: false } => {
                    if !is_read_as(skeleton.literals().get(literal as usize)?.kind, hash) {
                        return None;
                    }
                    tenants.push(literal);
                }
                _ => return None,
            }
        }
        let kept = parameter_types.and_then(|types| KeptShape::new(text, skeleton, types, &query, returns_rows));
        Some(Self {
            colocation,
            hash,
            used,
            tenants,
            query,
            skeleton: skeleton.clone(),
            kind,
            is_read,
            only_reads,
            kept,
        })
    }

    fn route(
        &self,
        text: &str,
        scanned: &Skeleton,
        context: &Context<'_>,
        asking: &mut Asking<'_>,
    ) -> Option<(Route, Bound)> {
        let colocation = context.map.colocation(self.colocation)?;
        let mut target = None;
        for tenant in &self.tenants {
            let literal = literal_value(text, scanned.literals().get(*tenant as usize)?)?;
            let value = self.hash.read_stored_text(&literal, self.used.type_modifier())?;
            asking.meter.see(asking.sighting, self.colocation, self.hash, &value);
            let group = colocation.group_of(&value)?.id;
            if target.replace(group).is_some_and(|other| other != group) {
                return None;
            }
        }
        // Only NULLs: no row can match, any group says so.
        let group = target.or_else(|| colocation.shard_groups.first().map(|g| g.id))?;
        let bind = |kept: &Rc<KeptShape>| Some((kept.clone(), kept.bind(text, scanned, asking.keep)?));
        let bound = self.kept.as_ref().and_then(bind);
        let query = bound.as_ref().map_or(&self.query, |(kept, _)| &kept.query);
        let route = Route {
            colocation: self.colocation,
            group,
            query: shift(query, &self.skeleton, scanned, text),
            kind: self.kind,
            is_read: self.is_read,
            only_reads: self.only_reads,
        };
        Some((route, bound))
    }
}

/// Is such a literal, compared with or assigned to a column of the type, the value that the type's input function
/// makes of it? `text_column = 5` is no such case: Postgres refuses it, or prints the number in its own way.
fn is_read_as(literal: TokenKind, hash: HashType) -> bool {
    match literal {
        TokenKind::Integer => {
            matches!(hash, HashType::Int2 | HashType::Int4 | HashType::Int8 | HashType::Numeric)
        }
        TokenKind::String | TokenKind::EString | TokenKind::DollarString => {
            !matches!(hash, HashType::Float4 | HashType::Float8)
        }
        _ => false,
    }
}

const MAX_SHAPES: usize = 10_000;

#[cfg(test)]
mod tests;
