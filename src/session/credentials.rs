//! What the coordinator knows of roles: read at a login, remembered for a few seconds so that a flood of logins is no
//! flood of questions; and how many sessions each role has here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;

use crate::auth::RolePassword;
use crate::catalog::Catalog;
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::NodeId;

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

#[derive(Default)]
pub struct Credentials {
    known: DashMap<String, (Instant, Option<Arc<Role>>)>,
    sessions: Arc<Sessions>,
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
    /// The role as it was at most `REMEMBER` ago. Errors: 57P03 when the coordinator can't be asked.
    pub async fn find(&self, catalog: &Catalog, name: &str) -> Result<Option<Arc<Role>>> {
        if let Some(known) = self.known.get(name)
            && known.0.elapsed() < REMEMBER
        {
            return Ok(known.1.clone());
        }
        let role = read(catalog, name).await?.map(Arc::new);
        if self.known.len() >= KNOWN_MAX {
            // Names that nobody has, made up by somebody who tries them.
            self.known.clear();
        }
        self.known.insert(name.to_owned(), (Instant::now(), role.clone()));
        Ok(role)
    }

    /// The next login asks the coordinator: this one failed, perhaps because the password was changed just now.
    pub fn forget(&self, name: &str) {
        self.known.remove(name);
    }

    /// Roles may have been changed.
    pub fn forget_all(&self) {
        self.known.clear();
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

async fn read(catalog: &Catalog, name: &str) -> Result<Option<Role>> {
    let unreadable =
        |why: String| PgError::fatal(SqlState::CANNOT_CONNECT_NOW, "cannot read the coordinator's roles").detail(why);
    let control = catalog.client(NodeId::COORDINATOR).await.map_err(|error| unreadable(error.to_string()))?;
    let row = control.query_opt(ROLE, &[&name]).await.map_err(|error| unreadable(error.to_string()))?;
    let Some(row) = row else { return Ok(None) };
    let read = || -> std::result::Result<Role, tokio_postgres::Error> {
        let password: Option<String> = row.try_get(3)?;
        let seconds_left: Option<f64> = row.try_get(4)?;
        let left = seconds_left.map(|s| Duration::try_from_secs_f64(s.max(0.0)).unwrap_or(Duration::MAX));
        Ok(Role {
            may_log_in: row.try_get(0)?,
            is_superuser: row.try_get(1)?,
            connection_limit: row.try_get(2)?,
            password: password.as_deref().and_then(RolePassword::parse),
            expires: left.and_then(|left| Instant::now().checked_add(left)),
        })
    };
    read().map(Some).map_err(|error| unreadable(error.to_string()))
}

const ROLE: &str = "
SELECT rolcanlogin, rolsuper, rolconnlimit, rolpassword,
    CASE WHEN pg_catalog.isfinite(rolvaliduntil)
        THEN extract(epoch FROM rolvaliduntil - pg_catalog.now())::pg_catalog.float8 END
FROM pg_catalog.pg_authid WHERE rolname = $1";

const REMEMBER: Duration = Duration::from_secs(10);
const KNOWN_MAX: usize = 10_000;
