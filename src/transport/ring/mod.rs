//! Sockets by io_uring: what a thread's connections receive and send goes to the kernel together, in one call for each
//! turn, where epoll takes a call for each message and another to wait.
//!
//! ```text
//!   turn:  sessions run ──receive, send──> queue ──one io_uring_enter──> kernel
//!                ▲                                                        │ waits for the first completion
//!                └── wakers <── slots: what each socket has received <────┘
//! ```
//!
//! - **Receiving** goes on beside the session, one piece ahead, into buffers that all sockets of the thread share. When a
//!   piece fills its buffer, the rest is read from the socket as epoll's sockets do, in large pieces.
//! - **Sending** of short pieces copies them and counts as done; they leave at the end of the turn, before the kernel is
//!   asked to wait. What the socket does not take then is kept, and the next piece waits for it. Long pieces are written
//!   at once.
//!
//! Source: io_uring(7), io_uring_enter(2), io_uring_register_buf_ring(3).

mod buffers;
mod queue;
mod slot;
mod socket;
#[cfg(test)]
mod tests;
mod thread;

pub use socket::RingSocket;
pub use thread::{block_on, is_here};
