//! The folder of a cluster: temporary or kept, never used by two clusters at once.
//!
//! ```text
//!   FOLDER/lock          held while a cluster runs here; the kernel lets go of it when the process ends, however it ends
//!   FOLDER/port          P of the cluster, written when every server has been created; catalogs remember ports
//!   FOLDER/coordinator   a data folder        FOLDER/coordinator.log   what that server said
//!   FOLDER/worker-1 ...
//! ```
//!
//! A temporary folder is removed when dropped. One whose process was killed is removed by the next cluster that
//! makes a temporary folder.

use super::os_user::OsUser;
use super::{COORDINATOR, io_error, server, server_name};
use crate::error::{PgError, Result, SqlState};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A folder that this process holds the lock of.
pub struct Folder {
    path: PathBuf,
    temporary: bool,
    _lock: File,
}

/// What a complete cluster left in a kept folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    pub port: u16,
    /// The numbers of their folders, in order; one that was removed has left a gap.
    pub workers: Vec<u16>,
    /// As in the file `PG_VERSION`, e.g. `15`.
    pub postgres_major: String,
    path: PathBuf,
}

impl Kept {
    /// Errors with 55000 when the cluster was made for another P: its catalog names its nodes by port.
    pub fn refuse_other_port(&self, port: u16) -> Result<()> {
        if port == self.port {
            return Ok(());
        }
        Err(PgError::new(
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the cluster in \"{}\" was made for port {}, not {port}", self.path.display(), self.port),
        )
        .hint(format!("Start it with --port {}, or choose another folder with --data.", self.port)))
    }
}

/// Looks at a folder that data shall be kept in, without changing anything; `None` when no cluster was completed there.
///
/// Waits for servers that are on their way out, e.g. after their proxy was killed.
/// Errors: 55006 a server runs there, 55000 the folder belongs to something else, 58030 not readable.
pub fn inspect(path: &Path) -> Result<Option<Kept>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(format_args!("read folder \"{}\"", path.display()), error)),
    };
    if let Ok(lock) = File::open(path.join(LOCK)) {
        take_lock(&lock, path)?;
    }
    let mut workers = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !is_ours(&name) {
            return Err(PgError::new(
                SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("folder \"{}\" is not empty and holds no cluster", path.display()),
            )
            .detail(format!("It contains \"{name}\"."))
            .hint("Choose an empty or new folder with --data."));
        }
        server::refuse_running(&entry.path())?;
        workers.extend(worker_number(&name).filter(|_| entry.path().is_dir()));
    }
    let Ok(port) = fs::read_to_string(path.join(PORT)) else {
        return Ok(None);
    };
    workers.sort_unstable();
    let version = path.join(COORDINATOR).join("PG_VERSION");
    let postgres_major = fs::read_to_string(&version)
        .map_err(|error| io_error(format_args!("read file \"{}\"", version.display()), error))?;
    let port = port.trim().parse().map_err(|_| {
        PgError::new(SqlState::DATA_CORRUPTED, format!("file \"{}\" holds no port", path.join(PORT).display()))
    })?;
    Ok(Some(Kept { port, workers, postgres_major: postgres_major.trim().to_string(), path: path.to_path_buf() }))
}

impl Folder {
    /// Makes a new folder among the system's temporary files, and removes those that killed clusters left there.
    pub fn temporary(port: u16, os_user: &OsUser) -> Result<Self> {
        // Root's own TMPDIR may be closed to the user that the servers run as.
        let places = [std::env::temp_dir(), PathBuf::from("/tmp")];
        let place = places.iter().find(|place| os_user.can_write(place)).ok_or_else(|| {
            PgError::new(SqlState::IO_ERROR, format!("{os_user} cannot write to \"{}\"", places[0].display()))
                .hint("Set TMPDIR to a folder that it can write to.")
        })?;
        sweep(place);
        let path = place.join(format!("{TEMPORARY}{port}-{}", std::process::id()));
        make(&path)?;
        Self::lock(path, true)
    }

