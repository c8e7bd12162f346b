//! One connection, plain or encrypted, behind one type: the plain path costs one comparison.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::Socket;

/// A connected socket, plain or after a TLS handshake in either role.
pub enum Stream {
    Plain(Socket),
    /// Boxed: its state is large, and most connections are plain.
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Sends all of `out`, receiving into `received` meanwhile: a peer that cannot get rid of what it says takes nothing.
    ///
    /// Given up before it is ready, how much has left is unknown. Errors: `UnexpectedEof` when the peer has closed.
    pub fn poll_send_all(
        &mut self,
        out: &mut BytesMut,
        received: &mut BytesMut,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Poll::Ready(sent) = self.poll_send(out, context) {
                return Poll::Ready(sent);
            }
            // Only what the socket does not take at once is worth a look at the other direction.
            received.reserve(RECEIVE_LEN);
            if ready!(tokio_util::io::poll_read_buf(Pin::new(&mut *self), context, received))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Sends what the socket takes at once; `None` where it takes nothing, or may keep some for itself.
    pub fn send_at_once(&self, out: &[u8]) -> Option<io::Result<usize>> {
        let Self::Plain(socket) = self else { return None };
        socket.send_at_once(out)
    }

    fn poll_send(&mut self, out: &mut BytesMut, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(sent) = self.send_at_once(out) {
            out.advance(sent?);
            if out.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        while !out.is_empty() {
            match ready!(Pin::new(&mut *self).poll_write(context, out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => out.advance(sent),
            }
        }
        // TLS takes what it cannot send yet into a buffer of its own.
        Pin::new(self).poll_flush(context)
    }

    /// Has the socket wake its reader only when `bytes` are there, or the peer has closed; 1 is where sockets begin.
    /// Over TLS nothing changes: records are read one by one.
    #[allow(unsafe_code)]
    pub fn set_low_water(&self, bytes: usize) -> io::Result<()> {
        let Self::Plain(stream) = self else { return Ok(()) };
        let bytes = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // No crate offers this option.
        // SAFETY: the descriptor is open while `stream` is borrowed, and the kernel reads one int from where it is told.
        let outcome = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                std::ptr::from_ref(&bytes).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Is it open, with nothing to read? What TLS says for itself is no data.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_quiet(),
            // Nobody is woken by this: whoever reads next asks again.
            Self::Tls(stream) => Pin::new(stream.as_mut())
                .poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut [0]))
                .is_pending(),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream.into())
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        Self::Plain(socket)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            // An end without a farewell is an end: frames tell their length, so nothing can be cut unnoticed.
            Self::Tls(stream) => match ready!(Pin::new(stream.as_mut()).poll_read(context, buffer)) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                read => Poll::Ready(read),
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}

const RECEIVE_LEN: usize = 8 * 1024;
