//! What the coordinator knows of roles, asked at every login; and how many sessions each role has here.
//!
//! ```text
//!   logins   a   b c   d e f ...
//!   asked    [a]──>[b c]──>[d e f ...]      one question at a time, for all who came during the one before
//! ```
//!
//! So a flood of logins is no flood of questions, a changed password counts at once, and a role that is there takes as long
//! as one that is not: what was remembered would be told faster, and tell who has logged in lately.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::oneshot;

use crate::auth::RolePassword;
use crate::catalog::{Catalog, is_away, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;
use crate::transport::timer;

/// A row of pg_authid.
#[derive(Debug)]
pub struct Role {
    pub may_log_in: bool,
    is_superuser: bool,
    /// Most sessions; negative: no limit.
    connection_limit: i32,
    /// None when there is none, or not of a kind that we know.
    pub password: Option<RolePassword>,
    /// VALID UNTIL, which is about the password.
    expires: Option<Instant>,
}

impl Role {
    pub fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Instant::now())
    }
}

pub struct Credentials {
    questions: Questions,
    sessions: Arc<Sessions>,
    mock_secret: [u8; 32],
}

/// How many sessions there may be.
#[derive(Debug, Clone)]
pub struct SessionBounds {
    /// Of all roles.
    pub all: usize,
    /// Of these so many are kept for superusers and the admins that are listed.
    pub kept: usize,
    /// Of each role but superusers; None: as many as there may be.
    pub of_role: Option<usize>,
}

#[derive(Default)]
struct Sessions {
    of_role: DashMap<String, usize>,
    all: AtomicUsize,
}

impl Credentials {
    /// Errors: the coordinator's.
    pub async fn open(catalog: &Catalog) -> Result<Self> {
        let control = catalog.client(NodeId::COORDINATOR).await?;
        let row = control.query_one(MOCK_SECRET, &[]).await.map_err(pg_error)?;
        let secret: &[u8] = row.try_get(0).map_err(pg_error)?;
        let mock_secret = secret.try_into().map_err(|_| {
            PgError::new(SqlState::INTERNAL_ERROR, "tenantry.mock_login has a secret of another length than 32 bytes")
        })?;
        Ok(Self { questions: Questions::default(), sessions: Arc::default(), mock_secret })
    }

    /// Makes the salts of unknown roles: the same in every proxy, as those of known ones are, and nobody else knows it.
    pub fn mock_secret(&self) -> &[u8; 32] {
        &self.mock_secret
    }

    /// The role as it is now. Where the coordinator is away it is waited for, as by statements.
    ///
    /// Errors: 57P03 when it can't be asked for `patience`.
    pub async fn find(&self, catalog: &Catalog, name: &str, patience: Duration) -> Result<Option<Arc<Role>>> {
        let began = Instant::now();
        loop {
            match self.questions.find(name, |names| read(catalog, names)).await {
                Err(error) if is_away(&error) && began.elapsed() < patience => timer::sleep(AGAIN_AFTER).await,
                found => return found.map_err(unreadable),
            }
        }
    }

    /// Counts a session of the role. Errors: 53300 when there are as many as there may be, of all roles or of this one.
    ///
    /// Source of the words: PostgreSQL src/backend/utils/init/postinit.c, InitPostgres().
    pub fn open_session(&self, name: &str, role: &Role, bounds: &SessionBounds, is_admin: bool) -> Result<RoleSession> {
        let is_kept_for = role.is_superuser || is_admin;
        let most = bounds.all.saturating_sub(if is_kept_for { 0 } else { bounds.kept });
        let room = |all: usize| (all < most).then_some(all + 1);
        if let Err(all) = self.sessions.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            return Err(too_many(match all < bounds.all {
                true => "remaining connection slots are reserved for roles with the SUPERUSER attribute".to_owned(),
                false => "sorry, too many clients already".to_owned(),
            }));
        }
        let mut open = self.sessions.of_role.entry(name.to_owned()).or_default();
        let is_full = |limit: usize| !role.is_superuser && *open >= limit;
        if usize::try_from(role.connection_limit).is_ok_and(is_full) || bounds.of_role.is_some_and(is_full) {
            self.sessions.all.fetch_sub(1, Ordering::Relaxed);
            return Err(too_many(format!("too many connections for role \"{name}\"")));
        }
        *open += 1;
        Ok(RoleSession { sessions: self.sessions.clone(), name: name.to_owned() })
    }
}

/// One session of a role, until dropped.
pub struct RoleSession {
    sessions: Arc<Sessions>,
    name: String,
}

impl Drop for RoleSession {
    fn drop(&mut self) {
        self.sessions.all.fetch_sub(1, Ordering::Relaxed);
        self.sessions.of_role.remove_if_mut(&self.name, |_, open| {
            *open = open.saturating_sub(1);
            *open == 0
        });
    }
}

fn too_many(message: String) -> PgError {
    PgError::fatal(SqlState::TOO_MANY_CONNECTIONS, message)
}

type Roles = HashMap<String, Arc<Role>>;

/// Names that are looked for, and who waits for the answer.
#[derive(Default)]
struct Questions {
    waiting: Mutex<Vec<(String, oneshot::Sender<Answer>)>>,
    asking: tokio::sync::Mutex<()>,
}

type Answer = Result<Option<Arc<Role>>>;

