//! Asking a server what a statement takes and gives.

use bytes::Bytes;

use super::server::Server;
use crate::error::{PgError, Result};
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::Target;
use crate::wire::reply_queue::{To, Verdict};
use crate::wire::rows;

/// Parameter types, and the columns where the statement returns rows.
#[derive(Debug, Clone)]
pub struct Description {
    pub parameters: Vec<u32>,
    /// A RowDescription's payload with all formats text.
    pub fields: Option<Bytes>,
    /// Binary values of parameters, of columns, name types that users have made.
    pub parameters_nest: bool,
    pub fields_nest: bool,
}

impl Description {
    pub fn new(parameters: Vec<u32>, fields: Option<Bytes>) -> Self {
        Self { parameters, fields, parameters_nest: false, fields_nest: false }
    }

    /// Of the rows that the statement returns.
    pub fn columns(&self) -> usize {
        self.fields.as_deref().and_then(rows::column_count).map_or(0, usize::from)
    }
}

impl Server {
    /// Parses `sql` as the unnamed statement and describes it. Nothing is run.
    ///
    /// Errors: the server's own, e.g. 42P01, 42703.
    pub async fn describe(&mut self, sql: &str, types: &[u32]) -> Result<Description> {
        self.queue_parse("", sql, types, To::Nobody);
        self.queue_describe(Target::Statement(b""), To::Nobody);
        self.queue_sync();
        self.flush().await?;
        let mut description = Description::new(Vec::new(), None);
        let mut failure = None;
        while self.owes() {
            let (frame, verdict) = self.next_reply().await?;
            match (verdict, frame.tag) {
                (Verdict::Error(_), _) => {
                    failure.get_or_insert(PgError::from_body(frame.payload()));
                    if self.is_poisoned() {
                        break;
                    }
                }
                (_, b't') => {
                    let parameters = rows::read_parameter_description(frame.payload());
                    description.parameters = parameters.map_err(|_| self.lost("server sent a broken description"))?;
                }
                (_, b'T') => description.fields = Some(frame.bytes.slice(HEADER_LEN..)),
                _ => {}
            }
        }
        failure.map_or(Ok(description), Err)
    }
}
