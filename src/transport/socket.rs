//! A TCP connection, in the way of the thread that it is on: by epoll through the runtime, or by the thread's ring.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::ring::{self, RingSocket};

pub enum Socket {
    Epoll(TcpStream),
    Ring(RingSocket),
}

impl Socket {
    /// Takes over a connection that does not block.
    pub fn adopt(stream: std::net::TcpStream) -> io::Result<Self> {
        match ring::is_here() {
            true => Ok(Self::Ring(RingSocket::new(stream)?)),
            false => Ok(Self::Epoll(TcpStream::from_std(stream)?)),
        }
    }

    /// Connects, without a delay for what is short.
    pub async fn connect(host: &str, port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        match ring::is_here() {
            true => Self::adopt(stream.into_std()?),
            false => Ok(Self::Epoll(stream)),
        }
    }

    /// The first byte that comes, which is not consumed; none at the end.
    pub async fn peek_byte(&self) -> io::Result<Option<u8>> {
        match self {
            Self::Epoll(stream) => {
                let mut first = [0; 1];
                Ok((stream.peek(&mut first).await? == 1).then_some(first[0]))
            }
            Self::Ring(socket) => socket.peek_byte().await,
        }
    }

    /// Sends what is taken at once; `None`: nothing.
    pub fn send_at_once(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match self {
            Self::Epoll(stream) => match stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                sent => Some(sent),
            },
            Self::Ring(socket) => socket.send_at_once(bytes),
        }
    }

    /// Is it open, with nothing to read?
    pub fn is_quiet(&self) -> bool {
        match self {
            Self::Epoll(stream) => {
                matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Ring(socket) => socket.is_quiet(),
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Epoll(stream)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Epoll(stream) => stream.as_fd(),
            Self::Ring(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Epoll(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Ring(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Epoll(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Ring(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Epoll(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Ring(socket) => Pin::new(socket).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Epoll(stream) => Pin::new(stream).poll_flush(context),
            Self::Ring(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Epoll(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Ring(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}
