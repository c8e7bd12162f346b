//! A session with the admin database: both query protocols, text and binary results. Only PAUSE and WAIT_CLOSE wait.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::Console;
use super::command::{self, Command};
use super::tables;
use super::value::{Value, field};
use crate::backend::Frame;
use crate::error::{PgError, Result, Severity, SqlState};
use crate::session::Visitor;
use crate::transport::timer;
use crate::wire::answer::{self, Status};
use crate::wire::frame::{HEADER_LEN, begin_frame, end_frame};
use crate::wire::frontend::{self, Bind, Parse, Target};

struct Conversation<'c> {
    console: &'c Console,
    visitor: Visitor,
    status: Status,
    /// `None`: an empty text.
    statements: HashMap<Bytes, Option<Command>>,
    portals: HashMap<Bytes, Portal>,
    /// After an error in the extended protocol.
    skips: bool,
}

struct Portal {
    command: Option<Command>,
    formats: Vec<u16>,
    /// Rows that have not been fetched, the next one last; `None` until it is executed.
    rows: Option<Vec<Vec<Value>>>,
}

/// Greets the visitor and answers until he leaves, or is asked to.
pub async fn serve(console: &Console, visitor: Visitor) -> Result<()> {
    let mut conversation = Conversation {
        console,
        visitor,
        status: Status::Idle,
        statements: HashMap::new(),
        portals: HashMap::new(),
        skips: false,
    };
    conversation.greet();
    let ended = conversation.run().await;
    if let Err(error) = &ended {
        // Best effort: the client may be what was lost.
        answer::error(&error.clone().with_severity(Severity::Fatal), conversation.visitor.client.out());
        let _ = conversation.visitor.client.flush().await;
    }
    ended
}

