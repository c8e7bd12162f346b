//! Chooses the plan of a statement that names relations: which shards, and who does what.
//!
//!   one tenant? ──> router      all follow one column? ──> scatter, combine      else, reading ──> pull

use std::sync::Arc;

use crate::error::PgError;
use crate::shard_map::Table;
use crate::sql::clock::Clock;
use crate::sql::lexer::{Token, fold};
use crate::sql::parse::{ParseFailure, parse};
use crate::sql::restriction::values_in_scope;
use crate::sql::scope::{Meaning, Node};
use crate::sql::tree::{Body, Distinct, Item, Name, Select};
use crate::sql::{Access, Operand, Spliced};

use super::inline::{inline_needs, inline_splices};
use super::names::{coordinator, names_managed_table};
use super::session_effects::with_session_effects;
use super::statement::{Statement, is_row_expression, is_stored_as_written, meaning};
use super::{Context, Coordinator, Mode, Plan, Router, Scatter, functions, unsupported};
use super::{combine, computed, defaults, insert, modify, pull, shadowing};

/// Plans SELECT, VALUES, TABLE, INSERT, UPDATE, DELETE, MERGE.
pub(super) fn plan_statement(text: &str, tokens: &[Token], ctx: &Context<'_>, mode: Mode) -> Result<Plan, PgError> {
    let clock = Clock::start(ctx.complexity.time);
    let meaning = |name: &[Name]| meaning(ctx, name);
    let planned = parse(text, tokens, &ctx.complexity, &clock).and_then(|tree| {
        let in_time = || if clock.is_over() { Err(ParseFailure::TooComplex(clock.error())) } else { Ok(()) };
        let statement = Statement::new(text, tokens, ctx, mode, &tree, &meaning, &clock);
        in_time()?;
        let plan = statement.plan();
        in_time().map(|()| plan)
    });
    match planned {
        Ok(plan) => plan,
        Err(ParseFailure::TooComplex(error)) if names_managed_table(text, tokens, ctx).is_some() => Err(error),
        Err(ParseFailure::NotUnderstood(construct)) if names_managed_table(text, tokens, ctx).is_some() => {
            Err(unsupported::cannot_analyse(&construct))
        }
        Err(_) => {
            let query = Spliced::new(text, inline_splices(text, tokens, ctx));
            let plan = Coordinator { query, needs: inline_needs(text, tokens, ctx), ..unread(text, tokens) };
            let reads = plan.access == Access::Read;
            with_session_effects(text, tokens, reads, plan).map(Plan::from)
        }
    }
}

/// Nothing managed is named: the coordinator reads it, nobody here can.
fn unread(text: &str, tokens: &[Token]) -> Coordinator {
    let reads = tokens
        .first()
        .is_some_and(|t| ["select", "values", "table"].iter().any(|k| crate::sql::lexer::is_keyword(text, t, k)));
    Coordinator {
        access: if reads { Access::Read } else { Access::Write },
        returns_rows: reads || tokens.iter().any(|t| crate::sql::lexer::is_keyword(text, t, "returning")),
        ..coordinator(text)
    }
}

