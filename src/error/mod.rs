//! The one error type: Postgres's own fields, built where the fact is known.
//!
//! Source: PostgreSQL manual, "Error and Notice Message Fields" and "Error Message Style Guide".

pub mod sqlstate;

pub use sqlstate::SqlState;

/// An error as a Postgres client sees it.
///
/// `message` is one line, lower-case start, no full stop; `detail` states facts, `hint` says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgError {
    inner: Box<Fields>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    severity: Severity,
    code: SqlState,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    /// Fields a server sent that nobody here builds: position, context, schema, table, column, constraint, ...
    other: Vec<(u8, String)>,
}

/// How far an error reaches: the statement, or the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Fatal,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

pub type Result<T> = std::result::Result<T, PgError>;

impl PgError {
    /// An error that ends the statement.
    pub fn new(code: SqlState, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Fields {
                severity: Severity::Error,
                code,
                message: message.into(),
                detail: None,
                hint: None,
                other: Vec::new(),
            }),
        }
    }

    /// An error that ends the connection.
    pub fn fatal(code: SqlState, message: impl Into<String>) -> Self {
        let mut error = Self::new(code, message);
        error.inner.severity = Severity::Fatal;
        error
    }

    /// SQLSTATE 57P01: the proxy ends.
    pub fn shut_down() -> Self {
        Self::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
    }

    /// What a client sees as `NOTICE: message`.
    pub fn notice(message: impl Into<String>) -> Self {
        Self::new(SqlState::SUCCESSFUL_COMPLETION, message)
    }

    /// SQLSTATE 0A000: a thing that Tenantry does not do (yet), refused before anything ran.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(SqlState::FEATURE_NOT_SUPPORTED, message)
    }

    pub fn with_severity(mut self, severity: Severity) -> Self {
        self.inner.severity = severity;
        self
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.inner.detail = Some(detail.into());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.inner.hint = Some(hint.into());
        self
    }

    pub fn code(&self) -> SqlState {
        self.inner.code
    }

    pub fn message(&self) -> &str {
        &self.inner.message
    }

    pub fn severity(&self) -> Severity {
        self.inner.severity
    }

    pub fn detail_text(&self) -> Option<&str> {
        self.inner.detail.as_deref()
    }

    pub fn hint_text(&self) -> Option<&str> {
        self.inner.hint.as_deref()
    }

    /// What called what, down to the error; none where it is the statement's own.
    pub fn context(&self) -> Option<&str> {
        self.inner.other.iter().find(|(key, _)| *key == b'W').map(|(_, context)| context.as_str())
    }

    /// Where the rows come by a COPY of the proxy's own: its place in it is nothing that the client knows.
    pub fn outside_copy(mut self) -> Self {
        self.inner.other.retain_mut(|(key, context)| {
            if *key != b'W' {
                return true;
            }
            // What called what comes first, so that the COPY stands last.
            let (callers, last) = context.rsplit_once('\n').unwrap_or(("", context));
            if last.starts_with("COPY ") {
                *context = callers.to_owned();
            }
            !context.is_empty()
        });
        self
    }

    /// Where the client's COPY was one into `made` in the place of `table`.
    pub fn in_copy_of(mut self, made: &str, table: &str) -> Self {
        for (_, context) in self.inner.other.iter_mut().filter(|(key, _)| *key == b'W') {
            *context = context.replacen(&format!("COPY {made},"), &format!("COPY {table},"), 1);
        }
        self
    }

    /// Every field with its wire code, in the order Postgres sends them.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &str)> {
        let f = &*self.inner;
        let code = std::str::from_utf8(f.code.bytes()).expect("SQLSTATEs are ASCII by construction");
        [(b'S', f.severity.as_str()), (b'V', f.severity.as_str()), (b'C', code), (b'M', f.message.as_str())]
            .into_iter()
            .chain(f.detail.as_deref().map(|d| (b'D', d)))
            .chain(f.hint.as_deref().map(|h| (b'H', h)))
            .chain(f.other.iter().map(|(k, v)| (*k, v.as_str())))
    }

    /// The error with every text field passed through `change`, by wire code.
    pub fn map_fields(mut self, mut change: impl FnMut(u8, String) -> String) -> Self {
        let f = &mut *self.inner;
        f.message = change(b'M', std::mem::take(&mut f.message));
        f.detail = f.detail.take().map(|d| change(b'D', d));
        f.hint = f.hint.take().map(|h| change(b'H', h));
        for (key, value) in &mut f.other {
            *value = change(*key, std::mem::take(value));
        }
        self
    }

    /// Reads the body of an ErrorResponse or NoticeResponse; unknown bytes become replacement characters,
    /// a missing SQLSTATE becomes XX000.
    pub fn from_body(mut body: &[u8]) -> Self {
        let mut error = Self::new(SqlState::INTERNAL_ERROR, "");
        while let Some((&key, rest)) = body.split_first() {
            if key == 0 {
                break;
            }
            let end = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
            let value = String::from_utf8_lossy(&rest[..end]).into_owned();
            body = rest.get(end + 1..).unwrap_or(&[]);
            match key {
                b'S' => {}
                b'V' => {
                    if value == "FATAL" || value == "PANIC" {
                        error.inner.severity = Severity::Fatal
                    }
                }
                b'C' => error.inner.code = SqlState::from_bytes(value.as_bytes()).unwrap_or(SqlState::INTERNAL_ERROR),
                b'M' => error.inner.message = value,
                b'D' => error.inner.detail = Some(value),
                b'H' => error.inner.hint = Some(value),
                _ => error.inner.other.push((key, value)),
            }
        }
        error
    }

    /// Adds a field by its wire code, e.g. `b'P'` position or `b'W'` context.
    pub fn field(mut self, key: u8, value: impl Into<String>) -> Self {
        self.inner.other.push((key, value.into()));
        self
    }
}

impl std::fmt::Display for PgError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}]", self.inner.message, self.inner.code)?;
        if let Some(detail) = &self.inner.detail {
            write!(f, " DETAIL: {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PgError {}

impl From<std::io::Error> for PgError {
    fn from(error: std::io::Error) -> Self {
        PgError::new(SqlState::CONNECTION_FAILURE, format!("connection lost: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_read_from_the_wire_keeps_every_field() {
        let body =
            b"SERROR\0VERROR\0C23505\0Mduplicate key\0DKey (id)=(1) already exists.\0sshop\0torders\0nthe_pkey\0\0";
        let error = PgError::from_body(body);
        assert_eq!(error.code(), SqlState::UNIQUE_VIOLATION);
        let fields: Vec<_> = error.fields().collect();
        assert!(fields.contains(&(b'n', "the_pkey")) && fields.contains(&(b'D', "Key (id)=(1) already exists.")));
    }

    #[test]
    fn a_truncated_error_body_is_still_an_error() {
        assert_eq!(PgError::from_body(b"C42").code(), SqlState::INTERNAL_ERROR);
        assert_eq!(PgError::from_body(b"").message(), "");
    }
}