impl Questions {
    /// Asks for all who wait when it is its turn. Cancel safe: who loses the one that asked for him asks himself.
    async fn find<F: Future<Output = Result<Roles>>>(&self, name: &str, ask: impl Fn(Vec<String>) -> F) -> Answer {
        loop {
            let (tell, mut told) = oneshot::channel();
            self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((name.to_owned(), tell));
            let turn = tokio::select! {
                biased;
                answer = &mut told => match answer {
                    Ok(answer) => return answer,
                    Err(_) => continue,
                },
                turn = self.asking.lock() => turn,
            };
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            let roles = ask(waiting.iter().map(|(name, _)| name.clone()).collect()).await;
            for (name, tell) in waiting {
                let role = roles.as_ref().map(|roles| roles.get(&name).cloned()).map_err(Clone::clone);
                // Who has gone meanwhile is told nothing.
                let _ = tell.send(role);
            }
            // Not before: the next one would ask for those who are answered.
            drop(turn);
            if let Ok(answer) = told.await {
                return answer;
            }
        }
    }
}

async fn read(catalog: &Catalog, names: Vec<String>) -> Result<Roles> {
    let control = catalog.client(NodeId::COORDINATOR).await?;
    let rows = control.query(ROLES, &[&names]).await.map_err(pg_error)?;
    let role = |row: tokio_postgres::Row| -> std::result::Result<(String, Arc<Role>), tokio_postgres::Error> {
        let password: Option<String> = row.try_get(3)?;
        let seconds_left: Option<f64> = row.try_get(4)?;
        let left = seconds_left.map(|s| Duration::try_from_secs_f64(s.max(0.0)).unwrap_or(Duration::MAX));
        let role = Role {
            may_log_in: row.try_get(0)?,
            is_superuser: row.try_get(1)?,
            connection_limit: row.try_get(2)?,
            password: password.as_deref().and_then(RolePassword::parse),
            expires: left.and_then(|left| Instant::now().checked_add(left)),
        };
        Ok((row.try_get(5)?, Arc::new(role)))
    };
    rows.into_iter().map(role).collect::<std::result::Result<_, _>>().map_err(pg_error)
}

fn unreadable(why: PgError) -> PgError {
    PgError::fatal(SqlState::CANNOT_CONNECT_NOW, "cannot read the coordinator's roles").detail(why.to_string())
}

const AGAIN_AFTER: Duration = Duration::from_millis(200);

const MOCK_SECRET: &str = "SELECT secret FROM tenantry.mock_login";

const ROLES: &str = "
SELECT rolcanlogin, rolsuper, rolconnlimit, rolpassword,
    CASE WHEN pg_catalog.isfinite(rolvaliduntil)
        THEN extract(epoch FROM rolvaliduntil - pg_catalog.now())::pg_catalog.float8 END, rolname::pg_catalog.text
FROM pg_catalog.pg_authid WHERE rolname = ANY ($1::pg_catalog.text[])";

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::sync::Semaphore;

    use super::*;

    fn role() -> Arc<Role> {
        Arc::new(Role { may_log_in: true, is_superuser: false, connection_limit: -1, password: None, expires: None })
    }

    /// T13: one question each, whether the role is there, was there a moment ago, or is not.
    #[tokio::test]
    async fn everybody_is_asked_for_and_together() {
        let (questions, asked, gate) = (Questions::default(), RefCell::new(Vec::new()), Semaphore::new(1));
        let ask = |mut names: Vec<String>| {
            names.sort();
            asked.borrow_mut().push(names);
            async {
                gate.acquire().await.expect("it stays open").forget();
                Ok(HashMap::from([("app".to_owned(), role())]))
            }
        };
        assert!(questions.find("app", ask).await.unwrap().is_some());
        let names = ["app", "nobody", "app"];
        let all = futures_util::future::join_all(names.map(|name| questions.find(name, ask)));
        // The first asks alone, the others together when it has been answered.
        let (all, ()) = tokio::join!(all, async { gate.add_permits(2) });
        let found: Vec<bool> = all.into_iter().map(|role| role.unwrap().is_some()).collect();
        assert_eq!(found, [true, false, true]);
        assert_eq!(*asked.borrow(), [vec!["app"], vec!["app"], vec!["app", "nobody"]]);
    }

    #[tokio::test]
    async fn who_asks_and_goes_leaves_nobody_waiting() {
        let (questions, asked) = (Questions::default(), RefCell::new(0));
        let never = |_| std::future::pending::<Result<Roles>>();
        let ask = |_| {
            *asked.borrow_mut() += 1;
            async { Ok(HashMap::from([("app".to_owned(), role())])) }
        };
        let goes = async {
            let first = questions.find("first", never);
            let _ = timer::timeout(Duration::from_millis(20), first).await;
        };
        let ((), found) = tokio::join!(goes, questions.find("app", ask));
        assert!(found.unwrap().is_some());
        assert_eq!(*asked.borrow(), 1);
    }

    #[tokio::test]
    async fn all_hear_of_a_coordinator_that_is_gone() {
        let questions = Questions::default();
        let gone = |_| async { Err::<Roles, _>(PgError::fatal(SqlState::CANNOT_CONNECT_NOW, "gone")) };
        let (one, other) = tokio::join!(questions.find("a", gone), questions.find("b", gone));
        assert_eq!(
            [one.unwrap_err().to_string(), other.unwrap_err().to_string()].map(|e| e.contains("gone")),
            [true; 2]
        );
    }
}