impl Statement<'_> {
    fn plan(&self) -> Result<Plan, PgError> {
        defaults::check_identities(self)?;
        if self.distributed().next().is_none() {
            return self.plan_undistributed();
        }
        self.refuse_effects()?;
        if self.calls_inline() {
            return self.plan_with_inline();
        }
        if let Body::Insert(i) = &self.tree.body {
            return insert::plan(self, i);
        }
        if let Some(router) = self.plan_router() {
            modify::refuse_tenant_change(self)?;
            return Ok(router);
        }
        if self.tokens.iter().any(|t| t.is_identifier() && fold(self.text, t) == "tableoid") {
            return Err(unsupported::table_oid());
        }
        match &self.tree.body {
            Body::Insert(_) | Body::Update(_) | Body::Delete(_) | Body::Merge(_) => modify::plan(self),
            Body::Select(_) | Body::Query(_) | Body::Set { .. } | Body::Values(_) => self.plan_select(),
        }
    }

    /// Workers don't have the functions that Tenantry lends, so the rows go to them.
    fn plan_with_inline(&self) -> Result<Plan, PgError> {
        if self.locks_rows() {
            return Err(unsupported::locks_many());
        }
        if self.relations.iter().any(|r| r.is_target && !matches!(r.meaning, Meaning::Local)) {
            return Err(unsupported::lent_function());
        }
        pull::plan(self)
    }

    pub fn plan_router(&self) -> Option<Plan> {
        let operands = self.router_operands()?;
        // Tried already, and the operands lie in several shard groups.
        if self.mode == Mode::ManyShards {
            return None;
        }
        if self.relations.iter().any(|r| r.is_target && matches!(r.meaning, Meaning::Reference(_))) {
            return None;
        }
        if !self.stores_as_written(&operands) {
            return None;
        }
        Some(Plan::Router(Router {
            colocation: self.colocation()?,
            operands,
            query: self.sharded(),
            access: self.access(),
            locks_rows: self.locks_rows(),
            returns_rows: self.returns_rows(),
            one_row_of: self.one_row_of(),
        }))
    }

    /// The table, where it reads or writes one only, and of that the row that a unique key names.
    fn one_row_of(&self) -> Option<Arc<Table>> {
        let ([relation], Some(scope)) = (&self.relations[..], self.scope()) else { return None };
        let Meaning::Distributed(table) = &relation.meaning else { return None };
        let reads_only_it = match &scope.from {
            Node::Product(nodes) => matches!(nodes[..], [Node::Relation(_)]),
            node => matches!(node, Node::Relation(_)),
        };
        if !reads_only_it {
            return None;
        }
        let builder = self.builder.borrow();
        let is_given = |column: &usize| {
            let values = builder.column_of(0, *column).and_then(|var| values_in_scope(&builder, scope, var));
            values.is_some_and(|values| values.len() == 1)
        };
        table.unique_keys.iter().any(|key| key.iter().all(is_given)).then(|| table.clone())
    }

    /// Rows that INSERT ... SELECT and MERGE make: is their distribution column what the operands say, or may it be cut or
    /// rounded to the column's type modifier first?
    fn stores_as_written(&self, operands: &[Operand]) -> bool {
        if !matches!(self.tree.body, Body::Insert(_) | Body::Merge(_)) {
            return true;
        }
        let targets = self.distributed().filter(|(i, _)| self.relations[*i].is_target);
        targets.map(|(_, table)| table).all(|table| operands.iter().all(|o| is_stored_as_written(table, o)))
    }

    fn plan_undistributed(&self) -> Result<Plan, PgError> {
        if self.relations.iter().any(|r| r.is_target && matches!(r.meaning, Meaning::Reference(_))) {
            return modify::plan_reference(self);
        }
        let into = matches!(&self.tree.body, Body::Select(s) if s.into);
        if into {
            shadowing::refuse_into(self.text, self.tokens, self.ctx)?;
        }
        let plan = Coordinator {
            query: Spliced::new(self.text, self.coordinator_splices()),
            access: if into { Access::Write } else { self.access() },
            returns_rows: self.returns_rows(),
            pins: into,
            changes_schema: into,
            needs: self.needs(),
            ..coordinator("")
        };
        with_session_effects(self.text, self.tokens, !self.writes() && !into, plan).map(Plan::from)
    }

    /// Effects that must not happen on a shard, or on several.
    fn refuse_effects(&self) -> Result<(), PgError> {
        for name in self.calls() {
            if functions::binds_session(&name) || functions::locks_for_transaction(&name) {
                return Err(unsupported::session_function(&name));
            }
            if functions::uses_sequence(&name) && !(name == "nextval" && computed::draws_in_values(self)) {
                return Err(unsupported::sequence_function(&name));
            }
            if name == "pg_prepared_statement" {
                return Err(unsupported::servers_statements(&name));
            }
        }
        if matches!(&self.tree.body, Body::Select(s) if s.into) {
            return Err(unsupported::select_into());
        }
        Ok(())
    }

    fn plan_select(&self) -> Result<Plan, PgError> {
        if self.locks_rows() {
            return Err(unsupported::locks_many());
        }
        if self.relations.iter().any(|r| r.is_target) {
            return Err(unsupported::write_in_cte());
        }
        if let (Body::Select(select), Some(scope)) = (&self.tree.body, self.scope())
            && let Some(anchor) = self.pushdown_anchor(scope)
        {
            let shards = self.shards(scope, anchor);
            if self.is_plain(select)
                && let Some(colocation) = self.colocation()
            {
                return Ok(Plan::Scatter(Scatter {
                    colocation,
                    shards,
                    query: self.sharded(),
                    access: Access::Read,
                    returns_rows: true,
                }));
            }
            if let Some(plan) = combine::plan(self, select, scope, anchor, &shards) {
                return Ok(plan);
            }
        }
        pull::plan(self)
    }

    /// Rows of the shards, put one behind the other, are the result.
    fn is_plain(&self, s: &Select) -> bool {
        let q = self.tree;
        !q.is_limited
            && q.order_by.is_empty()
            && matches!(s.distinct, Distinct::No)
            && s.group_by.is_empty()
            && !s.has_grouping_sets
            && s.having.is_none()
            && !s.into
            && s.items.iter().all(|i| match i {
                Item::Expr { expr, .. } => is_row_expression(expr),
                _ => true,
            })
    }
}
