//! Passwords of roles, in a file of libpq's form: `host:port:database:user:password`, the first line that fits counts.
//!
//! `*` fits everything, a backslash takes `:` and `\` as they are. Source: PostgreSQL manual, "The Password File".

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{PgError, Result, SqlState};

/// Empty where there is no file. Cheap to clone.
#[derive(Clone, Default)]
pub struct PasswordFile {
    lines: Arc<[Line]>,
}

struct Line {
    /// Host, port, database, user; none fits everything.
    who: [Option<String>; 4],
    password: String,
}

impl std::fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordFile").field("lines", &self.lines.len()).finish()
    }
}

impl PasswordFile {
    /// Errors: F0000 when it can't be read, or others may read it.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |why: &dyn std::fmt::Display| {
            PgError::new(SqlState::CONFIG_FILE_ERROR, format!("could not use password file \"{}\"", path.display()))
                .detail(why.to_string())
        };
        let mode = std::fs::metadata(path).map_err(|error| failed(&error))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(failed(&"Permissions should be u=rw (0600) or less."));
        }
        Ok(Self::parse(&std::fs::read_to_string(path).map_err(|error| failed(&error))?))
    }

    /// Lines that are none are skipped, as libpq does.
    fn parse(text: &str) -> Self {
        Self { lines: text.lines().filter(|line| !line.starts_with('#')).filter_map(Line::parse).collect() }
    }

    pub fn find(&self, host: &str, port: u16, database: &str, user: &str) -> Option<&str> {
        let port = port.to_string();
        let fits = |line: &&Line| {
            let asked = [host, &port, database, user];
            line.who.iter().zip(asked).all(|(who, asked)| who.as_ref().is_none_or(|who| who == asked))
        };
        self.lines.iter().find(fits).map(|line| line.password.as_str())
    }
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = vec![String::new()];
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            match character {
                ':' if fields.len() < 5 => fields.push(String::new()),
                // What follows the fifth colon belongs to nothing.
                ':' => break,
                '\\' => fields.last_mut()?.extend(characters.next()),
                character => fields.last_mut()?.push(character),
            }
        }
        let password = fields.pop()?;
        let who: [String; 4] = fields.try_into().ok()?;
        Some(Self { who: who.map(|field| (field != "*").then_some(field)), password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let file = PasswordFile::parse(
            "# comment\n10.0.0.6:5432:shop:app:one\n*:*:shop:app:tw\\:o\\\\\nnonsense\n*:*:*:*:three\n",
        );
        for (host, port, database, user, password) in [
            ("10.0.0.6", 5432, "shop", "app", "one"),
            ("10.0.0.6", 5433, "shop", "app", "tw:o\\"),
            ("10.0.0.7", 5432, "shop", "other", "three"),
        ] {
            assert_eq!(file.find(host, port, database, user), Some(password));
        }
        assert_eq!(PasswordFile::parse("a:1:b:c:d").find("a", 1, "b", "x"), None);
        assert_eq!(PasswordFile::default().find("a", 1, "b", "c"), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (mode, is_fine) in [(0o600, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("they can be set");
            assert_eq!(PasswordFile::read(file.path()).is_ok(), is_fine);
        }
    }
}
