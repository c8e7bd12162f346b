//! Plans a shape: a statement whose constants are not looked at.
//!
//! ```text
//!   text    SELECT * FROM orders WHERE tenant_id = 42 AND state = 'new'
//!   tokens  SELECT * FROM orders WHERE tenant_id = $?  AND state = $?       literal n is parameter FIRST_LIFTED + n
//! ```
//!
//! The planner sees parameters where the text has literals, so its plan cannot depend on their values: it holds for
//! every text with the same `sql::skeleton` key. What leans on a literal (`IN ('{1,2}')`, GROUP BY 1, a typed constant)
//! is not proved this way, and such statements are planned text by text.

use crate::sql::Operand;
use crate::sql::lexer::{TokenKind, lex};
use crate::sql::skeleton::{LITERALS_MAX, is_literal};

use super::parameters::parameter_types;
use super::{Context, Mode, Plan, function_call, is_small, plan_utility, query, unsupported};

/// Literals take the parameter numbers from here on. A statement that uses these itself has no shape.
const FIRST_LIFTED: u16 = 0x8000;

/// Of all texts with one skeleton.
pub struct ShapePlan {
    pub plan: Plan,
    /// See `parameters::parameter_types`.
    pub parameter_types: Option<Vec<u32>>,
}

/// The plan of all texts with `text`'s skeleton: a router or an insert plan whose tenants are `Operand::Lifted` or
/// NULL. `None`: not provable, plan each text by itself.
///
/// Of an insert plan only the table, the tenants and `query` are meant; its rows' texts are those of `text`.
pub fn plan_shape(text: &str, ctx: &Context<'_>) -> Option<ShapePlan> {
    let as_written = lex(text, ctx.standard_conforming_strings).ok()?;
    let mut tokens = as_written.clone();
    if !is_small(text, &tokens) {
        return None;
    }
    // Looks into the tokens as they are, and at statements inside statements: not for shapes.
    let no_query = &|_: &str| Err(unsupported::cannot_analyse("a statement inside a shape"));
    if plan_utility(text, &tokens, ctx, no_query).is_some()
        || function_call::plan_function_call(text, &tokens, ctx).is_some()
    {
        return None;
    }
    let mut literals = 0;
    for token in &mut tokens {
        match token.kind {
            TokenKind::Param(n) if n >= FIRST_LIFTED => return None,
            kind if is_literal(kind) => {
                token.kind = TokenKind::Param(FIRST_LIFTED + literals);
                literals += 1;
                if literals as usize > LITERALS_MAX {
                    return None;
                }
            }
            _ => {}
        }
    }
    let mut plan = query::plan_statement(text, &tokens, ctx, Mode::Any).ok()?;
    let lifted = match &mut plan {
        Plan::Router(router) => router.operands.iter_mut().all(lift),
        Plan::Insert(insert) => insert.rows.iter_mut().all(|row| lift(&mut row.tenant)),
        _ => false,
    };
    let parameter_types = parameter_types(text, &as_written, &plan);
    lifted.then_some(ShapePlan { plan, parameter_types })
}

/// False for what is neither lifted nor NULL.
fn lift(operand: &mut Operand) -> bool {
    match *operand {
        Operand::Param(n) if n >= FIRST_LIFTED => {
            *operand = Operand::Lifted { literal: n - FIRST_LIFTED, negative: false };
            true
        }
        Operand::Null => true,
        _ => false,
    }
}
