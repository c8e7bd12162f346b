//! A new proxy process takes the listening sockets of a running one, over a Unix socket.
//!
//! ```text
//!   successor: take(path) ────connect────> predecessor: hand_over
//!              sockets    <──the sockets── (same user only)
//!              starts up ...                 goes on accepting
//!              complete() ───READY────────>  accepts no more; its sessions go on
//! ```
//!
//! The sockets are the same ones in both processes, with one queue of connections that wait to be accepted: none is lost
//! or refused. A successor that fails before READY changes nothing. docs/decisions/0011-the-sockets-are-handed-over.md.

use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tokio::net::UnixListener;

use super::timer;
use crate::error::{PgError, Result, SqlState};

/// What a predecessor gave. It goes on accepting until `complete`.
pub struct Taken {
    sockets: Vec<TcpListener>,
    predecessor: UnixStream,
}

/// Asks the proxy that listens on `path` for its sockets. `None` when nobody does. Blocks.
///
/// Errors: 55006 when it does not answer, or refuses.
pub fn take(path: &Path) -> Result<Option<Taken>> {
    let Ok(predecessor) = UnixStream::connect(path) else { return Ok(None) };
    let sockets = receive(&predecessor).map_err(|error| {
        PgError::new(SqlState::OBJECT_IN_USE, "the running proxy did not hand over its port")
            .detail(error.to_string())
            .hint("Only the user that runs it may take over.")
    })?;
    Ok(Some(Taken { sockets, predecessor }))
}

impl Taken {
    /// The socket that listens on `address`, if the predecessor had it.
    pub fn socket(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.sockets.iter().position(|socket| socket.local_addr().is_ok_and(|local| local == address))?;
        Some(self.sockets.swap_remove(at))
    }

    /// From now on the predecessor accepts nobody. Errors: 55006 when it has gone meanwhile, which loses nothing.
    pub fn complete(mut self) -> Result<()> {
        self.predecessor.write_all(&[READY]).map_err(|error| {
            PgError::new(SqlState::OBJECT_IN_USE, format!("the proxy that was taken over has gone: {error}"))
        })
    }
}

/// Listens on `path` for a successor. Errors: 55006 when another proxy does, or the path cannot be used.
pub fn listen(path: &Path, has_taken_over: bool) -> Result<UnixListener> {
    let failed = |why: String| {
        PgError::new(SqlState::OBJECT_IN_USE, format!("could not listen on \"{}\": {why}", path.display()))
            .hint("Set listen.takeover_socket to a path of this proxy's own.")
    };
    if !has_taken_over && UnixStream::connect(path).is_ok() {
        return Err(failed("another proxy does".to_owned()));
    }
    // Left by a proxy that has ended, or was taken over.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error.to_string())),
        _ => {}
    }
    UnixListener::bind(path).map_err(|error| failed(error.to_string()))
}

/// Gives copies of `sockets` to whoever asks on `listener`; returns when a successor is ready. Cancel safe.
pub async fn hand_over(listener: UnixListener, sockets: &[TcpListener]) {
    loop {
        match one_successor(&listener, sockets).await {
            Ok(true) => return,
            Ok(false) => tracing::warn!("a process asked for the port and ended before it served"),
            Err(error) => {
                tracing::warn!(%error, "could not hand the port over");
                timer::sleep(PAUSE).await;
            }
        }
    }
}

/// True when it is ready.
async fn one_successor(listener: &UnixListener, sockets: &[TcpListener]) -> std::io::Result<bool> {
    let (stream, _) = listener.accept().await?;
    let user = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    if user != own && user != 0 {
        return Err(std::io::Error::other(format!("the user with number {user} asked for it")));
    }
    let stream = stream.into_std()?;
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().take(SOCKETS_MAX).map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    // A single byte always fits into the buffer of a new connection.
    rustix::net::sendmsg(&stream, &[IoSlice::new(&[SOCKETS])], &mut control, SendFlags::NOSIGNAL)?;
    let mut stream = tokio::net::UnixStream::from_std(stream)?;
    let mut answer = [0];
    let read = timer::timeout(START_TIMEOUT, tokio::io::AsyncReadExt::read(&mut stream, &mut answer)).await;
    Ok(matches!(read, Ok(Ok(1))) && answer == [READY])
}

fn receive(predecessor: &UnixStream) -> std::io::Result<Vec<TcpListener>> {
    predecessor.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut answer = [0];
    let received =
        rustix::net::recvmsg(predecessor, &mut [IoSliceMut::new(&mut answer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes != 1 || answer != [SOCKETS] {
        return Err(std::io::Error::other("it closed the connection"));
    }
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(rights.flatten().map(TcpListener::from).collect())
}

const SOCKETS: u8 = b'S';
const READY: u8 = b'R';
/// Clients' and operators'.
const SOCKETS_MAX: usize = 2;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A successor that has not served by then is taken for dead.
const START_TIMEOUT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_waits_to_be_accepted_is_handed_over_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("takeover");
        assert!(take(&path).unwrap().is_none());
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let listener = listen(&path, false).unwrap();
        assert!(listen(&path, false).is_err(), "one proxy for each path");
        let predecessor = tokio::spawn(async move { hand_over(listener, &[socket]).await });

        let asked = path.clone();
        let failed = tokio::task::spawn_blocking(move || take(&asked).unwrap().unwrap()).await.unwrap();
        drop(failed);
        let asked = path.clone();
        let mut taken = tokio::task::spawn_blocking(move || take(&asked).unwrap().unwrap()).await.unwrap();
        assert!(taken.socket("127.0.0.1:1".parse().unwrap()).is_none());
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let own = taken.socket(address).unwrap();
        assert!(!predecessor.is_finished());
        taken.complete().unwrap();
        predecessor.await.unwrap();
        own.accept().unwrap().0.write_all(b"x").unwrap();
        let mut answer = [0];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"x");
        drop(listen(&path, true).unwrap());
    }
}
