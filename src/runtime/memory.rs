//! How a daemon deals with memory that it no longer needs.

use libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, c_int, mallopt};

/// A piece of memory of this size goes back to the system when it is freed: messages and journals that are compacted,
/// not what a task needs.
const LARGE: c_int = 256 << 10;

/// So much free memory is kept at the end of the heap.
const KEPT: c_int = 1 << 20;

/// Has memory that is freed go back to the system. The C library begins with that, but learns from the first large
/// piece that is freed to keep as much for good (mallopt(3), "dynamic mmap threshold"): a daemon that has once had a
/// busy minute would be large for weeks.
pub fn give_back_what_is_free() {
    // SAFETY: it sets numbers of the allocator under its own lock, and may be called at any time.
    let set = unsafe { mallopt(M_MMAP_THRESHOLD, LARGE) == 1 && mallopt(M_TRIM_THRESHOLD, KEPT) == 1 };
    if !set {
        tracing::debug!("the allocator keeps what is freed");
    }
}