impl Conversation<'_> {
    fn greet(&mut self) {
        let Visitor { client, key, .. } = &mut self.visitor;
        for (name, value) in PARAMETERS {
            answer::parameter_status(name, value, client.out());
        }
        answer::backend_key_data(key.pid, &key.key, client.out());
        self.ready();
    }

    async fn run(&mut self) -> Result<()> {
        loop {
            let frame = match self.visitor.client.buffered_frame()? {
                Some(frame) => frame,
                None => {
                    self.visitor.client.flush().await?;
                    tokio::select! {
                        frame = self.visitor.client.next_frame() => match frame? {
                            Some(frame) => frame,
                            None => return Ok(()),
                        },
                        () = self.visitor.stop.cancelled() => return Err(PgError::shut_down()),
                    }
                }
            };
            self.visitor.presence.note_request(Instant::now());
            match frame.tag {
                b'X' => return self.visitor.client.flush().await,
                b'Q' if !self.skips => self.query(&frame).await?,
                b'S' => self.sync(),
                // Left over from a COPY that there never was; or skipped.
                b'Q' | b'd' | b'c' | b'f' => {}
                b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'F' if self.skips => {}
                b'F' => {
                    self.fail(&PgError::unsupported("there are no functions here"));
                    self.ready();
                }
                _ => {
                    if let Err(error) = self.message(&frame).await {
                        if error.severity() == Severity::Fatal {
                            return Err(error);
                        }
                        self.fail(&error);
                        self.skips = true;
                    }
                }
            }
        }
    }

    /// All commands of a text, up to the first that fails.
    async fn query(&mut self, frame: &Frame) -> Result<()> {
        match self.run_all(frontend::read_query(frame.payload())?).await {
            Ok(()) => {}
            Err(error) if error.severity() == Severity::Fatal => return Err(error),
            Err(error) => self.fail(&error),
        }
        self.ready();
        Ok(())
    }

    async fn run_all(&mut self, text: &str) -> Result<()> {
        let commands = command::read_all(text)?;
        if commands.is_empty() {
            answer::empty_query(self.visitor.client.out());
        }
        for command in commands {
            let rows = self.begin(&command).await?;
            if let Command::Show(table) = command {
                let fields: Vec<_> = table.columns().iter().map(field).collect();
                answer::row_description(&fields, self.visitor.client.out());
            }
            self.put_rows(rows, &[]);
            answer::command_complete(command.tag(), self.visitor.client.out());
        }
        Ok(())
    }

    async fn message(&mut self, frame: &Frame) -> Result<()> {
        match frame.tag {
            b'P' => self.parse(frame),
            b'B' => self.bind(frame),
            b'D' => self.describe(frame),
            b'E' => self.execute(frame).await,
            b'C' => self.close(frame),
            b'H' => self.visitor.client.flush().await,
            tag => {
                let message = format!("invalid frontend message type {tag}");
                Err(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message))
            }
        }
    }

    fn parse(&mut self, frame: &Frame) -> Result<()> {
        let parse = Parse::read(frame.payload())?;
        let name = Bytes::copy_from_slice(parse.name);
        let is_known = self.statements.contains_key(&name);
        if is_known && !name.is_empty() {
            return Err(PgError::new(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(&name)),
            ));
        }
        if !is_known && self.statements.len() >= STATEMENTS_MAX {
            return Err(PgError::new(SqlState::CONFIGURATION_LIMIT_EXCEEDED, "too many prepared statements"));
        }
        let commands = command::read_all(parse.text)?;
        if commands.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(PgError::new(SqlState::SYNTAX_ERROR, message));
        }
        self.statements.insert(name, commands.into_iter().next());
        answer::parse_complete(self.visitor.client.out());
        Ok(())
    }

    fn bind(&mut self, frame: &Frame) -> Result<()> {
        let bind = Bind::read(&frame.bytes.slice(HEADER_LEN..))?;
        let command = self.statement(&bind.statement)?;
        if bind.parameter_count() > 0 {
            let message =
                format!("bind message supplies {} parameters, but the command takes none", bind.parameter_count());
            return Err(PgError::new(SqlState::PROTOCOL_VIOLATION, message));
        }
        let is_known = self.portals.contains_key(&bind.portal);
        if !is_known && self.portals.len() >= STATEMENTS_MAX {
            return Err(PgError::new(SqlState::CONFIGURATION_LIMIT_EXCEEDED, "too many portals"));
        }
        self.portals.insert(bind.portal.clone(), Portal { command, formats: bind.result_formats(), rows: None });
        answer::bind_complete(self.visitor.client.out());
        Ok(())
    }

    fn describe(&mut self, frame: &Frame) -> Result<()> {
        let (command, formats) = match Target::read(frame.payload())? {
            Target::Statement(name) => {
                let command = self.statement(name)?;
                answer::parameter_description(&[], self.visitor.client.out());
                (command, Vec::new())
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (portal.command.clone(), portal.formats.clone())
            }
        };
        let out = self.visitor.client.out();
        match command {
            Some(Command::Show(table)) => {
                let fields: Vec<_> = table.columns().iter().map(field).collect();
                let mut text = BytesMut::new();
                answer::row_description(&fields, &mut text);
                answer::fields_or_no_data(Some(&text.freeze().slice(HEADER_LEN..)), &formats, out);
            }
            _ => answer::no_data(out),
        }
        Ok(())
    }

    async fn execute(&mut self, frame: &Frame) -> Result<()> {
        let (name, limit) = frontend::read_execute(frame.payload())?;
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let Some(command) = portal.command.clone() else {
            answer::empty_query(self.visitor.client.out());
            return Ok(());
        };
        let mut rows = match portal.rows.take() {
            Some(rows) => rows,
            None => {
                let mut rows = self.begin(&command).await?;
                rows.reverse();
                rows
            }
        };
        let count = if limit == 0 { rows.len() } else { rows.len().min(limit as usize) };
        let fetched: Vec<_> = rows.drain(rows.len() - count..).rev().collect();
        self.put_rows(fetched, &portal.formats);
        if rows.is_empty() {
            answer::command_complete(command.tag(), self.visitor.client.out());
        } else {
            answer::portal_suspended(self.visitor.client.out());
        }
        portal.rows = Some(rows);
        self.portals.insert(Bytes::copy_from_slice(name), portal);
        Ok(())
    }

    fn close(&mut self, frame: &Frame) -> Result<()> {
        match Target::read(frame.payload())? {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        answer::close_complete(self.visitor.client.out());
        Ok(())
    }

    fn sync(&mut self) {
        self.skips = false;
        self.ready();
    }

    fn statement(&self, name: &[u8]) -> Result<Option<Command>> {
        self.statements.get(name).cloned().ok_or_else(|| {
            PgError::new(
                SqlState::INVALID_SQL_STATEMENT_NAME,
                format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name)),
            )
        })
    }

    /// Does what the command asks for. The rows of a SHOW.
    ///
    /// Errors: 25P02 in a failed transaction, 26000, 42501, what a reload says.
    async fn begin(&mut self, command: &Command) -> Result<Vec<Vec<Value>>> {
        // Running, it is cancelled when its client leaves, as a statement is. Before anybody can see that it began.
        self.visitor.key.handle.begin().await;
        let begun = self.run_command(command).await;
        self.visitor.key.handle.end();
        begun
    }

    async fn run_command(&mut self, command: &Command) -> Result<Vec<Vec<Value>>> {
        if self.status == Status::Failed && !matches!(command, Command::Commit | Command::RollBack) {
            return Err(PgError::new(
                SqlState::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        match command {
            Command::Show(table) => return Ok(tables::rows(*table, self.console)),
            Command::Reload => self.reload()?,
            Command::Pause(database) => {
                self.check_may_change("pause the pools", database.as_deref())?;
                self.pause().await?;
            }
            Command::Resume(database) => {
                self.check_may_change("resume the pools", database.as_deref())?;
                if !self.console.nodes.resume() {
                    return Err(not_in_state("the pools are not paused"));
                }
            }
            Command::Reconnect(database) => {
                self.check_may_change("replace connections", database.as_deref())?;
                self.console.nodes.reconnect();
            }
            Command::WaitClose(database) => {
                self.check_may_change("wait for connections", database.as_deref())?;
                self.wait_until(|console| console.nodes.closing() == 0).await?;
            }
            Command::Disable(database) => {
                self.check_may_change("close the database", Some(database))?;
                self.console.door.close();
            }
            Command::Enable(database) => {
                self.check_may_change("open the database", Some(database))?;
                self.console.door.open();
            }
            Command::Kill(database) => {
                self.check_may_change("end sessions", database.as_deref())?;
                // First, so that nobody who comes meanwhile gets on.
                self.console.nodes.pause();
                let served = &self.console.catalog.settings().dbname;
                self.console.end_sessions(|presence| *presence.database == **served).await;
            }
            Command::KillClient(id) => {
                self.check_may_change("end sessions", None)?;
                if self.console.end_sessions(|presence| presence.id == *id).await == 0 {
                    let message = format!("client {id} does not exist");
                    return Err(PgError::new(SqlState::UNDEFINED_OBJECT, message).hint("See SHOW CLIENTS, column id."));
                }
            }
            Command::Shutdown(shutdown) => {
                self.check_may_change("end the process", None)?;
                (self.console.shutdown)(*shutdown);
            }
            Command::Begin => self.status = Status::InTransaction,
            Command::Commit | Command::RollBack => self.status = Status::Idle,
            Command::Set => {}
            Command::Deallocate(None) => self.statements.clear(),
            Command::Deallocate(Some(name)) => {
                self.statement(name)?;
                self.statements.remove(name);
            }
        }
        Ok(Vec::new())
    }

    /// Errors: 42501 for who may only look, 3D000 for the name of another database.
    fn check_may_change(&self, what: &str, database: Option<&str>) -> Result<()> {
        if !self.visitor.may_change {
            return Err(PgError::new(SqlState::INSUFFICIENT_PRIVILEGE, format!("permission denied to {what}"))
                .detail("It is for the roles that are listed in admin.users."));
        }
        let served = &self.console.catalog.settings().dbname;
        match database.filter(|name| name != served) {
            None => Ok(()),
            Some(name) => Err(PgError::new(
                SqlState::from_bytes(b"3D000").expect("a valid SQLSTATE"),
                format!("database \"{name}\" does not exist"),
            )
            .hint(format!("One database is served: \"{served}\"."))),
        }
    }

    /// Pauses all pools and waits until nobody has a connection.
    ///
    /// Errors: 55000 when they are paused; 57014 when it is cancelled, what ends this session: then all goes on.
    async fn pause(&mut self) -> Result<()> {
        let nodes = &self.console.nodes;
        if !nodes.pause() {
            return Err(not_in_state("the pools are paused already"));
        }
        let paused = self.wait_until(|console| console.nodes.open() == 0).await;
        if paused.is_err() {
            nodes.resume();
        }
        paused
    }

    /// Errors: 57014 when it is cancelled, what ends this session.
    async fn wait_until(&self, is_so: impl Fn(&Console) -> bool) -> Result<()> {
        let Visitor { key, stop, .. } = &self.visitor;
        let come = async {
            while !is_so(self.console) {
                // One look is cheap, and whoever waits here has time.
                let slept = stop.run_until_cancelled(timer::sleep(LOOK_EVERY)).await;
                slept.ok_or_else(PgError::shut_down)?;
            }
            Ok(())
        };
        key.handle.unless_cancelled(come).await
    }

    fn reload(&mut self) -> Result<()> {
        self.check_may_change("reload the configuration", None)?;
        let reloaded = (self.console.reload)()?;
        let out = self.visitor.client.out();
        for (what, names) in [
            ("in force now", reloaded.changed),
            ("renewed, in force now", reloaded.renewed),
            ("in force after a restart", reloaded.need_restart),
        ] {
            if !names.is_empty() {
                let notice = format!("{what}: {}", names.join(", "));
                answer::notice("NOTICE", &PgError::notice(notice), out);
            }
        }
        Ok(())
    }

    fn put_rows(&mut self, rows: Vec<Vec<Value>>, formats: &[u16]) {
        let out = self.visitor.client.out();
        for row in rows {
            let at = begin_frame(out, b'D');
            out.put_u16(row.len() as u16);
            for (column, value) in row.iter().enumerate() {
                let format = if formats.len() == 1 { formats[0] } else { formats.get(column).copied().unwrap_or(0) };
                value.put(format == 1, out);
            }
            end_frame(out, at);
        }
    }

    fn fail(&mut self, error: &PgError) {
        if self.status == Status::InTransaction {
            self.status = Status::Failed;
        }
        answer::error(error, self.visitor.client.out());
    }

    fn ready(&mut self) {
        if self.status == Status::Idle {
            self.portals.clear();
        }
        answer::ready(self.status, self.visitor.client.out());
        self.visitor.presence.note_answered(self.status != Status::Idle);
    }
}

fn not_in_state(message: &str) -> PgError {
    PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

fn no_portal(name: &[u8]) -> PgError {
    PgError::new(SqlState::INVALID_CURSOR_NAME, format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}

/// What drivers look for. The version is written as PgBouncer writes its own.
const PARAMETERS: &[(&str, &str)] = &[
    ("server_version", concat!(env!("CARGO_PKG_VERSION"), "/tenantry")),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("application_name", ""),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
];
const STATEMENTS_MAX: usize = 1000;
const LOOK_EVERY: Duration = Duration::from_millis(20);
