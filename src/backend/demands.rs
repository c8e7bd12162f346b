//! What servers ask the proxy for: more values of a sequence, in a notice that clients never see.
//!
//! ```text
//!   shard's default: tenantry.next_value(oid) ──INFO, SQLSTATE TN001──> Server ──> Demands ──> a job, which lends more
//! ```

use std::collections::HashSet;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::login::ServerAddress;
use crate::error::{PgError, SqlState};
use crate::wire::frame;

/// A node wants more values of a sequence of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Demand {
    /// The node, as the catalog names it.
    pub node: ServerAddress,
    /// The sequence's OID on the coordinator.
    pub sequence: u32,
}

/// Demands that nobody has seen to yet. The same from several connections is one.
#[derive(Default)]
pub struct Demands {
    open: Mutex<HashSet<Demand>>,
    bell: Notify,
}

impl Demands {
    /// Beyond `OPEN_MAX` they are forgotten: who waits for values asks again, and whoever makes them up does not count.
    pub(super) fn note(&self, demand: Demand) {
        let mut open = self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if open.len() < OPEN_MAX && open.insert(demand) {
            self.bell.notify_one();
        }
    }

    /// Waits for some, and takes them all. For one caller. Cancel safe.
    pub async fn take(&self) -> Vec<Demand> {
        loop {
            let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
            if !open.is_empty() {
                return open.into_iter().collect();
            }
            self.bell.notified().await;
        }
    }
}

/// The sequence that a NoticeResponse's payload asks values of.
pub(super) fn wanted_sequence(notice: &[u8]) -> Option<u32> {
    let notice = PgError::from_body(notice);
    let is_demand = Some(notice.code()) == SqlState::from_bytes(VALUES_WANTED);
    notice.detail_text().filter(|_| is_demand)?.parse().ok()
}

/// Those that whole notices at the start of `received`, from frame `looked` on, ask for; `looked` goes on to where the
/// next look begins.
pub(super) fn wanted_sequences(received: &[u8], looked: &mut usize) -> Vec<u32> {
    let mut wanted = Vec::new();
    while let Some(rest) = received.get(*looked..)
        && let Ok(Some(header)) = frame::header(rest)
        && let Some(whole) = rest.get(..header.len)
    {
        if header.tag == b'N' {
            wanted.extend(wanted_sequence(&whole[frame::HEADER_LEN..]));
        }
        *looked += header.len;
    }
    wanted
}

const OPEN_MAX: usize = 256;
/// Raised by `tenantry.value_of_draw` on the workers.
const VALUES_WANTED: &[u8] = b"TN001";

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(code: &str, detail: &str) -> Vec<u8> {
        let payload = format!("SINFO\0VINFO\0C{code}\0Mwords\0D{detail}\0\0");
        let mut frame = vec![b'N'];
        frame.extend((payload.len() as u32 + 4).to_be_bytes());
        frame.extend(payload.bytes());
        frame
    }

    #[test]
    fn only_a_demand_is_one() {
        assert_eq!(wanted_sequence(&notice("TN001", "16400")[frame::HEADER_LEN..]), Some(16400));
        assert_eq!(wanted_sequence(&notice("00000", "16400")[frame::HEADER_LEN..]), None);
        assert_eq!(wanted_sequence(&notice("TN001", "a word")[frame::HEADER_LEN..]), None);
        assert_eq!(wanted_sequence(b""), None);
    }

    #[test]
    fn demands_are_found_between_other_frames_and_once() {
        let mut received = [notice("00000", "1"), notice("TN001", "2"), notice("TN001", "3")].concat();
        let last = received.split_off(received.len() - 5);
        let mut looked = 0;
        assert_eq!(wanted_sequences(&received, &mut looked), [2]);
        received.extend(last);
        assert_eq!(wanted_sequences(&received, &mut looked), [3]);
        assert!(wanted_sequences(&received, &mut looked).is_empty());
    }
}
