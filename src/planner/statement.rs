//! One analysed statement and what all its planners ask of it.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use crate::shard_map::{ColocationId, Table, TableKind};
use crate::sql::clock::Clock;
use crate::sql::facts::Var;
use crate::sql::lexer::{Token, fold};
use crate::sql::restriction::{all_follow, restrictions, values_in_scope};
use crate::sql::scope::{Builder, Meaning, QueryNode, Relation, ScopeNode};
use crate::sql::tree::{Body, Expr, Name, Query};
use crate::sql::{Access, Operand, Splice, Spliced, With};

use super::inline::{inline_needs, inline_splices};
use super::names::quote_identifier;
use super::{Context, Figures, Mode, Shards, functions};

/// Text, tree, relations and what is demanded of each.
pub(super) struct Statement<'a> {
    pub text: &'a str,
    pub tokens: &'a [Token],
    pub ctx: &'a Context<'a>,
    pub mode: Mode,
    pub tree: &'a Query,
    pub builder: RefCell<Builder<'a>>,
    pub root: QueryNode,
    pub relations: Vec<Relation>,
    /// By relation: values of the distribution column.
    pub restrictions: Vec<Option<Vec<Operand>>>,
}

/// What a relation's name means here.
pub(super) fn meaning(ctx: &Context<'_>, name: &[Name]) -> Meaning {
    let (schema, last) = match name {
        [name] => (None, name),
        [.., schema, name] => (Some(schema.value.as_str()), name),
        [] => return Meaning::Local,
    };
    if schema.is_none_or(|s| s == "pg_catalog") && ctx.provided.views.contains_key(last.value.as_str()) {
        return Meaning::View(last.value.clone());
    }
    let table = match schema {
        Some(schema) => ctx.map.table(schema, &last.value),
        None => ctx.map.resolve(ctx.search_path, &last.value),
    };
    match table {
        Some(table) if table.is_reference() => Meaning::Reference(table.clone()),
        Some(table) => Meaning::Distributed(table.clone()),
        None => Meaning::Local,
    }
}

impl<'a> Statement<'a> {
    pub fn new(
        text: &'a str,
        tokens: &'a [Token],
        ctx: &'a Context<'a>,
        mode: Mode,
        tree: &'a Query,
        meaning: &'a dyn Fn(&[Name]) -> Meaning,
        clock: &Clock,
    ) -> Self {
        let mut builder = Builder::new(meaning, clock.clone());
        let root = builder.query(tree);
        let restrictions = restrictions(&builder, &root);
        let mut relations = builder.relations.clone();
        for relation in &mut relations {
            relation.schema_prefixes.sort_unstable();
            relation.schema_prefixes.dedup();
        }
        Self { text, tokens, ctx, mode, tree, builder: RefCell::new(builder), root, relations, restrictions }
    }

    pub fn distributed(&self) -> impl Iterator<Item = (usize, &Arc<Table>)> {
        self.relations.iter().enumerate().filter_map(|(i, r)| match &r.meaning {
            Meaning::Distributed(table) => Some((i, table)),
            _ => None,
        })
    }

    pub fn has_local(&self) -> bool {
        self.relations.iter().any(|r| matches!(r.meaning, Meaning::Local | Meaning::View(_)))
    }

    /// The colocation group of all distributed relations, if it is one.
    pub fn colocation(&self) -> Option<ColocationId> {
        let mut ids = self.distributed().map(|(_, t)| t.colocation);
        let first = ids.next()?;
        ids.all(|id| id == first).then_some(first)
    }

    /// Operands of a router plan; `None` unless every distributed relation is restricted and all live together.
    pub fn router_operands(&self) -> Option<Vec<Operand>> {
        if self.has_local() || self.colocation().is_none() {
            return None;
        }
        let mut operands: Vec<Operand> = Vec::new();
        let mut last: Option<(&Vec<Operand>, &Arc<Table>)> = None;
        for (i, table) in self.distributed() {
            let restriction = self.restrictions[i].as_ref()?;
            // Joined on it: each occurrence has the same.
            if last.replace((restriction, table)) == Some((restriction, table)) {
                continue;
            }
            for operand in restriction {
                let operand = fitting(operand, table);
                // Equal ones are dropped from short lists; long ones are hashed one by one anyway.
                if operands.len() > 100 || !operands.contains(&operand) {
                    operands.push(operand);
                }
            }
        }
        Some(operands)
    }

