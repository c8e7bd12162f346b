//! What the coordinator knows of roles: read at a login, remembered for a few seconds so that a flood of logins is no
//! flood of questions; and how many sessions each role has here.

use std::sync::Arc;
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
    sessions: Arc<DashMap<String, usize>>,
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

    /// Counts a session of the role. Errors: 53300 when it has as many as it may.
    pub fn open_session(&self, name: &str, role: &Role) -> Result<RoleSession> {
        let mut open = self.sessions.entry(name.to_owned()).or_default();
        if !role.is_superuser && usize::try_from(role.connection_limit).is_ok_and(|limit| *open >= limit) {
            return Err(PgError::fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                format!("too many connections for role \"{name}\""),
            ));
        }
        *open += 1;
        Ok(RoleSession { sessions: self.sessions.clone(), name: name.to_owned() })
    }
}

/// One session of a role, until dropped.
pub struct RoleSession {
    sessions: Arc<DashMap<String, usize>>,
    name: String,
}

impl Drop for RoleSession {
    fn drop(&mut self) {
        self.sessions.remove_if_mut(&self.name, |_, open| {
            *open = open.saturating_sub(1);
            *open == 0
        });
    }
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
