//! Hints about memory: what is needed soon, and what is large.

use bytemuck::Pod;

/// Asks for the cache line of an element that is needed soon; nothing happens beyond the end.
#[inline(always)]
pub(super) fn prefetch<T>(table: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(element) = table.get(index) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching reads nothing, and the address is that of a live element.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast()) };
    }
}

/// A buffer of `len` defaults on large pages where the system has them: a gigabyte then costs 500 page faults
/// instead of 260 000.
///
/// The system hands the pages out when they are first written, so that each thread pays for its own.
pub(super) fn large_buffer<T: Pod>(len: usize) -> Vec<T> {
    let mut buffer = bytemuck::zeroed_vec(len);
    advise(&mut buffer);
    buffer
}

/// Size and alignment of the pages that are advised.
const PAGE: usize = 4096;

fn advise<T>(buffer: &mut [T]) {
    let bytes = size_of_val(buffer);
    let start = buffer.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(PAGE);
    if let Some(len) = bytes.checked_sub(skipped).map(|len| len / PAGE * PAGE).filter(|&len| len > 0) {
        // SAFETY: the range lies within the buffer's own memory; the advice changes no content.
        let advised = unsafe { rustix::mm::madvise(start.add(skipped).cast(), len, rustix::mm::Advice::LinuxHugepage) };
        // a kernel without large pages refuses, and small ones do as well
        let _ = advised;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_whatever_their_size() {
        for len in [0, 1, 5_000, 3_000_000] {
            let buffer: Vec<u16> = large_buffer(len);
            assert!(buffer.len() == len && buffer.iter().all(|&v| v == 0));
        }
    }
}
