//! A server that says what no server should, when a statement asks for it.

#![allow(dead_code, reason = "each test program compiles this module and uses a part of it")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// Stands between a proxy and a server. Passes everything on, until a statement says `meddle:N`: that is answered with
/// `answers()[N]`.
pub struct Meddler {
    pub port: u16,
    /// The next COMMIT is answered by the end of the connection.
    pub swallows_commit: Arc<AtomicBool>,
    /// New connections are closed at once, and counted.
    pub refuses: Arc<AtomicBool>,
    pub refused: Arc<AtomicUsize>,
    /// How rows are told from now on, one of `Rows`.
    pub rows: Arc<AtomicU8>,
}

/// How the server tells its rows.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub enum Rows {
    AsTheyAre,
    WithoutTheLastValue,
    WithOneMoreValue,
    /// They say that they have one more value than they have.
    CutShort,
}

/// What the server says instead, and what the client must hear.
pub fn answers() -> Vec<(Vec<u8>, &'static str)> {
    let frame = |tag: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len() + 4).expect("short").to_be_bytes();
        [&[tag], &length[..], payload].concat()
    };
    let ready = |status: &[u8]| frame(b'Z', status);
    vec![
        ([frame(b'E', b"SERROR\0Mboom\0\0"), ready(b"I")].concat(), "E(XX000) Z(I)"),
        (b"D\0\0\0\x03".to_vec(), "E(08006) Z(I)"),
        (b"D\x7f\xff\xff\xff".to_vec(), "E(08006) Z(I)"),
        (frame(b'R', &[0; 4]), "E(08006) Z(I)"),
        (frame(b'E', b"SFATAL\0VFATAL\0C57P01\0Mgone\0\0"), "E(57P01) Z(I)"),
        ([frame(b'C', b"SELECT 1\0"), ready(b"Q")].concat(), "C(SELECT 1) E(08006) Z(I)"),
        (frame(1, b""), "E(08006) Z(I)"),
        ([frame(b'S', b""), ready(b"")].concat(), "E(08006) Z(I)"),
        (frame(b'K', &[0; 8]), "E(08006) Z(I)"),
        (frame(b'1', b""), "E(08006) Z(I)"),
    ]
}

impl Meddler {
    pub fn before(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let swallows_commit = Arc::new(AtomicBool::new(false));
        let swallows = swallows_commit.clone();
        let (refuses, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (closes, closed) = (refuses.clone(), refused.clone());
        let rows = Arc::new(AtomicU8::new(Rows::AsTheyAre as u8));
        let told = rows.clone();
        std::thread::spawn(move || {
            for proxy in listener.incoming().map_while(Result::ok) {
                if closes.load(Ordering::SeqCst) {
                    closed.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { continue };
                let (mut from_server, mut to_proxy) = (server.try_clone().unwrap(), proxy.try_clone().unwrap());
                let told = told.clone();
                std::thread::spawn(move || {
                    let _ = tell(&mut from_server, &mut to_proxy, &told);
                    let _ = to_proxy.shutdown(std::net::Shutdown::Both);
                });
                let swallows = swallows.clone();
                std::thread::spawn(move || meddle(proxy, server, &swallows));
            }
        });
        Self { port, swallows_commit, refuses, refused, rows }
    }

    pub fn tell_rows(&self, how: Rows) {
        self.rows.store(how as u8, Ordering::SeqCst);
    }
}

/// Passes on what the server says, frame by frame. The proxy asks for no encryption here.
fn tell(server: &mut TcpStream, proxy: &mut TcpStream, rows: &AtomicU8) -> std::io::Result<()> {
    let mut server = std::io::BufReader::new(server);
    loop {
        let mut head = [0; 5];
        server.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut payload = vec![0; length - 4];
        server.read_exact(&mut payload)?;
        if head[0] == b'D' {
            twist(&mut payload, rows.load(Ordering::SeqCst));
        }
        let length = u32::try_from(payload.len() + 4).expect("short").to_be_bytes();
        proxy.write_all(&[&head[..1], &length, &payload].concat())?;
    }
}

fn twist(row: &mut Vec<u8>, how: u8) {
    let count = u16::from_be_bytes([row[0], row[1]]);
    let count = match how {
        _ if how == Rows::WithoutTheLastValue as u8 => {
            let values = tenantry::wire::rows::read_data_row(row).expect("the server's own");
            let last = values.last().expect("a column").map_or(0, <[u8]>::len);
            row.truncate(row.len() - 4 - last);
            count - 1
        }
        _ if how == Rows::WithOneMoreValue as u8 => {
            row.extend((-1i32).to_be_bytes());
            count + 1
        }
        _ if how == Rows::CutShort as u8 => count + 1,
        _ => count,
    };
    row[..2].copy_from_slice(&count.to_be_bytes());
}

fn meddle(mut proxy: TcpStream, mut server: TcpStream, swallows_commit: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = proxy.read(&mut buffer) {
        let said = String::from_utf8_lossy(&buffer[..length]);
        if let Some((_, number)) = said.split_once("meddle:") {
            let number = number[..1].parse::<usize>().expect("one digit");
            proxy.write_all(&answers()[number].0).expect("the proxy reads");
            if number == 0 {
                // A whole answer, after which all is well.
                continue;
            }
            // And says nothing more, until the proxy has had enough.
            while let Ok(1..) = proxy.read(&mut buffer) {}
            break;
        }
        if said.contains("COMMIT") && swallows_commit.swap(false, Ordering::SeqCst) {
            break;
        }
        server.write_all(&buffer[..length]).expect("the server reads");
    }
    let _ = server.shutdown(std::net::Shutdown::Both);
    let _ = proxy.shutdown(std::net::Shutdown::Both);
}
