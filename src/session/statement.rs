//! A parsed statement: what the text means, what it takes and gives, and what servers know it by.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::SystemTime;

use crate::backend::Description;
use crate::planner::{Plan, SessionCommand};
use crate::sql::lexer;
use crate::wire::frontend::Bind;
use crate::wire::nested_oids::may_nest;

/// What parsing gives: the same for every client that sends the text with these types.
#[derive(Clone)]
pub struct Parsed {
    pub(super) number: Rc<RefCell<Number>>,
    pub text: Rc<str>,
    /// As the client gave them; 0 where it left one open.
    pub types: Rc<[u32]>,
    pub plan: Rc<Plan>,
    pub(super) has_constants: bool,
    /// `Session::columns_for` at its Parse, which its client's values fit; with others it is another statement for servers.
    pub(super) columns: u64,
    /// `None`: its constants mean something else each time.
    pub(super) unnamed: Option<Rc<Unnamed>>,
}

/// What servers' prepared statements are named after; 0: not asked for yet.
#[derive(Default)]
pub(super) struct Number {
    pub number: u64,
    /// That constants are read by.
    pub settings: String,
}

/// What servers prepare for Parses without a name, which mean tables, functions and types as they are now.
pub(super) struct Unnamed {
    comes_again: Cell<bool>,
    /// What it gives may change with a table that gets another column.
    pub names_all_columns: bool,
    /// Another number after each change of the schema, of which that many were known; 0: not asked for yet.
    number: Cell<(u64, u64)>,
}

impl Unnamed {
    pub fn new(text: &str) -> Self {
        let names_all_columns = text.replace("(*)", "").contains('*');
        Self { comes_again: Cell::new(false), names_all_columns, number: Cell::new((0, 0)) }
    }

    pub fn note_again(&self) {
        self.comes_again.set(true);
    }

    pub fn comes_again(&self) -> bool {
        self.comes_again.get()
    }

    pub fn number(&self, schema_changes: u64, fresh: impl FnOnce() -> u64) -> u64 {
        let (number, made_for) = self.number.get();
        if number != 0 && made_for == schema_changes {
            return number;
        }
        let number = fresh();
        self.number.set((number, schema_changes));
        number
    }
}

/// A parsed statement of one client: what was parsed, and what has been found out of it since.
pub struct Statement {
    pub(super) parsed: Parsed,
    pub(super) map_version: u64,
    /// What its names were looked up in.
    pub(super) search_path: Rc<[String]>,
    /// Where else they mean tables with the columns that its client was told, the last time it was asked.
    pub(super) also_fits: RefCell<Option<(u64, Rc<[String]>)>>,
    pub(super) description: RefCell<Option<Rc<Description>>>,
    pub(super) is_opaque: OnceCell<bool>,
    pub(super) parameters: OnceCell<u16>,
    /// How it got its name, where it has one.
    pub(super) naming: Option<Naming>,
}

impl Deref for Statement {
    type Target = Parsed;

    fn deref(&self) -> &Parsed {
        &self.parsed
    }
}

/// What `pg_prepared_statements` tells of a statement besides.
#[derive(Clone)]
pub(super) struct Naming {
    pub at: SystemTime,
    /// The whole text of an SQL PREPARE.
    pub command: Option<Box<str>>,
}

impl Statement {
    pub(super) fn new(parsed: Parsed, map_version: u64, search_path: &Rc<[String]>) -> Self {
        let (description, is_opaque, parameters, naming) = (RefCell::new(None), OnceCell::new(), OnceCell::new(), None);
        let (search_path, also_fits) = (search_path.clone(), RefCell::new(None));
        Self { parsed, map_version, search_path, also_fits, description, is_opaque, parameters, naming }
    }

    /// What it takes and gives, where that was asked for already.
    pub(super) fn known_description(&self) -> Option<Rc<Description>> {
        self.description.borrow().clone()
    }

    pub fn returns_rows(&self) -> bool {
        match &*self.plan {
            Plan::Scatter(s) => s.returns_rows,
            Plan::Insert(i) => i.returns_rows,
            Plan::FilledInsert(i) => i.insert.returns_rows,
            Plan::InsertSelect(i) => i.words.as_ref().is_some_and(|words| words.returns_rows),
            Plan::ReferenceWrite(w) => w.returns_rows,
            Plan::FunctionCall(_) | Plan::Explain(_) => true,
            Plan::Coordinator(c) => !c.sets.is_empty(),
            Plan::Session(SessionCommand::Execute { .. } | SessionCommand::Show { .. }) => true,
            _ => false,
        }
    }

    /// Is its plan one for this map, and for names that are looked up in these schemas?
    pub fn is_for(&self, map_version: u64, search_path: &Rc<[String]>) -> bool {
        self.map_version == map_version && self.looks_in(search_path)
    }

    pub(super) fn looks_in(&self, search_path: &Rc<[String]>) -> bool {
        Rc::ptr_eq(&self.search_path, search_path) || self.search_path == *search_path
    }

    /// Do rows of a portal with this Bind name types that users have made? `false` where nobody has asked what it returns.
    pub fn rows_nest(&self, bind: &Bind) -> bool {
        let nest = self.description.borrow().as_ref().is_some_and(|description| description.fields_nest);
        nest && bind.result_formats().contains(&1)
    }

    /// May the Bind's parameters?
    pub fn parameters_nest(&self, bind: &Bind) -> bool {
        let nest = match &*self.description.borrow() {
            Some(description) => description.parameters_nest,
            None => self.types.iter().any(|oid| may_nest(*oid)),
        };
        nest && !bind.formats_are_text()
    }

    /// Does it run another one, or itself?
    pub(super) fn is_execute(&self) -> bool {
        matches!(&*self.plan, Plan::Session(SessionCommand::Execute { .. }))
    }

    /// How many parameters it takes: as many as Parse gave types of, or as its text names.
    pub fn parameter_count(&self) -> u16 {
        *self.parameters.get_or_init(|| {
            let named = if self.text.contains('$') { lexer::parameters_in(&self.text) } else { 0 };
            named.max(self.types.len() as u16)
        })
    }

    /// Types of its parameters, as far as they are known.
    pub(super) fn known_types(&self) -> Rc<[u32]> {
        match &*self.description.borrow() {
            Some(description) => description.parameters.as_slice().into(),
            None => self.types.clone(),
        }
    }

    /// What `look` says of its text; looked at once, because with another map it is another statement.
    pub fn may_run_opaque_code(&self, look: impl FnOnce(&str) -> bool) -> bool {
        *self.is_opaque.get_or_init(|| look(&self.text))
    }
}