    /// The statement's own scope, if it has one: a plain SELECT, UPDATE or DELETE.
    pub fn scope(&self) -> Option<&ScopeNode> {
        match &self.root.scopes[..] {
            [scope] if self.root.nested.is_empty() => Some(scope),
            _ => None,
        }
    }

    /// The column by whose shard group the rows of `scope` are split, when every distributed relation follows it.
    pub fn pushdown_anchor(&self, scope: &ScopeNode) -> Option<Var> {
        if self.has_local() || self.colocation().is_none() {
            return None;
        }
        let builder = self.builder.borrow();
        // A CTE that nothing restricts from outside still has to be computed whole.
        builder.anchors_of(scope).into_iter().find(|&var| all_follow(&builder, &self.root, scope, var, None))
    }

    pub fn shards(&self, scope: &ScopeNode, anchor: Var) -> Shards {
        let values = values_in_scope(&self.builder.borrow(), scope, anchor);
        let table = self.distributed().next().map(|(_, t)| t);
        match (values, table) {
            (Some(values), Some(table)) => Shards::Holding(values.iter().map(|o| fitting(o, table)).collect()),
            _ => Shards::All,
        }
    }

    /// Names as a shard (and the coordinator, for views) knows them.
    pub fn shard_splices(&self) -> Vec<Splice> {
        let mut splices = Vec::new();
        for relation in &self.relations {
            let with = match &relation.meaning {
                Meaning::Distributed(table) => With::ShardSchema(table.schema.as_str().into()),
                Meaning::Reference(table) => With::Fixed(format!("{}.", quote_identifier(&table.schema)).into()),
                Meaning::View(_) => With::Fixed("tenantry.".into()),
                Meaning::Local => continue,
            };
            let (first, last) = ends(&relation.name);
            splices.push(Splice { at: first.at, len: last.at - first.at, with: with.clone() });
            splices.extend(relation.schema_prefixes.iter().map(|&(at, len)| Splice { at, len, with: with.clone() }));
        }
        splices
    }

    /// Names as the coordinator knows them: only views and inline functions are elsewhere.
    pub fn coordinator_splices(&self) -> Vec<Splice> {
        let views = self.relations.iter().filter(|r| matches!(r.meaning, Meaning::View(_)));
        let views = views.map(|r| {
            let (first, last) = ends(&r.name);
            Splice { at: first.at, len: last.at - first.at, with: With::Fixed("tenantry.".into()) }
        });
        views.chain(inline_splices(self.text, self.tokens, self.ctx)).collect()
    }

    /// Does it call a function that only the coordinator has?
    pub fn calls_inline(&self) -> bool {
        !inline_splices(self.text, self.tokens, self.ctx).is_empty()
    }

    pub fn sharded(&self) -> Spliced {
        Spliced::new(self.text, self.shard_splices())
    }

    pub fn needs(&self) -> Vec<Figures> {
        let mut needs = inline_needs(self.text, self.tokens, self.ctx);
        for relation in &self.relations {
            if let Meaning::View(name) = &relation.meaning
                && let Some(Some(figures)) = self.ctx.provided.views.get(name.as_str())
                && !needs.contains(figures)
            {
                needs.push(*figures);
            }
        }
        needs
    }

    /// Is a relation written anywhere, CTEs included?
    pub fn writes(&self) -> bool {
        self.relations.iter().any(|r| r.is_target)
    }

    pub fn access(&self) -> Access {
        let reads =
            |name: &String| super::functions::reads_only(name) || self.ctx.provided.inline.contains_key(name.as_str());
        if self.writes() || !self.calls().iter().all(reads) { Access::Write } else { Access::Read }
    }

    pub fn returns_rows(&self) -> bool {
        match &self.tree.body {
            Body::Select(s) => !s.into,
            Body::Query(_) | Body::Set { .. } | Body::Values(_) => true,
            Body::Insert(i) => i.returning.is_some(),
            Body::Update(u) => u.returning.is_some(),
            Body::Delete(d) => d.returning.is_some(),
            Body::Merge(m) => m.returning,
        }
    }

    /// Names of all functions called (a name and a parenthesis), folded, unqualified. Some may be no functions.
    pub fn calls(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for pair in self.tokens.windows(2) {
            if pair[0].is_identifier() && pair[1].is_punct(b'(') {
                let name = fold(self.text, &pair[0]).into_owned();
                if !super::functions::is_syntax(&name) && !names.contains(&name) && !self.is_name_with_columns(&pair[0])
                {
                    names.push(name);
                }
            }
        }
        names
    }

