//! Plans by text, for one data thread. A plan is good for one map version and one search_path.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;

use super::statement::Parsed;
use crate::error::Result;
use crate::planner::{self, Context, Mode, Plan};
use crate::tally::Lookups;

/// By text.
type Plans = HashMap<Box<str>, (Made, Rc<Plan>)>;
/// By text, parameter types, search_path, columns and settings: types of parameters are inferred once, from the names and
/// columns found then, and constants are read once.
type StatementIds = HashMap<(Box<str>, Vec<u32>, Vec<String>, u64, Box<str>), u64>;

#[derive(Default)]
pub struct PlanCache {
    /// By the whole text of a Parse, as it came.
    parsed: RefCell<HashMap<Box<str>, (Made, Parsed)>>,
    plans: RefCell<Plans>,
    statements: RefCell<StatementIds>,
    next_statement: std::cell::Cell<u64>,
    lookups: Arc<Lookups>,
}

/// What a plan was made for.
struct Made {
    version: u64,
    search_path: Vec<String>,
}

impl Made {
    fn of(context: &Context<'_>) -> Self {
        Self { version: context.map.version(), search_path: context.search_path.to_vec() }
    }

    fn fits(&self, context: &Context<'_>) -> bool {
        self.version == context.map.version() && self.search_path == context.search_path
    }
}

impl PlanCache {
    /// An empty one that counts its hits there.
    pub fn counted(lookups: Arc<Lookups>) -> Self {
        Self { lookups, ..Self::default() }
    }

    /// The plan of a statement that was planned before.
    pub fn known(&self, text: &str, context: &Context<'_>) -> Option<Rc<Plan>> {
        let plans = self.plans.borrow();
        let (_, plan) = plans.get(text).filter(|(made, _)| made.fits(context))?;
        self.lookups.note(true);
        Some(plan.clone())
    }

    /// The plan of a statement: cached, or made now.
    pub fn plan(&self, text: &str, context: &Context<'_>) -> Result<Rc<Plan>> {
        if let Some(plan) = self.known(text, context) {
            return Ok(plan);
        }
        self.lookups.note(false);
        let plan = Rc::new(planner::plan(text, context, Mode::Any)?);
        if text.len() <= MAX_TEXT_LEN {
            let mut plans = self.plans.borrow_mut();
            if plans.len() >= MAX_PLANS {
                plans.clear();
            }
            plans.insert(text.into(), (Made::of(context), plan.clone()));
        }
        Ok(plan)
    }

    /// The statement of a Parse that came before with these types.
    pub fn parsed(&self, text: &str, types: &[u32], context: &Context<'_>) -> Option<Parsed> {
        let known = self.parsed.borrow();
        let (made, parsed) = known.get(text)?;
        let is_hit = made.fits(context) && *parsed.types == *types;
        // What is no hit here is looked up by its statement's own text.
        is_hit.then(|| {
            self.lookups.note(true);
            if let Some(unnamed) = &parsed.unnamed {
                unnamed.note_again();
            }
            parsed.clone()
        })
    }

    /// Remembers what the Parse of `text` gave.
    pub fn keep_parsed(&self, text: &str, parsed: &Parsed, context: &Context<'_>) {
        if text.len() > MAX_TEXT_LEN {
            return;
        }
        let mut known = self.parsed.borrow_mut();
        if known.len() >= MAX_PLANS {
            known.clear();
        }
        known.insert(text.into(), (Made::of(context), parsed.clone()));
    }

    /// One number for each text, parameter types, search_path, columns (`Session::columns_for`) and settings: what servers'
    /// prepared statements are named after.
    pub fn statement_id(&self, text: &str, types: &[u32], search_path: &[String], columns: u64, settings: &str) -> u64 {
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= MAX_PLANS {
            // Numbers are never used twice, so servers cannot confuse an old statement with a new one.
            statements.clear();
        }
        *statements
            .entry((text.into(), types.to_vec(), search_path.to_vec(), columns, settings.into()))
            .or_insert_with(|| self.fresh_number())
    }

    /// A number that no statement has had.
    pub fn fresh_number(&self) -> u64 {
        self.next_statement.set(self.next_statement.get() + 1);
        self.next_statement.get()
    }
}

const MAX_PLANS: usize = 10_000;
const MAX_TEXT_LEN: usize = 16 * 1024;
