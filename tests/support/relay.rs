//! Stands between a proxy and a server, writes down what the proxy sends and in how many pieces, and can go without a word.
//!
//! ```text
//!   proxy ──> relay ──> server      each write of the proxy is a segment of its own: the kernel counts those
//!   vanish():  the relay's kernel drops all that comes, SYN too, and tells nobody: as a machine does whose cable is pulled
//!   come_back():  who connects anew gets through; connections of before stay as they are
//! ```

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::thread;

use socket2::{SockFilter, SockRef};

/// Its threads end with its connections, the one that listens with the test.
pub struct Relay {
    pub port: u16,
    listener: TcpListener,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
}

/// What came at once.
#[derive(Debug, Clone)]
pub struct Heard {
    pub bytes: Vec<u8>,
    /// All that have come on this connection, these included.
    pub segments: u32,
}

struct Connection {
    proxy: TcpStream,
    server: TcpStream,
    heard: Mutex<Vec<Heard>>,
    has_vanished: Mutex<bool>,
}

impl Relay {
    /// To a server on this machine.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (all, accepting) = (connections.clone(), listener.try_clone().expect("a handle"));
        thread::spawn(move || {
            for proxy in accepting.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { continue };
                server.set_nodelay(true).expect("a socket");
                let connection = Connection { proxy, server, heard: Mutex::default(), has_vanished: Mutex::new(false) };
                let connection = Arc::new(connection);
                all.lock().expect("nobody panics with it").push(connection.clone());
                let answering = connection.clone();
                thread::spawn(move || answering.answer());
                thread::spawn(move || connection.listen());
            }
        });
        Self { port, listener, connections }
    }

    /// What was heard on the one connection on which these words were said. Panics when it is none, or several.
    pub fn heard(&self, words: &str) -> Vec<Heard> {
        let connections = self.connections.lock().expect("nobody panics with it");
        let all = connections.iter().map(|connection| connection.heard.lock().expect("nobody panics with it").clone());
        let mut said: Vec<_> = all.filter(|heard| heard.iter().any(|heard| heard.says(words))).collect();
        assert_eq!(said.len(), 1, "connections on which {words} was said");
        said.remove(0)
    }

    pub fn vanish(&self) {
        drop_all(&self.listener);
        for connection in self.connections.lock().expect("nobody panics with it").iter() {
            drop_all(&connection.proxy);
            drop_all(&connection.server);
            *connection.has_vanished.lock().expect("nobody panics with it") = true;
        }
    }

    pub fn come_back(&self) {
        SockRef::from(&self.listener).detach_filter().expect("it has one");
    }
}

impl Heard {
    pub fn says(&self, words: &str) -> bool {
        self.bytes.windows(words.len()).any(|window| window == words.as_bytes())
    }
}

impl Connection {
    fn listen(&self) {
        let (mut from, mut to) = (&self.proxy, &self.server);
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let heard = Heard { bytes: bytes[..count].to_vec(), segments: segments_in(&self.proxy) };
            self.heard.lock().expect("nobody panics with it").push(heard);
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        self.end();
    }

    fn answer(&self) {
        let (mut from, mut to) = (&self.server, &self.proxy);
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let has_vanished = self.has_vanished.lock().expect("nobody panics with it");
            if !*has_vanished && to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        self.end();
    }

    /// Who has vanished says no farewell.
    fn end(&self) {
        if !*self.has_vanished.lock().expect("nobody panics with it") {
            // Either may be gone already.
            let _ = (self.server.shutdown(Shutdown::Both), self.proxy.shutdown(Shutdown::Both));
        }
    }
}

/// From here on its kernel takes nothing that comes.
pub fn drop_all(socket: &impl std::os::fd::AsFd) {
    // BPF's RET 0: of each packet nothing is let through.
    SockRef::from(socket).attach_filter(&[SockFilter::new(6, 0, 0, 0)]).expect("the kernel filters");
}

/// Segments with data that have come on a connection.
/// Source: Linux, include/uapi/linux/tcp.h, `tcp_info.tcpi_data_segs_in`, of 4.6 and later.
#[allow(unsafe_code)]
fn segments_in(socket: &TcpStream) -> u32 {
    const DATA_SEGS_IN: usize = 152;
    let mut info = [0_u8; DATA_SEGS_IN + 4];
    let mut length = libc::socklen_t::try_from(info.len()).expect("short");
    // SAFETY: the kernel writes at most `length` bytes, which live here.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length)
    };
    assert_eq!((result, usize::try_from(length).expect("short")), (0, info.len()), "the kernel tells of a socket");
    u32::from_ne_bytes(info[DATA_SEGS_IN..].try_into().expect("four bytes"))
}
