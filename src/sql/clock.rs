//! How long the analysis of one statement may take, in CPU time of its thread: while it lasts, that thread's other clients wait.
//!
//! Time is looked at after so much work, by the parser at each operand (`Clocked`), later wherever work grows faster than
//! the text: names looked up in many relations, facts gathered over many joins. What is found after the end is worth
//! nothing, so who began asks `is_over` last.

use std::any::TypeId;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sqlparser::ast::Expr;
use sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};

use crate::error::{PgError, SqlState};

/// Shared by all that work on one statement; of one thread.
#[derive(Debug, Clone)]
pub struct Clock(Rc<State>);

#[derive(Debug)]
struct State {
    limit: Duration,
    end: Duration,
    work: Cell<usize>,
    is_over: Cell<bool>,
}

impl Clock {
    pub fn start(limit: Duration) -> Self {
        let state =
            State { limit, end: thread_time() + limit, work: Cell::new(WORK_UNSEEN), is_over: Cell::new(false) };
        Self(Rc::new(state))
    }

    /// Notes work, in looks at one name or fact; is the time over?
    pub fn spend(&self, work: usize) -> bool {
        let State { work: left, is_over, end, .. } = &*self.0;
        match left.get().checked_sub(work) {
            Some(rest) => left.set(rest),
            None => {
                left.set(WORK_UNSEEN);
                is_over.set(is_over.get() || thread_time() >= *end);
            }
        }
        is_over.get()
    }

    pub fn is_over(&self) -> bool {
        self.0.is_over.get()
    }

    /// 54001.
    pub fn error(&self) -> PgError {
        PgError::new(SqlState::STATEMENT_TOO_COMPLEX, "statement is too complex")
            .detail(format!("Its analysis takes longer than {} ms.", self.0.limit.as_millis()))
            .hint("Split the statement, or raise limits.parse_time.")
    }
}

/// So much is done between two looks at the time: some tens of microseconds.
const WORK_UNSEEN: usize = 4096;

/// What one operand costs the parser, in looks at a name.
const OPERAND_WORK: usize = 32;

/// CPU time, so that a machine with much else to do refuses nothing.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The crate's dialect of Postgres, whose operands are counted.
#[derive(Debug)]
pub struct Clocked(pub Clock);

macro_rules! as_in_postgres {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $result {
            PostgreSqlDialect {}.$name($($argument),*)
        })*
    };
}

/// Every method that `PostgreSqlDialect` has of its own.
impl Dialect for Clocked {
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn parse_prefix(&self, _: &mut Parser) -> Option<Result<Expr, ParserError>> {
        // The one error that no attempt at another reading swallows.
        self.0.spend(OPERAND_WORK).then_some(Err(ParserError::RecursionLimitExceeded))
    }

    as_in_postgres! {
        identifier_quote_style(identifier: &str) -> Option<char>;
        is_delimited_identifier_start(ch: char) -> bool;
        is_identifier_start(ch: char) -> bool;
        is_identifier_part(ch: char) -> bool;
        supports_unicode_string_literal() -> bool;
        is_reserved_for_identifier(kw: Keyword) -> bool;
        is_table_alias(kw: &Keyword, parser: &mut Parser) -> bool;
        is_custom_operator_part(ch: char) -> bool;
        get_next_precedence(parser: &Parser) -> Option<Result<u8, ParserError>>;
        supports_filter_during_aggregation() -> bool;
        supports_group_by_expr() -> bool;
        supports_alter_user_as_alter_role() -> bool;
        prec_value(prec: Precedence) -> u8;
        allow_extract_custom() -> bool;
        allow_extract_single_quotes() -> bool;
        supports_create_index_with_clause() -> bool;
        supports_explain_with_utility_options() -> bool;
        supports_listen_notify() -> bool;
        supports_exclude_constraint() -> bool;
        supports_factorial_operator() -> bool;
        supports_bitwise_shift_operators() -> bool;
        supports_comment_on() -> bool;
        supports_load_extension() -> bool;
        supports_named_fn_args_with_colon_operator() -> bool;
        supports_named_fn_args_with_expr_name() -> bool;
        supports_empty_projections() -> bool;
        supports_nested_comments() -> bool;
        supports_string_escape_constant() -> bool;
        supports_numeric_literal_underscores() -> bool;
        supports_array_typedef_with_brackets() -> bool;
        supports_geometric_types() -> bool;
        supports_order_by_using_operator() -> bool;
        supports_set_names() -> bool;
        supports_alter_column_type_using() -> bool;
        supports_left_associative_joins_without_parens() -> bool;
        supports_notnull_operator() -> bool;
        supports_interval_options() -> bool;
        supports_insert_table_alias() -> bool;
        supports_create_table_like_parenthesized() -> bool;
        supports_select_wildcard_with_alias() -> bool;
        supports_comma_separated_trim() -> bool;
        supports_xml_expressions() -> bool;
        supports_aliased_function_args() -> bool;
        supports_comment_optimizer_hint() -> bool;
    }
}
