//! The statement as the analysis sees it: our own tree, small on purpose.
//!
//! What decides where rows live is kept exactly (relations, joins, equalities, constants); everything else is
//! `Expr::Other` with its parts in order. Names are folded and truncated as Postgres does and carry their place in the
//! text, so that they can be spliced.

use std::ops::Range;

/// An identifier as Postgres reads it, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub value: String,
    /// Byte offset; quotes belong to the range.
    pub at: u32,
    pub len: u32,
}

impl Name {
    pub fn end(&self) -> u32 {
        self.at + self.len
    }
}

/// A query expression, or a data-modifying statement with its WITH list.
#[derive(Debug)]
pub struct Query {
    pub with: Vec<Cte>,
    pub recursive: bool,
    pub body: Body,
    pub order_by: Vec<Expr>,
    pub limit: Option<Expr>,
    pub offset: Option<Expr>,
    pub fetch: Option<Expr>,
    /// LIMIT, OFFSET or FETCH in any form: which rows come out depends on all of them.
    pub is_limited: bool,
    pub locks_rows: bool,
}

#[derive(Debug)]
pub struct Cte {
    pub name: Name,
    pub columns: Vec<Name>,
    pub query: Query,
}

#[derive(Debug)]
pub enum Body {
    Select(Box<Select>),
    Query(Box<Query>),
    Set { op: SetOp, left: Box<Body>, right: Box<Body> },
    Values(Vec<ValuesRow>),
    Insert(Box<Insert>),
    Update(Box<Update>),
    Delete(Box<Delete>),
    Merge(Box<Merge>),
}

