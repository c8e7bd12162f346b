//! A connected socket of a thread that has a ring.

use std::io::{self, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::queue::{Ring, SHORT_LEN};
use super::thread::with_ring;

/// Belongs to the thread that it was made on. Errors of all that it does: what the kernel says, also of what was sent
/// before; `Other` on another thread.
pub struct RingSocket {
    /// There until it is dropped.
    socket: Option<TcpStream>,
    slot: usize,
}

impl RingSocket {
    /// `socket` does not block.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        let slot = with_ring(|ring| Ok(ring.add(socket.as_raw_fd())))?;
        Ok(Self { socket: Some(socket), slot })
    }

    pub async fn peek_byte(&self) -> io::Result<Option<u8>> {
        std::future::poll_fn(|context| poll(|ring| ring.peek(self.slot, self.socket(), context.waker()))).await
    }

    /// Has nothing come, not even the end?
    pub fn is_quiet(&self) -> bool {
        with_ring(|ring| Ok(ring.is_quiet(self.slot, self.socket()))).unwrap_or(false)
    }

    /// Sends what is taken at once; `None`: nothing.
    pub fn send_at_once(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match poll(|ring| ring.send(self.slot, self.socket(), bytes, None)) {
            Poll::Ready(sent) => Some(sent),
            Poll::Pending => None,
        }
    }

    fn socket(&self) -> &TcpStream {
        self.socket.as_ref().expect("it is there until the drop")
    }
}

fn poll<T>(work: impl FnOnce(&mut Ring) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    with_ring(|ring| Ok(work(ring))).unwrap_or_else(|error| Poll::Ready(Err(error)))
}

impl Drop for RingSocket {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            // Elsewhere it is only closed.
            let _ = with_ring(|ring| {
                ring.close(self.slot, socket);
                Ok(())
            });
        }
    }
}

impl AsFd for RingSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl AsyncRead for RingSocket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll(|ring| ring.receive(self.slot, self.socket(), buffer, context.waker()))
    }
}

impl AsyncWrite for RingSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        poll(|ring| ring.send(self.slot, self.socket(), bytes, Some(context.waker())))
    }

    /// TLS has a piece for each record, and may not ask again for what has to follow.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let long = slices.iter().find(|slice| !slice.is_empty()).filter(|slice| slice.len() >= SHORT_LEN);
        if let Some(slice) = long {
            return self.poll_write(context, slice);
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(SHORT_LEN).collect();
        self.poll_write(context, &bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        poll(|ring| ring.flush(self.slot, context.waker()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(poll(|ring| ring.flush_now(self.slot, context.waker())))?;
        Poll::Ready(self.socket().shutdown(Shutdown::Write))
    }
}
