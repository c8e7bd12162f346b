//! Frames written by hand and answers in short: `T 2`, `D 1,x`, `C SELECT 1`, `E 42P01`, `N 01000`, `Z I`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

pub struct Wire {
    stream: TcpStream,
    buffer: VecDeque<u8>,
    pub key: (u32, Vec<u8>),
    /// Settings that were reported, and their last values.
    pub told: BTreeMap<String, String>,
}

impl Wire {
    pub fn connect(port: u16) -> Self {
        Self::from(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens"))
    }

    pub fn login(port: u16, user: &str) -> Self {
        Self::login_with(port, user, &[])
    }

    /// With more startup parameters.
    pub fn login_with(port: u16, user: &str, parameters: &[(&str, &str)]) -> Self {
        let mut wire = Self::connect(port);
        let all = [&[("user", user), ("database", "postgres")], parameters].concat();
        wire.send(&startup_packet(3 << 16, &all));
        wire.answers_until("Z");
        wire
    }

    /// Closes so that the other side is told by a reset, not by an end.
    pub fn reset(self) {
        let linger = Some(Duration::ZERO);
        socket2::SockRef::from(&self.stream).set_linger(linger).expect("a socket");
    }

    /// Its kernel takes but little of what is not read. By itself it may take megabytes, and compacts them to take a little more now and
    /// then, for a minute where memory is short.
    pub fn take_little(&self) {
        socket2::SockRef::from(&self.stream).set_recv_buffer_size(64 << 10).expect("a socket");
    }

    /// A second handle, to read while this one sends.
    pub fn reader(&self) -> TcpStream {
        self.stream.try_clone().expect("a socket")
    }

    /// The next frame in short, whatever came before it; parameters are left out.
    pub fn next(&mut self) -> String {
        loop {
            let Some((tag, payload)) = self.next_frame() else { return "closed".to_owned() };
            if let Some(answer) = in_short(tag, &payload) {
                return answer;
            }
        }
    }

    /// A server may close before it has read everything: what it said counts.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn send_and_wait(&mut self, bytes: &[u8]) {
        self.send(bytes);
        self.rest();
    }

    pub fn shut(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    pub fn query(&mut self, sql: &str) -> Vec<String> {
        self.send(&frame(&format!("Q {sql}")));
        self.answers_until("Z")
    }

    /// Answers up to the ReadyForQuery behind the first that begins so, or to the end of the connection.
    pub fn answers_until(&mut self, last: &str) -> Vec<String> {
        let (mut answers, mut seen) = (Vec::new(), false);
        while let Some((tag, payload)) = self.next_frame() {
            if tag == b'K' {
                self.key = (u32::from_be_bytes(payload[..4].try_into().unwrap()), payload[4..].to_vec());
            }
            let Some(answer) = in_short(tag, &payload) else { continue };
            seen |= answer.starts_with(last);
            answers.push(answer);
            if seen && tag == b'Z' {
                return answers;
            }
        }
        answers.push("closed".to_owned());
        answers
    }

    /// Whole frames up to the ReadyForQuery.
    pub fn frames_until_ready(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next_frame() {
            let last = frame.0 == b'Z';
            frames.push(frame);
            if last {
                break;
            }
        }
        frames
    }

    pub fn rest_without_parameters(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next_frame()).filter_map(|(tag, payload)| in_short(tag, &payload)).collect()
    }

    /// Reads until the other side closes.
    pub fn rest(&mut self) {
        let mut rest = [0; 4096];
        while matches!(self.stream.read(&mut rest), Ok(n) if n > 0) {}
    }

    /// All bytes until the other side closes, those that were read ahead too.
    pub fn raw_to_the_end(&mut self) -> Vec<u8> {
        let mut all: Vec<u8> = self.buffer.drain(..).collect();
        let _ = self.stream.read_to_end(&mut all);
        all
    }

