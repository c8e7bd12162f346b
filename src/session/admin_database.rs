//! The door to the admin database: clients that ask for it are logged in as all others, and then served elsewhere.

use futures_util::future::LocalBoxFuture;
use tokio_util::sync::CancellationToken;

use super::cancel_keys::CancelKey;
use super::login::LoginSettings;
use super::presence::Present;
use crate::error::{PgError, Result, SqlState};
use crate::executor::Client;

/// Its name. No served database may have it.
pub const ADMIN_DATABASE: &str = "tenantry";

/// Who serves the admin database.
pub trait AdminDatabase: Send + Sync {
    /// Serves one visitor to the end of his session, on the calling thread.
    fn serve(&self, visitor: Visitor) -> LocalBoxFuture<'_, Result<()>>;
}

/// Somebody who has proved who he is, and may be here.
pub struct Visitor {
    pub client: Client,
    /// May he change anything, or only look?
    pub may_change: bool,
    pub key: CancelKey,
    pub presence: Present,
    /// The session ends when it is his turn.
    pub stop: CancellationToken,
}

/// May `user` use the admin database to change something, or only to look?
///
/// Errors: 42501 for everybody who is not listed.
pub fn may_change(login: &LoginSettings, user: &str) -> Result<bool> {
    let is_in = |users: &[String]| users.iter().any(|listed| listed == user);
    if is_in(&login.admin_users) {
        return Ok(true);
    }
    if is_in(&login.stats_users) {
        return Ok(false);
    }
    Err(PgError::fatal(
        SqlState::INSUFFICIENT_PRIVILEGE,
        format!("permission denied for database \"{ADMIN_DATABASE}\""),
    )
    .detail("It is for the roles that are listed in admin.users and admin.stats_users."))
}
