//! Plans by text, for one data thread. A plan is good for one map version and one search_path.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::error::Result;
use crate::planner::{self, Context, Mode, Plan};

#[derive(Default)]
pub struct PlanCache {
    plans: RefCell<HashMap<Box<str>, Cached>>,
    statements: RefCell<HashMap<(Box<str>, Vec<u32>), u64>>,
    next_statement: std::cell::Cell<u64>,
}

struct Cached {
    version: u64,
    search_path: Vec<String>,
    plan: Rc<Plan>,
}

impl PlanCache {
    /// The plan of a statement: cached, or made now.
    pub fn plan(&self, text: &str, context: &Context<'_>) -> Result<Rc<Plan>> {
        let version = context.map.version();
        if let Some(cached) = self.plans.borrow().get(text)
            && cached.version == version
            && cached.search_path == context.search_path
        {
            return Ok(cached.plan.clone());
        }
        let plan = Rc::new(planner::plan(text, context, Mode::Any)?);
        if text.len() <= MAX_TEXT_LEN {
            let mut plans = self.plans.borrow_mut();
            if plans.len() >= MAX_PLANS {
                plans.clear();
            }
            let search_path = context.search_path.to_vec();
            plans.insert(text.into(), Cached { version, search_path, plan: plan.clone() });
        }
        Ok(plan)
    }

    /// One number for each text and parameter types: what servers' prepared statements are named after.
    pub fn statement_id(&self, text: &str, types: &[u32]) -> u64 {
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= MAX_PLANS {
            // Numbers are never used twice, so servers cannot confuse an old statement with a new one.
            statements.clear();
        }
        *statements.entry((text.into(), types.to_vec())).or_insert_with(|| {
            self.next_statement.set(self.next_statement.get() + 1);
            self.next_statement.get()
        })
    }
}

const MAX_PLANS: usize = 10_000;
const MAX_TEXT_LEN: usize = 16 * 1024;
