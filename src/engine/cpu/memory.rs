//! Memory that is slow: what is needed soon is asked for, what is large is kept. Knows nothing of what lies in it.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

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

/// Buffers smaller than this are the allocator's business.
const KEPT: usize = 1 << 20;

/// Large buffers that are kept from run to run of an engine: pages that are touched for the first time cost more
/// than most of what is done with them, on a virtual machine whose host gives them out one by one above all.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Vec<Vec<Unit>>>>);

/// What buffers are made of; they begin at multiples of its size or of their elements' alignment.
type Unit = u128;

impl Memory {
    /// A buffer of `len` elements, whose values are whatever was left in it.
    ///
    /// New ones lie on large pages where the system has them, 500 page faults a gigabyte instead of 260 000, which
    /// are handed out when they are first written: each thread pays for its own.
    pub(super) fn buffer<T: Pod>(&self, len: usize) -> Buffer<T> {
        let bytes = len * size_of::<T>() + align_of::<T>().saturating_sub(align_of::<Unit>());
        let units = bytes.div_ceil(size_of::<Unit>());
        let units = self.kept(units).unwrap_or_else(|| {
            let mut new = bytemuck::zeroed_vec(roomy(units));
            if bytes >= KEPT {
                advise(&mut new);
            }
            new
        });
        Buffer { units, len, home: self.clone(), elements: PhantomData }
    }

    /// Gives buffers that lie ready back to the system, unless as many bytes more stay within `allowed`.
    pub(super) fn make_room(&self, needed: u64, allowed: u64) {
        if (self.bytes() as u64).saturating_add(needed) > allowed {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
        }
    }

    /// Bytes that lie ready.
    pub(super) fn bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter().map(|b| size_of_val(&b[..])).sum()
    }

    /// The smallest kept buffer of that many units. Where none is right, all are those of another kind of work, and
    /// they make room.
    fn kept(&self, units: usize) -> Option<Vec<Unit>> {
        if units * size_of::<Unit>() < KEPT {
            return None;
        }
        let mut kept = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let fits = |buffer: &Vec<Unit>| (units..=2 * units).contains(&buffer.len());
        let right = (0..kept.len()).filter(|&index| fits(&kept[index])).min_by_key(|&index| kept[index].len());
        if right.is_none() {
            kept.clear();
        }
        right.map(|index| kept.swap_remove(index))
    }
}

/// Up to a quarter more, so that the next run's buffer, a little larger, fits; what is not touched costs nothing.
fn roomy(units: usize) -> usize {
    units.next_multiple_of((units.next_power_of_two() / 8).max(1))
}

/// A part of a [`Memory`], which it goes back to when dropped.
#[derive(Debug)]
pub(super) struct Buffer<T> {
    units: Vec<Unit>,
    len: usize,
    home: Memory,
    elements: PhantomData<T>,
}

impl<T: Pod> Default for Buffer<T> {
    fn default() -> Self {
        Memory::default().buffer(0)
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::pod_align_to(&self.units).1[..self.len]
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::pod_align_to_mut(&mut self.units).1[..self.len]
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.units.len() * size_of::<Unit>() >= KEPT {
            self.home.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(std::mem::take(&mut self.units));
        }
    }
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
    fn elements_are_aligned_whatever_their_size() {
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C, align(64))]
        struct Line([u8; 64]);
        let memory = Memory::default();
        for len in [0, 1, 5_000, 300_000] {
            let lines = memory.buffer::<Line>(len);
            assert_eq!((lines.len(), lines.as_ptr().align_offset(64)), (len, 0));
            assert_eq!(memory.buffer::<u16>(len).len(), len);
        }
    }

    #[test]
    fn a_large_buffer_is_used_again_for_the_like() {
        let memory = Memory::default();
        let mut first = memory.buffer::<u16>(KEPT);
        first.fill(7);
        drop(first);
        assert!(memory.buffer::<u8>(2 * KEPT).iter().step_by(2).all(|&byte| byte == 7));
        let both = [memory.buffer::<u16>(KEPT), memory.buffer::<u16>(KEPT)];
        assert_eq!((both[0][0], both[1][0]), (7, 0));
    }

    #[test]
    fn buffers_of_another_size_make_room() {
        let memory = Memory::default();
        drop(memory.buffer::<u8>(KEPT));
        drop(memory.buffer::<u8>(KEPT / 2));
        assert_eq!(memory.bytes(), KEPT);
        drop(memory.buffer::<u8>(3 * KEPT));
        assert_eq!(memory.bytes(), 3 * KEPT);
    }
}
