//! The operating system user that the servers run as.
//!
//! An ordinary user runs them as itself. Postgres refuses root, so root lends them to `postgres` when that
//! user exists, and otherwise to `tenantry`, a system user that is created on first need.

use crate::error::{PgError, Result, SqlState};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Who owns the data folders and runs the servers.
#[derive(Debug, Clone)]
pub enum OsUser {
    /// The user that we are.
    Ourselves,
    /// We are root: this user instead.
    Other { name: String, uid: u32, gid: u32 },
}

impl OsUser {
    /// Picks the user, creating `tenantry` when we are root and there is no `postgres`.
    ///
    /// Errors: 55000 when root has no user to lend to and `useradd` fails.
    pub fn for_servers() -> Result<Self> {
        if !is_root()? {
            return Ok(OsUser::Ourselves);
        }
        if let Some(user) = look_up("postgres").or_else(|| look_up(OWN_USER)) {
            return Ok(user);
        }
        let made = Command::new("useradd").args(["--system", "--no-create-home", OWN_USER]).output();
        look_up(OWN_USER).ok_or_else(|| {
            let why =
                made.map_or_else(|e| e.to_string(), |output| String::from_utf8_lossy(&output.stderr).into_owned());
            PgError::new(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                "there is no unprivileged user to run PostgreSQL as",
            )
            .detail(format!("PostgreSQL refuses to run as root; useradd {OWN_USER} said: {}", why.trim()))
            .hint("Run this as an ordinary user, or create a user named postgres.")
        })
    }

    /// Makes a command run as this user.
    pub fn lend(&self, command: &mut Command) {
        if let OsUser::Other { uid, gid, .. } = self {
            command.uid(*uid).gid(*gid);
        }
    }

    /// Gives a file or folder of ours to this user.
    pub fn give(&self, path: &Path) -> std::io::Result<()> {
        match self {
            OsUser::Ourselves => Ok(()),
            OsUser::Other { uid, gid, .. } => std::os::unix::fs::chown(path, Some(*uid), Some(*gid)),
        }
    }

    /// Whether this user can make files in a folder.
    pub fn can_write(&self, folder: &Path) -> bool {
        self.tests("-w", folder)
    }

    /// Whether this user can reach what is in a folder.
    pub fn can_enter(&self, folder: &Path) -> bool {
        self.tests("-x", folder)
    }

    /// test(1) in this user's name: the only way that counts every folder above, ACLs and read-only mounts.
    fn tests(&self, condition: &str, folder: &Path) -> bool {
        let mut command = Command::new("test");
        command.arg(condition).arg(folder).current_dir("/");
        self.lend(&mut command);
        command.status().is_ok_and(|status| status.success())
    }
}

impl std::fmt::Display for OsUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OsUser::Ourselves => f.write_str("the current user"),
            OsUser::Other { name, .. } => f.write_str(name),
        }
    }
}

const OWN_USER: &str = "tenantry";

fn is_root() -> Result<bool> {
    // The owner of /proc/self is our effective user: the same answer as geteuid, without unsafe code.
    let uid = std::fs::metadata("/proc/self").map_err(|error| super::io_error("read /proc/self", error))?.uid();
    Ok(uid == 0)
}

/// Asks `id` rather than /etc/passwd, so users of a directory service are found too.
fn look_up(name: &str) -> Option<OsUser> {
    let number = |flag: &str| -> Option<u32> {
        let output = Command::new("id").args([flag, "--", name]).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some(OsUser::Other { name: name.to_string(), uid: number("-u")?, gid: number("-g")? })
}
