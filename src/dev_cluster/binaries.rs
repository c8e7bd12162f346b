//! Finds the PostgreSQL server programs on this machine.
//!
//! Looked at in this order: `/usr/lib/postgresql/*/bin` (Debian, Ubuntu), newest version first;
//! `pg_config --bindir`; the folders of `PATH`. A folder counts when it has both `initdb` and `postgres`.

use crate::error::{PgError, Result, SqlState};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with `initdb` and `postgres` of one PostgreSQL version.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// The newest installed version, at least 15, or the one whose major version is asked for, e.g. `15`.
    ///
    /// Errors: 55000 when there is none; the hint says how to install one.
    pub fn find(major: Option<&str>) -> Result<Self> {
        let mut found = candidates().into_iter().filter(|folder| is_server_folder(folder));
        let fits = |version: String| match major {
            None => version.parse().is_ok_and(|version: u32| version >= OLDEST),
            Some(major) => version == major,
        };
        let folder = found.find(|folder| version(folder).is_some_and(fits));
        folder.map(|folder| Self { folder }).ok_or_else(|| not_installed(major))
    }

    pub fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    pub fn pg_basebackup(&self) -> PathBuf {
        self.folder.join("pg_basebackup")
    }

    pub fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir(DEBIAN_FOLDER)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    debian.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let asked = Command::new("pg_config").arg("--bindir").output().ok();
    let asked = asked.and_then(|output| String::from_utf8(output.stdout).ok()).map(|text| PathBuf::from(text.trim()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian.into_iter().map(|(_, folder)| folder).chain(asked).chain(std::env::split_paths(&path)).collect()
}

fn is_server_folder(folder: &Path) -> bool {
    folder.is_absolute() && folder.join("initdb").is_file() && folder.join("postgres").is_file()
}

/// The major version as `PG_VERSION` files have it, from e.g. `postgres (PostgreSQL) 15.10 (Debian 15.10-0)`.
fn version(folder: &Path) -> Option<String> {
    let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    major_version(&String::from_utf8(output.stdout).ok()?)
}

fn major_version(text: &str) -> Option<String> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(number.chars().take_while(char::is_ascii_digit).collect())
}

fn not_installed(major: Option<&str>) -> PgError {
    let which = major.map_or(format!("{OLDEST} or later"), str::to_string);
    let error = PgError::new(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("server programs of PostgreSQL {which} were not found"),
    )
    .detail(format!("Looked for initdb and postgres in {DEBIAN_FOLDER}/*/bin, pg_config --bindir and PATH."));
    match major {
        None => error.hint("Install them, on Debian and Ubuntu by: apt-get install postgresql"),
        Some(major) => error.hint(format!(
            "The data folder was made by PostgreSQL {major}: install postgresql-{major}, or choose an empty folder with --data."
        )),
    }
}

/// What Tenantry supports on workers and coordinator.
const OLDEST: u32 = 15;
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_postgres_prints() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.10 (Debian 15.10-0+deb12u1)\n").as_deref(), Some("15"));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1\n").as_deref(), Some("18"));
        assert_eq!(major_version("postgres\n"), None);
    }

    #[test]
    fn a_version_that_is_not_installed_is_named_in_the_error() {
        let error = Binaries::find(Some("7")).expect_err("PostgreSQL 7 is not installed");
        assert_eq!(error.message(), "server programs of PostgreSQL 7 were not found");
    }
}
