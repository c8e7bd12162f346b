//! Noticing that the machine at the other end is gone: it sends no farewell.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// The kernel gives the connection up when the peer acknowledges nothing for `dead_after`: data that we sent, or, while
/// the connection is quiet, the questions that the kernel asks then. Times are whole seconds, at least 3.
pub fn watch_peer(socket: &impl AsFd, dead_after: Duration) -> io::Result<()> {
    let third = Duration::from_secs((dead_after.as_secs() / 3).max(1));
    let keepalive = TcpKeepalive::new().with_time(third).with_interval(third).with_retries(2);
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(dead_after))
}

/// Bytes that the kernel has taken to send, and that the peer has not acknowledged.
#[allow(unsafe_code)]
pub fn unacknowledged(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel writes one int to where it is told.
    let outcome = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, std::ptr::from_mut(&mut bytes)) };
    if outcome == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// Has the peer of this socket closed its end, or gone? Asked without reading: what it sent before may still be there.
/// A number that is no open socket has nobody who left.
#[allow(unsafe_code)]
pub fn has_left(socket: RawFd) -> bool {
    let mut asked = libc::pollfd { fd: socket, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: the kernel reads and writes one `pollfd`, which lives here; it takes any number for the descriptor.
    let answered = unsafe { libc::poll(&mut asked, 1, 0) };
    answered == 1 && asked.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_a_peer_has_not_acknowledged_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        assert_eq!(unacknowledged(&ours).unwrap(), 0);
        // BPF's RET 0: its kernel lets nothing through.
        SockRef::from(&peer).attach_filter(&[socket2::SockFilter::new(6, 0, 0, 0)]).unwrap();
        ours.write_all(b"answer").unwrap();
        assert_eq!(unacknowledged(&ours).unwrap(), 6);
    }

    #[test]
    fn a_peer_that_left_is_seen_although_it_has_said_something() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        peer.write_all(b"X").unwrap();
        assert!(!has_left(ours.as_raw_fd()));
        drop(peer);
        while !has_left(ours.as_raw_fd()) {
            std::thread::yield_now();
        }
    }
}
