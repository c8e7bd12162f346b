//! Cancelling what a server connection runs.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::login::{ServerAddress, dial};
use crate::error::{PgError, Result, SqlState};
use crate::wire::startup;

/// A server connection as its server's cancel requests name it.
#[derive(Debug)]
pub struct CancelTarget {
    pub address: ServerAddress,
    pub pid: u32,
    pub key: Bytes,
}

/// Sends a CancelRequest and waits until the server has closed the connection: only then has it taken effect,
/// and only then may the cancelled connection get its next user.
pub async fn cancel(target: &CancelTarget) -> Result<()> {
    let send = async {
        let mut stream = dial(&target.address).await?;
        let mut out = BytesMut::new();
        startup::write_cancel(target.pid, &target.key, &mut out);
        stream.write_all(&out).await?;
        stream.flush().await?;
        let mut rest = [0u8; 1];
        Ok(stream.read(&mut rest).await?)
    };
    match tokio::time::timeout(DEADLINE, send).await {
        Ok(sent) => sent.map(|_: usize| ()),
        Err(_) => Err(PgError::new(SqlState::CONNECTION_FAILURE, "a node did not take a cancel request in time")),
    }
}

const DEADLINE: Duration = Duration::from_secs(10);
