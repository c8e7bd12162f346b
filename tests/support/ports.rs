//! Port ranges for tests that run at the same time, in any number of processes, of any user.

use std::net::{Ipv4Addr, TcpListener};

/// Thirty-one ports in a row that no other test uses while this lives: P for a proxy, P+1 for its coordinator,
/// P+2 on for up to twenty-nine workers.
///
/// The range's last port is listened on as the mark of its owner: the kernel gives it to one process only and
/// takes it back when that process ends, however it ends.
pub struct PortRange {
    pub first: u16,
    _mark: TcpListener,
}

impl PortRange {
    /// Panics when every range is taken.
    pub fn reserve() -> Self {
        let ranges = (LAST - FIRST) / SIZE;
        // Processes start at different ranges, so that they rarely ask for the same.
        let start = u16::try_from(std::process::id() % u32::from(ranges)).expect("below a u16");
        (0..ranges)
            .map(|step| FIRST + (start + step) % ranges * SIZE)
            .find_map(|first| {
                let mark = listen(first + SIZE - 1)?;
                (first..first + SIZE - 1).all(|port| listen(port).is_some()).then_some(Self { first, _mark: mark })
            })
            .expect("one of the port ranges for tests is free")
    }
}

/// Below the ports that Linux gives to outgoing connections (32768 on).
const FIRST: u16 = 27_000;
const LAST: u16 = 32_000;
const SIZE: u16 = 32;

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}
