//! A line between a client and a server that can be cut: what is sent meanwhile arrives when it is mended.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Its threads end with its connections, the one that listens with the test.
pub struct Line {
    pub port: u16,
    cut: Arc<Cut>,
}

#[derive(Default)]
struct Cut {
    is_cut: Mutex<bool>,
    mended: Condvar,
}

impl Line {
    /// To a server on this machine.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let cut = Arc::new(Cut::default());
        let of_all = cut.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect((Ipv4Addr::LOCALHOST, server))) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                    let cut = of_all.clone();
                    thread::spawn(move || carry(from, to, &cut));
                }
            }
        });
        Self { port, cut }
    }

    pub fn cut(&self) {
        *self.cut.is_cut.lock().expect("nobody panics with it") = true;
    }

    pub fn mend(&self) {
        *self.cut.is_cut.lock().expect("nobody panics with it") = false;
        self.cut.mended.notify_all();
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, cut: &Cut) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        drop(cut.mended.wait_while(cut.is_cut.lock().expect("nobody panics with it"), |is_cut| *is_cut));
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Either may be gone already.
    let _ = (to.shutdown(Shutdown::Write), from.shutdown(Shutdown::Read));
}
