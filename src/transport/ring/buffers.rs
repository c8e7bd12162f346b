//! Buffers that the kernel takes from when something has come, so that a socket that is silent holds none.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use super::slot::Received;

/// The thread's buffers, known to the kernel as group 0. They are never freed: it may write to them for a moment after the
/// ring is closed, which is when its thread ends.
pub struct Buffers {
    entries: NonNull<BufRingEntry>,
    bytes: &'static mut [u8],
    /// How many have been handed to the kernel, ever.
    tail: u16,
}

impl Buffers {
    pub const GROUP: u16 = 0;
    /// Room in one of them, bytes.
    pub const LEN: usize = 16 * 1024;
    /// They are used in turn, so few of them stay in the caches. When none is left a socket is read as if it had filled one.
    const COUNT: u16 = 64;

    /// Errors: what the kernel says, as where it has no such rings (before 5.19).
    #[allow(unsafe_code)]
    pub fn register(ring: &IoUring) -> io::Result<Self> {
        let len = usize::from(Self::COUNT) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(len, PAGE_LEN).expect("a power of two, and small");
        // SAFETY: the layout is not empty.
        let entries = unsafe { alloc_zeroed(layout) }.cast::<BufRingEntry>();
        let entries = NonNull::new(entries).unwrap_or_else(|| handle_alloc_error(layout));
        let bytes = vec![0; usize::from(Self::COUNT) * Self::LEN].leak();
        let mut buffers = Self { entries, bytes, tail: 0 };
        // SAFETY: page aligned, with room for COUNT entries, and never freed.
        let registered = unsafe {
            let address = buffers.entries.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(address, Self::COUNT, Self::GROUP, 0)
        };
        registered?;
        (0..Self::COUNT).for_each(|number| buffers.give(number));
        Ok(buffers)
    }

    /// What the kernel has written to a buffer that it took, and nobody has read.
    pub fn get(&self, piece: &Received) -> &[u8] {
        let start = usize::from(piece.buffer) * Self::LEN;
        &self.bytes[start + usize::from(piece.at)..start + usize::from(piece.end)]
    }

    /// The kernel may use this buffer (again).
    #[allow(unsafe_code)]
    pub fn give(&mut self, number: u16) {
        let at = usize::from(self.tail & (Self::COUNT - 1));
        let address = self.bytes[usize::from(number) * Self::LEN..].as_mut_ptr() as u64;
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `at` is within the entries; the kernel reads an entry only after the tail has passed it, and writes to a
        // buffer only between its being given and its being told as received into.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(at);
            entry.set_addr(address);
            entry.set_len(Self::LEN as u32);
            entry.set_bid(number);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

const PAGE_LEN: usize = 4096;
