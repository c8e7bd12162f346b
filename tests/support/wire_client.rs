//! A client of the wire protocol that says exactly what it is told to.

#![allow(dead_code, reason = "each test program compiles this module and uses a part of it")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use tenantry::wire::frontend::{self, Bind};
use tenantry::wire::startup::write_session;

/// A client that says exactly what it is told to.
pub struct Client {
    stream: TcpStream,
    pub out: BytesMut,
    /// Of BackendKeyData.
    pub pid: u32,
    pub key: Vec<u8>,
}

impl Client {
    /// Logs in on this port of the loopback, as postgres unless the parameters say otherwise.
    pub fn connect(port: u16, parameters: &[(&str, &str)]) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the proxy listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut client = Self { stream, out: BytesMut::new(), pid: 0, key: Vec::new() };
        let mut all = vec![("user", "postgres"), ("database", "postgres")];
        all.extend(parameters);
        write_session(&all, &mut client.out);
        client.answer();
        client
    }

    pub fn query(&mut self, sql: &str) -> String {
        frontend::query(sql, &mut self.out);
        self.answer()
    }

    /// Sends a statement; `answer` reads what it gives.
    pub fn send(&mut self, sql: &str) {
        frontend::query(sql, &mut self.out);
        self.flush();
    }

    pub fn flush(&mut self) {
        self.stream.write_all(&self.out.split()).expect("the proxy reads");
    }

    /// Goes without a farewell; in haste the peer is told at once that nothing will be read (RST).
    pub fn leave(self, in_haste: bool) {
        if in_haste {
            socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("it is open");
        }
    }

    /// Prepares a statement by name and runs it, with values as text.
    pub fn run_prepared(&mut self, name: &str, sql: &str, values: &[Option<&str>]) -> String {
        frontend::parse(name.as_bytes(), sql, &[], &mut self.out);
        self.bind_and_execute(name, values);
        frontend::sync(&mut self.out);
        self.answer()
    }

    pub fn bind_and_execute(&mut self, name: &str, values: &[Option<&str>]) {
        Bind::text(values).write(b"", name.as_bytes(), &mut self.out);
        frontend::execute(b"", 0, &mut self.out);
    }

    /// Sends what was queued, and reads up to ReadyForQuery: tags and payloads.
    pub fn frames(&mut self) -> Vec<(u8, Vec<u8>)> {
        self.flush();
        let mut frames = Vec::new();
        while let Some(frame) = self.frame() {
            let is_last = frame.0 == b'Z';
            frames.push(frame);
            if is_last {
                break;
            }
        }
        frames
    }

    /// `None` at the end.
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut payload = vec![0; length - 4];
        self.stream.read_exact(&mut payload).expect("frames are whole");
        Some((head[0], payload))
    }

    /// Sends what was queued, and reads up to ReadyForQuery. Messages by tag; of rows, command tags, errors (the
    /// SQLSTATE) and the transaction's status what they say: `T D(1,a) C(SELECT 1) Z(I)`.
    pub fn answer(&mut self) -> String {
        self.flush();
        let mut said = Vec::new();
        loop {
            let Some((tag, payload)) = self.frame() else {
                said.push("closed".to_owned());
                return said.join(" ");
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match tag {
                b'D' => {
                    let row = tenantry::wire::rows::read_data_row(&payload).unwrap();
                    let row: Vec<_> = row.iter().map(|v| v.map_or("NULL".to_owned(), text)).collect();
                    said.push(format!("D({})", row.join(",")));
                }
                b'C' => said.push(format!("C({})", text(&payload[..payload.len() - 1]))),
                b'E' => {
                    let code = payload.split(|b| *b == 0).find_map(|field| field.strip_prefix(b"C"));
                    said.push(format!("E({})", text(code.unwrap_or_default())));
                }
                b'K' => {
                    self.pid = u32::from_be_bytes(payload[..4].try_into().expect("four bytes"));
                    self.key = payload[4..].to_vec();
                }
                b'S' | b'N' | b'R' => {}
                b'Z' => {
                    said.push(format!("Z({})", payload[0] as char));
                    return said.join(" ");
                }
                tag => said.push((tag as char).to_string()),
            }
        }
    }
}
