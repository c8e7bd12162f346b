//! The form in which servers keep a shape prepared: its literals are parameters.

use std::rc::Rc;

use crate::session::statement::Unnamed;
use crate::sql::lexer::TokenKind;
use crate::sql::skeleton::{LiteralSpan, Skeleton, literal_value};
use crate::sql::{Splice, Spliced, With};
use crate::wire::frontend::Bind;

/// What may be taken in this form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// But what gives all columns of a table, of which there may be more by and by.
    FixedColumns,
    Everything,
}

/// A shape of which one plan is as good as any.
pub struct KeptShape {
    pub(in crate::session) unnamed: Unnamed,
    pub types: Rc<[u32]>,
    pub returns_rows: bool,
    /// The first text, with parameters in the place of its literals.
    pub(super) query: Spliced,
}

impl KeptShape {
    /// None where its texts have comments: whoever reads a server's log looks for them.
    pub fn new(
        text: &str,
        skeleton: &Skeleton,
        types: Vec<u32>,
        query: &Spliced,
        returns_rows: bool,
    ) -> Option<Rc<Self>> {
        if skeleton.has_comments() || skeleton.literals().len() != types.len() {
            return None;
        }
        let parameter = |(n, literal): (usize, &LiteralSpan)| Splice {
            at: literal.start,
            len: literal.end - literal.start,
            with: With::Fixed(format!("${}", n + 1).into()),
        };
        let parameters = skeleton.literals().iter().enumerate().map(parameter);
        let query = Spliced::new(text, query.splices().iter().cloned().chain(parameters).collect());
        Some(Rc::new(Self { unnamed: Unnamed::new(text), types: types.into(), returns_rows, query }))
    }

    /// The literals of a text as values, when it is not the first one of this shape. `None`: it goes as it is.
    pub fn bind(&self, text: &str, scanned: &Skeleton, keep: Keep) -> Option<Bind> {
        if keep == Keep::Nothing || keep == Keep::FixedColumns && self.unnamed.names_all_columns {
            return None;
        }
        if !self.unnamed.comes_again() {
            self.unnamed.note_again();
            return None;
        }
        let fits =
            |literal: &LiteralSpan| literal.kind != TokenKind::Integer || literal.end - literal.start <= INT4_DIGITS;
        let value = |literal| literal_value(text, literal).filter(|_| fits(literal));
        Bind::of_texts(scanned.literals().iter().map(value))
    }
}

/// Every number of so many digits is an int4.
const INT4_DIGITS: u32 = 9;
