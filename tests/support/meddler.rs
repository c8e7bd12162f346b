//! A server that says what no server should, when a statement asks for it.

#![allow(dead_code, reason = "each test program compiles this module and uses a part of it")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Stands between a proxy and a server. Passes everything on, until a statement says `meddle:N`: that is answered with
/// `answers()[N]`.
pub struct Meddler {
    pub port: u16,
    /// The next COMMIT is answered by the end of the connection.
    pub swallows_commit: Arc<AtomicBool>,
    /// New connections are closed at once, and counted.
    pub refuses: Arc<AtomicBool>,
    pub refused: Arc<AtomicUsize>,
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
        std::thread::spawn(move || {
            for proxy in listener.incoming().map_while(Result::ok) {
                if closes.load(Ordering::SeqCst) {
                    closed.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { continue };
                let (mut from_server, mut to_proxy) = (server.try_clone().unwrap(), proxy.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_server, &mut to_proxy);
                    let _ = to_proxy.shutdown(std::net::Shutdown::Both);
                });
                let swallows = swallows.clone();
                std::thread::spawn(move || meddle(proxy, server, &swallows));
            }
        });
        Self { port, swallows_commit, refuses, refused }
    }
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
