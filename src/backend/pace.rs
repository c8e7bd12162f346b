//! How much of an answer is read at once: the longer it goes on, the larger the pieces.
//!
//! ```text
//!   answer so far    room in the buffer    the socket wakes us
//!   short            16 KB                 when there is a byte
//!   over 32 KB       128 KB                when there is a byte
//!   over 256 KB      128 KB                when there are 96 KB, or after a moment
//! ```
//!
//! A server writes 8 KB at a time; woken for each, the proxy would spend its time on wake-ups.

use std::time::Duration;

/// Of the answer that is being read.
#[derive(Debug, Default)]
pub struct Pace {
    received: usize,
    /// The socket has been told to wait for more than a byte.
    pub is_patient: bool,
    /// The buffer may be larger than a short answer needs.
    pub has_grown: bool,
}

impl Pace {
    /// What there must be room for before the next read, in bytes.
    pub fn room(&mut self) -> usize {
        let is_long = self.received > LONG_AFTER;
        self.has_grown |= is_long;
        if is_long { LONG_READ_LEN } else { READ_LEN }
    }

    pub fn note(&mut self, received: usize) {
        self.received += received;
    }

    /// Is it worth waiting for more than there is?
    pub fn may_wait(&self) -> bool {
        self.received > PATIENT_AFTER
    }

    /// The answer has ended, or does not come as fast as it did.
    pub fn start_again(&mut self) {
        self.received = 0;
    }

    /// No long answer is being read.
    pub fn is_short(&self) -> bool {
        self.received <= LONG_AFTER
    }
}

pub const READ_LEN: usize = 16 * 1024;
pub const LONG_READ_LEN: usize = 128 * 1024;
/// The kernel has room for this much from the start, so a server is never stopped by our waiting.
pub const LOW_WATER: usize = 96 * 1024;
/// The end of an answer, and what comes slowly, waits no longer than this.
pub const PATIENCE: Duration = Duration::from_millis(1);
const LONG_AFTER: usize = 32 * 1024;
const PATIENT_AFTER: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_answers_are_read_in_large_pieces_and_waited_for() {
        let mut pace = Pace::default();
        assert_eq!((pace.room(), pace.has_grown, pace.may_wait()), (READ_LEN, false, false));
        pace.note(LONG_AFTER + 1);
        assert_eq!((pace.room(), pace.has_grown, pace.may_wait()), (LONG_READ_LEN, true, false));
        pace.note(PATIENT_AFTER);
        assert!(pace.may_wait() && !pace.is_short());
        pace.start_again();
        assert_eq!((pace.room(), pace.may_wait(), pace.is_short()), (READ_LEN, false, true));
    }
}
