//! What sessions are greeted with: those that begin alike are told alike, and the coordinator is asked once in a while.
//!
//! ```text
//!   login ──> role, startup settings ──known──> greeting
//!                                     └─ not ─> the coordinator, under these settings ──> greeting, kept
//! ```
//!
//! What the coordinator refuses is not kept. Its pooled connections report no newer defaults either.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::notices::Hears;
use crate::backend::{Identity, SessionSettings};
use crate::executor::FirstTimeouts;
use crate::planner::ReadFrom;

/// What a server reports at the end of a login, and what the proxy itself has to know of the settings.
pub struct Greeting {
    pub parameters: Vec<(String, String)>,
    /// Schemas, `"$user"` replaced.
    pub search_path: Rc<[String]>,
    pub read_from: ReadFrom,
    /// `Session::wants_kept`.
    pub wants_kept: Option<bool>,
    pub hears: Hears,
    pub first: Rc<FirstTimeouts>,
}

/// The latest greetings of one thread.
#[derive(Default)]
pub struct Greetings {
    latest: RefCell<VecDeque<(Beginning, Instant, Rc<Greeting>)>>,
}

/// All that a greeting depends on.
#[derive(Clone, PartialEq)]
pub struct Beginning {
    user: String,
    database: String,
    settings: SessionSettings,
    /// `ShardMap::role_settings`.
    defaults: Arc<str>,
}

impl Beginning {
    pub fn new(identity: &Identity, settings: &SessionSettings, defaults: &Arc<str>) -> Self {
        let (user, database) = (identity.user.clone(), identity.database.clone());
        Self { user, database, settings: settings.clone(), defaults: defaults.clone() }
    }
}

impl Greetings {
    pub fn find(&self, beginning: &Beginning, now: Instant) -> Option<Rc<Greeting>> {
        let mut latest = self.latest.borrow_mut();
        latest.retain(|(_, asked, _)| now.saturating_duration_since(*asked) < AGE_MAX);
        latest.iter().find(|(known, ..)| known == beginning).map(|(.., greeting)| greeting.clone())
    }

    /// Keeps the answer to a question that was asked at `asked`.
    pub fn keep(&self, beginning: Beginning, asked: Instant, greeting: Greeting) -> Rc<Greeting> {
        let greeting = Rc::new(greeting);
        let mut latest = self.latest.borrow_mut();
        latest.retain(|(known, ..)| *known != beginning);
        latest.truncate(KEPT_MAX - 1);
        latest.push_front((beginning, asked, greeting.clone()));
        greeting
    }
}

/// So long after a change of the coordinator's configuration sessions may still be told the old values.
const AGE_MAX: Duration = Duration::from_secs(5);
/// Applications connect in few ways; each one is looked through with every login.
const KEPT_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Secret;

    fn beginning(user: &str, setting: &str, defaults: &str) -> Beginning {
        let mut settings = SessionSettings::default();
        settings.set("search_path", format!("SET search_path TO {setting}"));
        let identity = Identity { user: user.to_owned(), database: "app".to_owned(), secret: Secret::None };
        Beginning::new(&identity, &settings, &Arc::from(defaults))
    }

    fn greeting(path: &str) -> Greeting {
        let search_path = [path.to_owned()].into();
        Greeting {
            parameters: Vec::new(),
            search_path,
            read_from: ReadFrom::default(),
            wants_kept: None,
            hears: Hears::default(),
            first: Rc::default(),
        }
    }

    fn found(greetings: &Greetings, beginning: &Beginning, now: Instant) -> Option<String> {
        greetings.find(beginning, now).map(|greeting| greeting.search_path[0].clone())
    }

    #[test]
    fn who_begins_alike_is_greeted_alike_for_a_while() {
        let (greetings, start) = (Greetings::default(), Instant::now());
        let anna = beginning("anna", "sales", "d1");
        assert_eq!(found(&greetings, &anna, start), None);
        greetings.keep(anna.clone(), start, greeting("sales"));
        assert_eq!(found(&greetings, &anna, start).as_deref(), Some("sales"));
        for other in [("bert", "sales", "d1"), ("anna", "stock", "d1"), ("anna", "sales", "d2")] {
            assert_eq!(found(&greetings, &beginning(other.0, other.1, other.2), start), None, "{other:?}");
        }
        greetings.keep(anna.clone(), start + AGE_MAX / 2, greeting("newer"));
        assert_eq!(found(&greetings, &anna, start + AGE_MAX).as_deref(), Some("newer"));
        assert_eq!(found(&greetings, &anna, start + AGE_MAX * 2), None);
    }

    #[test]
    fn the_latest_are_kept() {
        let (greetings, now) = (Greetings::default(), Instant::now());
        for number in 0..=KEPT_MAX {
            greetings.keep(beginning(&number.to_string(), "sales", ""), now, greeting("sales"));
        }
        assert_eq!(found(&greetings, &beginning("0", "sales", ""), now), None);
        assert!(found(&greetings, &beginning("1", "sales", ""), now).is_some());
    }
}