    pub fn raw_until_ready(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut piece = [0; 4096];
        while !all.ends_with(b"Z\0\0\0\x05I") {
            match self.stream.read(&mut piece) {
                Ok(n) if n > 0 => all.extend(&piece[..n]),
                _ => break,
            }
        }
        all
    }

    pub fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("not zero");
        let quiet = matches!(self.stream.peek(&mut [0]), Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        self.stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        quiet
    }

    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        self.fill(5)?;
        let length = u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]) as usize;
        self.fill(length + 1)?;
        let frame: Vec<u8> = self.buffer.drain(..length + 1).collect();
        if frame[0] == b'S' {
            let text = String::from_utf8_lossy(&frame[5..]);
            let mut parts = text.split('\0').map(str::to_owned);
            self.told.extend(parts.next().zip(parts.next()));
        }
        Some((frame[0], frame[5..].to_vec()))
    }

    fn fill(&mut self, len: usize) -> Option<()> {
        let mut piece = [0; 8192];
        while self.buffer.len() < len {
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend(&piece[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(_) => {
                    self.buffer.clear();
                    self.buffer.extend(b"!\0\0\0\x04");
                    let _ = self.stream.shutdown(Shutdown::Both);
                    return Some(());
                }
            }
        }
        Some(())
    }
}

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, buffer: VecDeque::new(), key: (0, Vec::new()), told: BTreeMap::new() }
    }
}

const DEADLINE: Duration = Duration::from_secs(30);

fn in_short(tag: u8, payload: &[u8]) -> Option<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let rest = match tag {
        // Settings are reported at other moments: a connection may have been brought to them before.
        b'S' | b'K' => return None,
        b'A' => {
            let pid = u32::from_be_bytes(payload[..4].try_into().unwrap());
            format!("{pid} {}", text(&payload[4..]).replace('\0', " "))
        }
        b'E' | b'N' => {
            let code = payload.split(|b| *b == 0).find_map(|field| field.strip_prefix(b"C"));
            text(code.unwrap_or(b"no code"))
        }
        b'T' | b't' => u16::from_be_bytes([payload[0], payload[1]]).to_string(),
        b'D' => values(payload).join(","),
        b'C' | b'Z' | b'd' => text(payload),
        b'v' => format!("{} {}", payload[3], text(&payload[8..])),
        _ => String::new(),
    };
    Some(format!("{} {rest}", tag as char).trim_end().to_owned())
}

pub fn values(mut payload: &[u8]) -> Vec<String> {
    payload = &payload[2..];
    let mut values = Vec::new();
    while let Some((len, rest)) = payload.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*len)) {
            Err(_) => {
                values.push("NULL".to_owned());
                payload = rest;
            }
            Ok(len) => {
                values.push(String::from_utf8_lossy(&rest[..len]).into_owned());
                payload = &rest[len..];
            }
        }
    }
    values
}

/// The file's conversations: title and messages, of which several may stand on a line, with ` | ` between them.
pub fn conversations(file: &str) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for line in file.lines() {
        if let Some(title) = line.strip_prefix("== ") {
            all.push((title.to_owned(), Vec::new()));
        } else if let Some((_, lines)) = all.last_mut().filter(|_| !line.is_empty()) {
            lines.extend(line.split(" | ").map(str::to_owned));
        }
    }
    all
}

