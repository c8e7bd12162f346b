//! One connection to a server: buffers, transaction status, what it has prepared and which settings it carries.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::prepared::Prepared;
use super::settings::SessionSettings;
use crate::error::{PgError, Result, SqlState};
use crate::wire::answer::Status;
use crate::wire::{frame, frontend, rows};

/// A row in text format.
pub type Row = Vec<Option<String>>;

/// One whole frame, taken out of the read buffer.
#[derive(Debug)]
pub struct Frame {
    pub tag: u8,
    /// The frame as it came, header included.
    pub bytes: Bytes,
}

impl Frame {
    pub fn payload(&self) -> &[u8] {
        &self.bytes[frame::HEADER_LEN..]
    }
}

/// A server connection after login.
pub struct Server {
    stream: TcpStream,
    read: BytesMut,
    write: BytesMut,
    status: Status,
    /// ReadyForQuery messages still due: 0 means that the protocol position is known and quiet.
    ready_due: u32,
    broken: bool,
    /// Process id and secret for cancel requests.
    pub key: (u32, Bytes),
    /// ParameterStatus values, newest last.
    parameters: Vec<(String, String)>,
    pub prepared: Prepared,
    pub settings: SessionSettings,
}

impl Server {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            write: BytesMut::new(),
            status: Status::Idle,
            ready_due: 0,
            broken: false,
            key: (0, Bytes::new()),
            parameters: Vec::new(),
            prepared: Prepared::default(),
            settings: SessionSettings::default(),
        }
    }

    /// Transaction status as of the last ReadyForQuery.
    pub fn status(&self) -> Status {
        self.status
    }

    /// May the next user have this connection?
    pub fn is_reusable(&self) -> bool {
        !self.broken
            && self.ready_due == 0
            && self.status == Status::Idle
            && self.read.is_empty()
            && self.write.is_empty()
    }

    /// Never to be reused; closed on drop without another byte.
    pub fn poison(&mut self) {
        self.broken = true;
    }

    pub fn is_poisoned(&self) -> bool {
        self.broken
    }

    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// Notes a ParameterStatus payload.
    pub fn note_parameter(&mut self, payload: &[u8]) {
        let mut parts = payload.split(|&b| b == 0);
        if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value).into_owned());
            match self.parameters.iter_mut().find(|(n, _)| *n == name) {
                Some((_, old)) => *old = value,
                None => self.parameters.push((name.into_owned(), value)),
            }
        }
    }

    /// Bytes that leave with the next `flush`. Whoever queues a Query or a Sync says so with `expect_ready`.
    pub fn queue(&mut self) -> &mut BytesMut {
        &mut self.write
    }

    pub fn queue_query(&mut self, sql: &str) {
        frontend::query(sql, &mut self.write);
        self.ready_due += 1;
    }

    pub fn queue_sync(&mut self) {
        frontend::sync(&mut self.write);
        self.ready_due += 1;
    }

    /// A Query or Sync was put into the queue as raw bytes.
    pub fn expect_ready(&mut self) {
        self.ready_due += 1;
    }

    pub fn ready_due(&self) -> u32 {
        self.ready_due
    }

    /// Notes a ReadyForQuery payload.
    pub fn note_ready(&mut self, payload: &[u8]) -> Result<Status> {
        let status = payload.first().copied().and_then(Status::from_byte);
        match (status, self.ready_due.checked_sub(1)) {
            (Some(status), Some(due)) => {
                self.status = status;
                self.ready_due = due;
                Ok(status)
            }
            _ => Err(self.lost("unexpected ReadyForQuery")),
        }
    }

    /// Sends what is queued.
    ///
    /// Not cancel safe: a cancelled write leaves the position unknown, so the connection counts as broken meanwhile.
    pub async fn flush(&mut self) -> Result<()> {
        if self.write.is_empty() {
            return Ok(());
        }
        let was_broken = std::mem::replace(&mut self.broken, true);
        self.stream.write_all(&self.write).await.map_err(|e| self.lost(&e.to_string()))?;
        self.broken = was_broken;
        self.write.clear();
        Ok(())
    }

    /// What has been received and not yet consumed.
    pub fn received(&self) -> &[u8] {
        &self.read
    }

    pub fn consume(&mut self, bytes: usize) {
        self.read.advance(bytes);
    }

    /// Waits for more bytes. Cancel safe: what was read stays in the buffer.
    pub async fn receive(&mut self) -> Result<()> {
        self.read.reserve(if self.read.capacity() > READ_LEN { READ_STREAMING_LEN } else { READ_LEN });
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Err(self.lost("server closed the connection unexpectedly")),
            Ok(_) => Ok(()),
            Err(e) => Err(self.lost(&e.to_string())),
        }
    }

    /// The next whole frame. Cancel safe.
    pub async fn next_frame(&mut self) -> Result<Frame> {
        loop {
            match frame::header(&self.read) {
                Err(_) => return Err(self.lost("server sent a broken message")),
                Ok(Some(h)) if self.read.len() >= h.len => {
                    return Ok(Frame { tag: h.tag, bytes: self.read.split_to(h.len).freeze() });
                }
                Ok(Some(h)) => self.read.reserve(h.len - self.read.len()),
                Ok(None) => {}
            }
            self.receive().await?;
        }
    }

    /// Does the socket look as it should while idle: open, and with nothing to read?
    pub(super) fn looks_alive(&self) -> bool {
        let mut byte = [0u8; 1];
        matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    }

    fn lost(&mut self, why: &str) -> PgError {
        self.broken = true;
        PgError::new(SqlState::CONNECTION_FAILURE, "connection to a node was lost").detail(why.to_owned())
    }

    /// Runs SQL in the simple protocol and returns the rows of its last result, as text.
    ///
    /// Errors: the server's own, after its ReadyForQuery; the connection stays usable then.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        self.queue_query(sql);
        self.flush().await?;
        self.finish_query().await
    }

    /// Reads the answer of a simple query whose bytes are on their way, up to its ReadyForQuery.
    pub async fn finish_query(&mut self) -> Result<Vec<Row>> {
        let (mut result, mut error) = (Vec::new(), None);
        loop {
            let frame = self.next_frame().await?;
            match frame.tag {
                b'T' => result.clear(),
                b'D' => {
                    let row = rows::read_data_row(frame.payload())?;
                    result.push(row.iter().map(|v| v.map(|v| String::from_utf8_lossy(v).into_owned())).collect());
                }
                b'E' => {
                    let server_error = PgError::from_body(frame.payload());
                    if server_error.severity() == crate::error::Severity::Fatal {
                        self.broken = true;
                        return Err(server_error);
                    }
                    error.get_or_insert(server_error);
                }
                b'S' => self.note_parameter(frame.payload()),
                b'Z' => {
                    self.note_ready(frame.payload())?;
                    return error.map_or(Ok(result), Err);
                }
                b'G' => {
                    // A COPY FROM STDIN that nobody feeds: end it, its error follows.
                    frontend::copy_fail("no data is sent here", &mut self.write);
                    self.flush().await?;
                }
                _ => {}
            }
        }
    }
}

const READ_LEN: usize = 8 * 1024;
const READ_STREAMING_LEN: usize = 64 * 1024;