/// One `(a, b, ...)`; its range includes the parentheses.
#[derive(Debug)]
pub struct ValuesRow {
    pub at: Range<u32>,
    pub values: Vec<Expr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetOp {
    Union,
    Except,
    Intersect,
}

#[derive(Debug)]
pub struct Select {
    /// Where SELECT stands.
    pub at: u32,
    pub distinct: Distinct,
    pub items: Vec<Item>,
    pub into: bool,
    pub from: Vec<From>,
    pub filter: Option<Expr>,
    pub group_by: Vec<Expr>,
    /// GROUPING SETS, ROLLUP, CUBE, GROUP BY ALL: more than plain expressions.
    pub has_grouping_sets: bool,
    pub having: Option<Expr>,
    /// WINDOW w AS (...).
    pub windows: Vec<Expr>,
}

#[derive(Debug)]
pub enum Distinct {
    No,
    Rows,
    On(Vec<Expr>),
}

#[derive(Debug)]
pub enum Item {
    Expr { expr: Expr, alias: Option<Name> },
    Wildcard,
    QualifiedWildcard(Vec<Name>),
}

#[derive(Debug)]
pub struct Alias {
    pub name: Name,
    pub columns: Vec<Name>,
}

#[derive(Debug)]
pub enum From {
    Table {
        name: Vec<Name>,
        alias: Option<Alias>,
        parts: Vec<Expr>,
    },
    Derived {
        query: Box<Query>,
        alias: Option<Alias>,
        lateral: bool,
    },
    /// Table functions, UNNEST, JSON_TABLE, ...: `parts` are the expressions inside.
    Function {
        parts: Vec<Expr>,
        alias: Option<Alias>,
    },
    Join {
        left: Box<From>,
        right: Box<From>,
        kind: JoinKind,
        on: On,
    },
    /// `(a JOIN b ...) AS x`
    Aliased {
        inner: Box<From>,
        alias: Alias,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

#[derive(Debug)]
pub enum On {
    Expr(Expr),
    Using(Vec<Name>),
    Natural,
    None,
}

#[derive(Debug)]
pub enum Expr {
    Column(Vec<Name>),
    Number(String),
    /// A string constant of any quoting, undone.
    String(String),
    Bool(bool),
    Null,
    /// `$n`, from 0.
    Param(u16),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Eq(Box<Expr>, Box<Expr>),
    NotDistinct(Box<Expr>, Box<Expr>),
    /// `+`, `-`, `*`, `/` and `%`.
    Arithmetic(Box<Expr>, char, Box<Expr>),
    Minus(Box<Expr>),
    InList(Box<Expr>, Vec<Expr>),
    Between(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `left = ANY (right)`, right an array or a subquery.
    EqAny(Box<Expr>, Box<Expr>),
    /// Not negated.
    InSubquery(Box<Expr>, Box<Query>),
    Exists(Box<Query>),
    Subquery(Box<Query>),
    Row(Vec<Expr>),
    Array(Vec<Expr>),
    Cast(Box<Expr>, TypeName),
    Call(Box<Call>),
    /// Expressions whose value is not understood; the parts are.
    Other(Vec<Expr>),
    /// DEFAULT as a value.
    Default,
}

/// A type as far as constants are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeName {
    Int2,
    Int4,
    Int8,
    Numeric,
    Float4,
    Float8,
    /// text, varchar without length.
    Text,
    Uuid,
    Date,
    Bool,
    Array(Box<TypeName>),
    Other,
}

#[derive(Debug)]
pub struct Call {
    pub name: Vec<Name>,
    pub args: Vec<Expr>,
    /// `f(*)`
    pub star: bool,
    /// DISTINCT, ORDER BY, WITHIN GROUP, null treatment, named arguments, ...: not the plain `f(a, b)`.
    pub special: bool,
    pub filter: Option<Expr>,
    /// OVER (...): the expressions of an inline window.
    pub over: Option<Window>,
    /// ORDER BY and other expressions inside the call.
    pub rest: Vec<Expr>,
}

#[derive(Debug)]
pub struct Window {
    pub partition_by: Vec<Expr>,
    /// Refers to a WINDOW clause.
    pub is_named: bool,
    pub rest: Vec<Expr>,
}

#[derive(Debug)]
pub struct Insert {
    pub at: u32,
    pub table: Vec<Name>,
    pub alias: Option<Name>,
    /// Target columns; `None` when a target is not a plain column.
    pub columns: Option<Vec<Name>>,
    /// None: DEFAULT VALUES.
    pub source: Option<Query>,
    pub on_conflict: Option<OnConflict>,
    pub returning: Option<Vec<Item>>,
}

#[derive(Debug)]
pub struct OnConflict {
    pub set: Vec<Assignment>,
    pub filter: Option<Expr>,
}

#[derive(Debug)]
pub struct Assignment {
    /// First part of each target's name: the column.
    pub columns: Vec<Name>,
    pub value: Expr,
}

#[derive(Debug)]
pub struct Update {
    pub table: From,
    pub set: Vec<Assignment>,
    pub from: Vec<From>,
    pub filter: Option<Expr>,
    pub returning: Option<Vec<Item>>,
}

#[derive(Debug)]
pub struct Delete {
    pub table: From,
    pub using: Vec<From>,
    pub filter: Option<Expr>,
    pub returning: Option<Vec<Item>>,
}

#[derive(Debug)]
pub struct Merge {
    pub table: From,
    pub source: From,
    pub on: Expr,
    pub set: Vec<Assignment>,
    /// WHEN NOT MATCHED THEN INSERT: columns and values.
    pub inserts: Vec<(Vec<Name>, Vec<Expr>)>,
    pub predicates: Vec<Expr>,
    /// WHEN NOT MATCHED BY SOURCE.
    pub by_source: bool,
    pub returning: bool,
}

impl Expr {
    /// Direct parts, subqueries excluded.
    pub fn children(&self) -> Vec<&Expr> {
        match self {
            Expr::And(v) | Expr::Or(v) | Expr::Row(v) | Expr::Array(v) | Expr::Other(v) => v.iter().collect(),
            Expr::Eq(a, b) | Expr::NotDistinct(a, b) | Expr::Arithmetic(a, _, b) | Expr::EqAny(a, b) => vec![a, b],
            Expr::Minus(a) | Expr::Cast(a, _) | Expr::InSubquery(a, _) => vec![a],
            Expr::InList(a, v) => std::iter::once(&**a).chain(v).collect(),
            Expr::Between(a, b, c) => vec![a, b, c],
            Expr::Call(c) => c
                .args
                .iter()
                .chain(&c.filter)
                .chain(c.over.iter().flat_map(|w| w.partition_by.iter().chain(&w.rest)))
                .chain(&c.rest)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Visits this expression and its parts, subqueries excluded; stops descending where `visit` says no.
    pub fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr) -> bool) {
        if visit(self) {
            for child in self.children() {
                child.walk(visit);
            }
        }
    }

    /// The query of a subquery expression.
    pub fn subquery(&self) -> Option<&Query> {
        match self {
            Expr::InSubquery(_, q) | Expr::Exists(q) | Expr::Subquery(q) => Some(q),
            _ => None,
        }
    }
}