/// One message from its line, as the head of `conversations.txt` says.
pub fn frame(line: &str) -> Vec<u8> {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    if kind == "!" {
        return rest.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    }
    if kind == "=" {
        return [&format!("P - : {rest}"), "B - -", "E - 0"].iter().flat_map(|line| frame(line)).collect();
    }
    let tag = kind.as_bytes()[0];
    let mut body = Vec::new();
    match tag {
        b'Q' | b'f' => put(&mut body, rest),
        b'P' => {
            let (name, sql) = rest.split_once(" :").expect("P name : sql");
            put(&mut body, named(name));
            put(&mut body, sql.trim_start());
            body.extend([0, 0]);
        }
        b'B' => {
            let mut parts = rest.split(" : ");
            let (portal, statement) = parts.next().and_then(|p| p.split_once(' ')).expect("B portal statement");
            put(&mut body, named(portal));
            put(&mut body, named(statement));
            let values: Vec<_> = parts.collect();
            body.extend([0, 0]);
            body.extend((values.len() as u16).to_be_bytes());
            for value in values {
                body.extend((value.len() as u32).to_be_bytes());
                body.extend(value.as_bytes());
            }
            body.extend([0, 0]);
        }
        b'D' | b'C' => {
            let (what, name) = rest.split_once(' ').expect("D S name");
            body.extend(what.as_bytes());
            put(&mut body, named(name));
        }
        b'E' => {
            let (portal, limit) = rest.split_once(' ').expect("E portal limit");
            put(&mut body, named(portal));
            body.extend(limit.parse::<u32>().expect("a number").to_be_bytes());
        }
        b'd' => {
            let text = rest.replace("\\\\", "\u{1}").replace("\\t", "\t").replace("\\n", "\n").replace('\u{1}', "\\");
            body.extend(text.as_bytes());
        }
        _ => {}
    }
    let mut frame = vec![tag];
    frame.extend((body.len() as u32 + 4).to_be_bytes());
    frame.extend(body);
    frame
}

fn named(name: &str) -> &str {
    if name == "-" { "" } else { name }
}

fn put(body: &mut Vec<u8>, text: &str) {
    body.extend(text.as_bytes());
    body.push(0);
}

pub fn startup_packet(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        put(&mut body, name);
        put(&mut body, value);
    }
    body.push(0);
    packet(body)
}

/// A message from its tag and payload.
pub fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
    with_length(tag, payload.len() as u32 + 4, payload)
}

/// As `message`, with a length that need not be the payload's.
pub fn with_length(tag: u8, length: u32, payload: &[u8]) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes(), payload].concat()
}

/// SSLRequest 5679, GSSENCRequest 5680.
pub fn request(code: u32) -> Vec<u8> {
    packet((1234 << 16 | code).to_be_bytes().to_vec())
}

pub fn cancel_packet(pid: u32, key: &[u8]) -> Vec<u8> {
    let mut body = (1234u32 << 16 | 5678).to_be_bytes().to_vec();
    body.extend(pid.to_be_bytes());
    body.extend(key);
    packet(body)
}

fn packet(body: Vec<u8>) -> Vec<u8> {
    let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
    packet.extend(body);
    packet
}

/// A small generator (xorshift), so that a failure can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// A message that is right in itself, in an order that need not be.
    pub fn message(&mut self) -> Vec<u8> {
        const MESSAGES: &[&str] = &[
            "Q SELECT 1",
            "Q SELECT id FROM items WHERE tenant = 1",
            "Q SELECT count(*) FROM items",
            "Q BEGIN",
            "Q COMMIT",
            "Q SELECT 1; SELECT 1/0",
            "Q COPY items FROM STDIN",
            "Q COPY items TO STDOUT",
            "P - : SELECT id FROM items WHERE tenant = $1",
            "P s : SELECT name FROM items WHERE tenant = $1 AND id = $2",
            "P - : COPY items FROM STDIN",
            "B - - : 1",
            "B - s : 2 : 3",
            "B p s : 1 : 1",
            "D S s",
            "D P -",
            "D P p",
            "E - 0",
            "E - 1",
            "E p 1",
            "C S s",
            "C P p",
            "H",
            "S",
            "S",
            "d 1\\t",
            "c",
            "f no",
            "F",
            "X",
        ];
        frame(MESSAGES[self.below(MESSAGES.len())])
    }

    /// Changes, drops or adds a few bytes.
    pub fn spoil(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        match self.below(4) {
            0 => bytes.truncate(at),
            1 => (0..self.below(20) + 1).for_each(|_| bytes.insert(at, self.below(256) as u8)),
            _ => {
                let new = self.below(256) as u8;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = new;
                }
            }
        }
    }
}