    /// `INSERT INTO orders (a, b)`, `WITH x (a) AS`: a name with a column list, not a call.
    fn is_name_with_columns(&self, token: &Token) -> bool {
        self.relations.iter().any(|r| r.name.last().is_some_and(|n| n.at == token.start))
            || self.tree.with.iter().any(|c| c.name.at == token.start)
    }

    /// Does any part of the statement lock rows?
    pub fn locks_rows(&self) -> bool {
        self.tokens.windows(2).any(|w| {
            crate::sql::lexer::is_keyword(self.text, &w[0], "for")
                && ["update", "share", "no", "key"].iter().any(|k| crate::sql::lexer::is_keyword(self.text, &w[1], k))
        })
    }

    /// Where the statement ends, a semicolon left out.
    pub fn end(&self) -> u32 {
        self.tokens.iter().rev().find(|t| !t.is_punct(b';')).map_or(0, |t| t.end)
    }

    pub fn slice(&self, range: &Range<u32>) -> &'a str {
        &self.text[range.start as usize..range.end as usize]
    }
}

/// No aggregate and no window function: the value depends on one row (subqueries are judged by themselves).
pub(super) fn is_row_expression(e: &Expr) -> bool {
    !has_call(e, &|c| c.over.is_some() || !c.name.last().is_some_and(|n| functions::is_scalar(&n.value)))
}

/// First and last part of a name; names have at least one.
pub(super) fn ends(name: &[Name]) -> (&Name, &Name) {
    (name.first().expect("a relation has a name"), name.last().expect("a relation has a name"))
}

/// Is the distribution column of a new row the value itself, or may it be cut or rounded to the column's type modifier?
pub(super) fn is_stored_as_written(table: &Table, operand: &Operand) -> bool {
    let (Some(column), TableKind::Distributed { hash, .. }) = (table.distribution_column(), &table.kind) else {
        return false;
    };
    column.type_modifier < 0
        || match operand {
            Operand::Null => true,
            Operand::Literal(text) => hash.read_stored_text(text, column.type_modifier).is_some(),
            Operand::Param(_) | Operand::Lifted { .. } => false,
        }
}

/// An integer that the column's type cannot hold is in no row.
pub(super) fn fitting(operand: &Operand, table: &Table) -> Operand {
    let range = match table.distribution_column().map(|c| c.type_oid) {
        Some(21) => i16::MIN as i64..=i16::MAX as i64,
        Some(23) => i32::MIN as i64..=i32::MAX as i64,
        _ => return operand.clone(),
    };
    match operand {
        Operand::Literal(text) if text.parse::<i64>().is_ok_and(|n| !range.contains(&n)) => Operand::Null,
        other => other.clone(),
    }
}

/// New text made of pieces of the statement, names spliced as they were.
pub(super) struct Pieces<'s> {
    text: &'s str,
    source: Vec<Splice>,
    out: String,
    splices: Vec<Splice>,
}

impl<'s> Pieces<'s> {
    pub fn new(text: &'s str, source: Vec<Splice>) -> Self {
        Self { text, source, out: String::new(), splices: Vec::new() }
    }

    pub fn push(&mut self, text: &str) -> &mut Self {
        self.out.push_str(text);
        self
    }

    pub fn copy(&mut self, range: &Range<u32>) -> &mut Self {
        let base = self.out.len() as u32;
        self.out.push_str(&self.text[range.start as usize..range.end as usize]);
        let inside =
            self.source.iter().filter(|s| s.at >= range.start && s.at + s.len <= range.end && s.at < range.end);
        self.splices.extend(inside.map(|s| Splice { at: s.at - range.start + base, len: s.len, with: s.with.clone() }));
        self
    }

    pub fn finish(self) -> Spliced {
        Spliced::new(self.out, self.splices)
    }
}

/// All calls in an expression, subqueries excluded.
pub(super) fn has_call(e: &Expr, wanted: &dyn Fn(&crate::sql::tree::Call) -> bool) -> bool {
    let mut found = false;
    e.walk(&mut |e| {
        if let Expr::Call(c) = e {
            found |= wanted(c);
        }
        !found
    });
    found
}
