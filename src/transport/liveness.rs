//! Noticing that the machine at the other end is gone: it sends no farewell.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// The kernel gives the connection up when the peer acknowledges nothing for `dead_after`: data that we sent, or, while
/// the connection is quiet, the questions that the kernel asks then. Times are whole seconds, at least 3.
pub fn watch_peer(socket: &TcpStream, dead_after: Duration) -> io::Result<()> {
    let third = Duration::from_secs((dead_after.as_secs() / 3).max(1));
    let keepalive = TcpKeepalive::new().with_time(third).with_interval(third).with_retries(2);
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(dead_after))
}