    /// Takes the given folder, making it when it is not there.
    ///
    /// Errors: 55006 another cluster runs there, 58030 not writable or out of the servers' reach.
    pub fn keep(path: &Path, os_user: &OsUser) -> Result<Self> {
        let new = !path.exists();
        if new {
            if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
                fs::create_dir_all(above)
                    .map_err(|error| io_error(format_args!("create folder \"{}\"", above.display()), error))?;
            }
            make(path)?;
        }
        let refuse = |error: PgError| {
            if new {
                // As it was found: a refused start leaves nothing behind.
                let _ = fs::remove_dir(path);
            }
            error
        };
        let path = path.canonicalize().map_err(|error| io_error(format_args!("find \"{}\"", path.display()), error))?;
        if !os_user.can_enter(&path) {
            return Err(refuse(
                PgError::new(SqlState::IO_ERROR, format!("{os_user} cannot reach folder \"{}\"", path.display()))
                    .detail(format!("The servers run as {os_user}, because PostgreSQL refuses to run as root."))
                    .hint(
                        "Choose a folder with --data whose parent folders are open to everyone, e.g. below /var/lib.",
                    ),
            ));
        }
        Self::lock(path, false).map_err(refuse)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that every server of the cluster has been created, and P with it.
    pub fn complete(&self, port: u16) -> Result<()> {
        let path = self.path.join(PORT);
        fs::write(&path, format!("{port}\n"))
            .map_err(|error| io_error(format_args!("write file \"{}\"", path.display()), error))
    }

    fn lock(path: PathBuf, temporary: bool) -> Result<Self> {
        let file = path.join(LOCK);
        let lock =
            File::create(&file).map_err(|error| io_error(format_args!("open file \"{}\"", file.display()), error))?;
        take_lock(&lock, &path)?;
        Ok(Self { path, temporary, _lock: lock })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed now, the next cluster sweeps.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

const LOCK: &str = "lock";
const PORT: &str = "port";
const TEMPORARY: &str = "tenantry-dev-";
/// A folder this young may have been made a moment ago, with its lock not taken yet.
const SWEEP_AGE: Duration = Duration::from_secs(60);

fn is_ours(name: &str) -> bool {
    let server = name.strip_suffix(".log").or(name.strip_suffix(server::UNFINISHED)).unwrap_or(name);
    name == LOCK || name == PORT || server == COORDINATOR || worker_number(server).is_some()
}

/// The number that `server_name` has made this name of, when it is a worker's.
fn worker_number(name: &str) -> Option<u16> {
    let number = name.strip_prefix("worker-")?.parse().ok()?;
    (server_name(number) == name).then_some(number)
}

/// Locks a cluster's folder until the file is closed.
fn take_lock(lock: &File, folder: &Path) -> Result<()> {
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => {
            PgError::new(SqlState::OBJECT_IN_USE, format!("another cluster runs in folder \"{}\"", folder.display()))
                .hint("Stop it first, or choose another folder with --data.")
        }
        fs::TryLockError::Error(error) => io_error(format_args!("lock folder \"{}\"", folder.display()), error),
    })
}

/// Makes one folder that the servers' user can pass through, whatever our umask.
fn make(path: &Path) -> Result<()> {
    fs::create_dir(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o755)))
        .map_err(|error| io_error(format_args!("create folder \"{}\"", path.display()), error))
}

/// Removes temporary folders whose process is gone; what is still in use, too young or not ours to remove stays.
fn sweep(place: &Path) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for folder in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY)) {
        let path = folder.path();
        let old =
            folder.metadata().and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|age| age > SWEEP_AGE));
        let free = || File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        let silent = || {
            let servers = fs::read_dir(&path).into_iter().flatten().flatten();
            servers.filter(|entry| server::postmaster_of(&entry.path()).is_some()).count() == 0
        };
        if old && free() && silent() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_something_else_in_it_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("thesis.tex"), "").expect("a file");
        let error = inspect(folder.path()).expect_err("not a cluster's folder");
        assert_eq!(error.detail_text(), Some("It contains \"thesis.tex\"."));
    }

    #[test]
    fn a_folder_whose_first_start_was_cut_off_counts_as_new() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("worker-1")).expect("a folder");
        fs::create_dir(folder.path().join("coordinator.new")).expect("a folder");
        assert_eq!(inspect(folder.path()), Ok(None));
    }

    #[test]
    fn two_clusters_cannot_share_a_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = Folder::keep(folder.path(), &OsUser::Ourselves).expect("the first may have it");
        let error = Folder::keep(folder.path(), &OsUser::Ourselves).err().expect("the second may not");
        assert_eq!(error.code(), SqlState::OBJECT_IN_USE);
        drop(first);
        Folder::keep(folder.path(), &OsUser::Ourselves).expect("free again");
    }
}
