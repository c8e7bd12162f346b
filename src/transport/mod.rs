//! The connection below the protocol: plain TCP or TLS, the same for clients and servers.
//!
//! ```text
//!   session, backend ──read, write──> Stream ─┬─ Plain ──────────> Socket ─┬─ epoll, through the runtime
//!                                             └─ Tls ── rustls ──> Socket  └─ ring: io_uring, where `listen.io` says so
//!                                       ▲ acceptor: clients' handshakes; dialer: ours, with servers
//! ```
//!
//! `takeover` and `timer` are apart: a listening socket goes from one process to the next; time-outs of the threads that wait here.
//!
//! TLS is rustls with the ring provider, versions 1.2 and 1.3.

mod acceptor;
mod certificate;
mod dialer;
mod liveness;
pub mod ring;
mod socket;
mod stream;
pub mod takeover;
pub mod timer;

pub use acceptor::{Acceptor, AcceptorSettings, Handshake};
pub use dialer::{Dialed, Dialer, DialerSettings, Negotiated, SSL_REQUEST, SslMode};
pub use liveness::{has_left, unacknowledged, watch_peer};
pub use socket::Socket;
pub use stream::Stream;
