//! Cancelling what a server connection runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::login::ServerAddress;
use crate::error::{PgError, Result, SqlState};
use crate::transport::{Dialed, Dialer, timer};
use crate::wire::startup;

/// A server connection as its server's cancel requests name it.
#[derive(Debug)]
pub struct CancelTarget {
    pub address: ServerAddress,
    pub pid: u32,
    pub key: Bytes,
    dialer: Dialer,
    is_doubtful: AtomicBool,
}

impl CancelTarget {
    pub(super) fn new(dialer: Dialer, address: ServerAddress, pid: u32, key: Bytes) -> Self {
        Self { address, pid, key, dialer, is_doubtful: AtomicBool::new(false) }
    }

    /// A cancel was sent that may take effect at any later time: nobody else must have this connection.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful.load(Ordering::Acquire)
    }
}

/// Sends a CancelRequest and waits until the server has closed the connection: only then has it taken effect,
/// and only then may the cancelled connection get its next user.
pub async fn cancel(target: &CancelTarget) -> Result<()> {
    let send = async {
        let ServerAddress { host, port } = &target.address;
        let Dialed { mut stream, .. } = target.dialer.dial(host, *port).await?;
        let mut out = BytesMut::new();
        startup::write_cancel(target.pid, &target.key, &mut out);
        stream.write_all(&out).await?;
        stream.flush().await?;
        let mut rest = [0u8; 1];
        stream.read(&mut rest).await.map_err(PgError::from)
    };
    // Until it is known to have been taken, and when that is never known.
    target.is_doubtful.store(true, Ordering::Release);
    match timer::timeout(DEADLINE, send).await {
        Ok(sent) => {
            sent?;
            target.is_doubtful.store(false, Ordering::Release);
            Ok(())
        }
        Err(_) => Err(PgError::new(SqlState::CONNECTION_FAILURE, "a node did not take a cancel request in time")),
    }
}

const DEADLINE: Duration = Duration::from_secs(10);
