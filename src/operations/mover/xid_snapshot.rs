//! Which transactions a snapshot sees. Pure.
//!
//! Source: PostgreSQL manual, "Transaction ID and Snapshot Information Functions", `pg_snapshot`.

use crate::error::{PgError, Result, SqlState};

/// A `pg_snapshot` of top-level transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XidSnapshot {
    /// First transaction id not yet assigned.
    xmax: u64,
    /// In progress then.
    in_progress: Vec<u64>,
}

impl XidSnapshot {
    /// Reads `xmin:xmax:xip,xip,...`.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = || {
            PgError::new(
                SqlState::INVALID_TEXT_REPRESENTATION,
                format!("invalid input syntax for type pg_snapshot: \"{text}\""),
            )
        };
        let mut parts = text.splitn(3, ':');
        let (Some(_xmin), Some(xmax), Some(list)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed());
        };
        let in_progress = list
            .split(',')
            .filter(|xid| !xid.is_empty())
            .map(|xid| xid.parse().map_err(|_| malformed()))
            .collect::<Result<_>>()?;
        Ok(Self { xmax: xmax.parse().map_err(|_| malformed())?, in_progress })
    }

    /// Had the transaction ended when the snapshot was taken? `xid` is a change stream's: the lower 32 bits.
    pub fn sees(&self, xid: u32) -> bool {
        // The one transaction within half the circle of xmax that has these bits.
        let distance = i64::from(xid.wrapping_sub(self.xmax as u32) as i32);
        let full = self.xmax.wrapping_add_signed(distance);
        distance < 0 && !self.in_progress.contains(&full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_ended_is_seen_and_what_ran_or_came_later_is_not() {
        let snapshot = XidSnapshot::parse("10:20:12,15").unwrap();
        assert!(snapshot.sees(9) && snapshot.sees(11) && snapshot.sees(19));
        assert!(!snapshot.sees(12) && !snapshot.sees(15) && !snapshot.sees(20) && !snapshot.sees(21));
    }

    #[test]
    fn transaction_ids_wrap_around() {
        let snapshot = XidSnapshot::parse("4294967290:4294967300:4294967298").unwrap();
        assert!(snapshot.sees(u32::MAX) && snapshot.sees(1) && snapshot.sees(3));
        assert!(!snapshot.sees(2) && !snapshot.sees(4));
    }

    #[test]
    fn a_malformed_snapshot_is_an_error() {
        assert!(XidSnapshot::parse("1:2").is_err() && XidSnapshot::parse("1:2:x").is_err());
        assert!(XidSnapshot::parse("1:2:").is_ok());
    }
}
