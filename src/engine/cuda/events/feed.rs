//! Has the events of a file on the device, some at a time: threads read blocks into memory that the device copies from by
//! itself, while the caller's thread, the only one that calls the device, sends what is full and uses what is there. Knows
//! nothing of what is computed.
//!
//! The order of the events is any: it depends on which thread was first.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::DerefMut;
use std::sync::mpsc::{Receiver, Sender};

use crate::dataset::{EventSource, PhotonEvent, Scratch};
use crate::engine::EngineError;
use crate::engine::cuda::CudaError;
use crate::engine::cuda::device::{Buffer, Device, DeviceError};
use crate::engine::cuda::ring::{Given, ON_THE_WAY, OnTheWay, beside};
use crate::engine::workers::Workers;

/// Events that kernels get at once, enough to keep all of the device busy; fewer where that is more than a part of what
/// is free.
const CHUNK: usize = 16 * PIECE;

/// That part.
const CHUNK_SHARE: u64 = 8;

/// Events that are sent at once: enough for the bus (2 MiB), few enough that a thread's share is filled soon. Tests have few
/// events, and want several pieces of them.
const PIECE: usize = if cfg!(test) { 1 << 9 } else { 1 << 18 };

/// Events of a piece at least, where the host has little memory that it can pin: a page.
const LEAST_PIECE: usize = 512;

/// Chunks of memory that take turns, where they are not kept: one is used while the other is filled.
const TURNS: usize = 2;

/// Events on the device.
pub(super) struct Chunk<D: Device> {
    pub(super) events: Buffer<D, PhotonEvent>,
    pub(super) number: usize,
}

/// What becomes of a chunk that was used.
pub(super) enum Used<D: Device> {
    /// It stays as it is.
    Kept,
    /// Others may be read into its memory.
    Free(Chunk<D>),
}

/// Where events come from.
pub(super) struct Feed<'a, D: Device> {
    device: &'a D,
    readers: Readers<'a>,
    /// Events of a chunk at most: some pieces.
    chunk: usize,
    /// Pieces that are empty.
    stagings: RefCell<Vec<D::Staging>>,
}

/// The threads that read.
struct Readers<'a> {
    source: &'a dyn EventSource,
    workers: Workers<'a>,
    /// Events of a piece at most.
    piece: usize,
}

/// A piece that was read.
struct Filled<S> {
    staging: S,
    events: usize,
}

/// One of the threads.
struct Reader<'a, S> {
    empty: &'a Given<S>,
    full: Sender<Filled<S>>,
    piece: usize,
    scratch: Scratch,
    block: Vec<PhotonEvent>,
    filling: Option<Filled<S>>,
}

impl<'a, D: Device> Feed<'a, D> {
    /// The events of a file, for a device that has nearly all of its memory free.
    pub(super) fn new(device: &'a D, source: &'a dyn EventSource, workers: Workers<'a>) -> Result<Self, CudaError> {
        let number = |events: u64| usize::try_from(events.max(1)).unwrap_or(usize::MAX);
        let fits = number(device.free_bytes()? / CHUNK_SHARE / size_of::<PhotonEvent>() as u64);
        let all = number(source.events_bound());
        let chunk = CHUNK.min(fits).min(all);
        let mut piece = PIECE.min(chunk);
        // a thread for each piece that there is, at most
        let threads = workers.threads.get().min(all.div_ceil(piece));
        let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
        let stagings = loop {
            match fill_up(device, Vec::new(), piece, threads) {
                // fewer of them would leave threads that wait for each other
                Err(DeviceError::OutOfMemory { .. }) if piece > LEAST_PIECE => piece = (piece / 2).max(LEAST_PIECE),
                other => break other?,
            }
        };
        let readers = Readers { source, workers: Workers { threads, ..workers }, piece };
        Ok(Self { device, readers, chunk: chunk / piece * piece, stagings: RefCell::new(stagings) })
    }

    /// Bytes of the device's memory that reading takes while nothing is kept.
    pub(super) fn bytes(&self) -> u64 {
        (TURNS * self.chunk * size_of::<PhotonEvent>()) as u64
    }

    /// Reads all events and has each chunk used.
    pub(super) fn read(&self, take: impl FnMut(Chunk<D>) -> Result<Used<D>, CudaError>) -> Result<(), CudaError> {
        let Readers { workers, piece, .. } = &self.readers;
        // a reading that failed has lost some
        let stagings = fill_up(self.device, self.stagings.take(), *piece, workers.threads)?;
        let readers = &self.readers;
        let (read, stagings) = beside(
            |empty, full| readers.fill(empty, full),
            |give_back, filled| {
                stagings.into_iter().for_each(|staging| give_back.send(staging).unwrap_or_default());
                self.send_all(filled, give_back, take)
            },
        );
        *self.stagings.borrow_mut() = stagings;
        read
    }

    /// Sends pieces as they are full, and gives them back; has chunks used.
    fn send_all(
        &self,
        filled: Receiver<Filled<D::Staging>>,
        give_back: Sender<D::Staging>,
        mut take: impl FnMut(Chunk<D>) -> Result<Used<D>, CudaError>,
    ) -> Result<(), CudaError> {
        let (mut on_the_way, mut free) = (OnTheWay::new(), VecDeque::new());
        let mut filling: Option<Chunk<D>> = None;
        for Filled { mut staging, events } in &filled {
            let mut chunk = match filling.take() {
                Some(chunk) => chunk,
                None => Chunk { events: self.room(&mut free)?, number: 0 },
            };
            chunk.events.send(self.device, chunk.number, &mut staging, events)?;
            chunk.number += events;
            if chunk.number + self.readers.piece > chunk.events.len() {
                if let Used::Free(chunk) = take(chunk)? {
                    free.push_back(chunk.events);
                }
            } else {
                filling = Some(chunk);
            }
            if let Some(oldest) = on_the_way.add(self.device, staging)? {
                // the threads may have ended
                give_back.send(oldest).unwrap_or_default();
            }
        }
        if let Some(chunk) = filling {
            take(chunk)?;
        }
        while let Some(oldest) = on_the_way.oldest(self.device)? {
            give_back.send(oldest).unwrap_or_default();
        }
        Ok(())
    }

    /// Memory for a chunk: where there are enough for taking turns the one that was used longest ago. Where there is less
    /// than was free at first, one waits for its turn, or it is smaller.
    fn room(&self, free: &mut VecDeque<Buffer<D, PhotonEvent>>) -> Result<Buffer<D, PhotonEvent>, DeviceError> {
        if free.len() == TURNS
            && let Some(oldest) = free.pop_front()
        {
            return Ok(oldest);
        }
        let mut size = self.chunk;
        loop {
            match Buffer::new(self.device, size) {
                Err(error @ DeviceError::OutOfMemory { .. }) => match free.pop_front() {
                    Some(events) => return Ok(events),
                    None if size > self.readers.piece => size = (size / 2).max(self.readers.piece),
                    None => return Err(error),
                },
                other => return other,
            }
        }
    }
}

/// As many pieces as it takes: one that each thread fills, those on their way, and one that waits to be filled.
fn fill_up<D: Device>(
    device: &D,
    mut pieces: Vec<D::Staging>,
    piece: usize,
    threads: NonZeroUsize,
) -> Result<Vec<D::Staging>, DeviceError> {
    while pieces.len() < threads.get() + ON_THE_WAY + 1 {
        pieces.push(device.staging(piece * size_of::<PhotonEvent>())?);
    }
    Ok(pieces)
}

impl Readers<'_> {
    /// Reads all blocks into pieces.
    fn fill<S: DerefMut<Target = [u8]> + Send>(
        &self,
        empty: &Given<S>,
        full: Sender<Filled<S>>,
    ) -> Result<(), EngineError> {
        let reader = || Reader {
            empty,
            full: full.clone(),
            piece: self.piece,
            scratch: Scratch::default(),
            block: Vec::new(),
            filling: None,
        };
        let readers = self.workers.run(self.source.blocks(), reader, |reader, number| {
            self.source.read_block(number, &mut reader.scratch, &mut reader.block).map_err(EngineError::Read)?;
            reader.put()
        })?;
        readers.into_iter().try_for_each(Reader::finish)
    }
}

impl<S: DerefMut<Target = [u8]> + Send> Reader<'_, S> {
    /// Copies the block's events to pieces.
    ///
    /// # Errors
    /// `Cancelled` when the caller's thread takes no more.
    fn put(&mut self) -> Result<(), EngineError> {
        let mut rest = &self.block[..];
        while !rest.is_empty() {
            let mut filling = match self.filling.take() {
                Some(filling) => filling,
                None => Filled { staging: self.empty.next().ok_or(EngineError::Cancelled)?, events: 0 },
            };
            let (now, later) = rest.split_at(rest.len().min(self.piece - filling.events));
            let at = filling.events * size_of::<PhotonEvent>();
            filling.staging[at..at + size_of_val(now)].copy_from_slice(bytemuck::cast_slice(now));
            filling.events += now.len();
            rest = later;
            if filling.events == self.piece {
                self.full.send(filling).map_err(|_| EngineError::Cancelled)?;
            } else {
                self.filling = Some(filling);
            }
        }
        Ok(())
    }

    /// Hands over what is left.
    fn finish(self) -> Result<(), EngineError> {
        let Some(filling) = self.filling else { return Ok(()) };
        self.full.send(filling).map_err(|_| EngineError::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::correlate::bins::Shape;
    use crate::dataset::{DatasetError, SourceInfo};
    use crate::engine::Unobserved;
    use crate::engine::cuda::device::{DeviceError, MemoryKind};
    use crate::engine::cuda::test_device::TestDevice;

    /// Blocks of so many events each, numbered in their frames; one may not be readable.
    struct Numbered {
        info: SourceInfo,
        blocks: Vec<u32>,
        bad: Option<usize>,
    }

    impl Numbered {
        fn new(blocks: Vec<u32>) -> Self {
            let (format, shape) = ("numbered".to_owned(), Shape { rows: 1, cols: 1 });
            let info = SourceInfo { format, files: Vec::new(), bytes: 0, shape, frames: 1000 };
            Self { info, blocks, bad: None }
        }
    }

    impl EventSource for Numbered {
        fn info(&self) -> &SourceInfo {
            &self.info
        }

        fn events_bound(&self) -> u64 {
            self.blocks.iter().map(|&events| u64::from(events)).sum()
        }

        fn blocks(&self) -> usize {
            self.blocks.len()
        }

        fn read_block(&self, block: usize, _: &mut Scratch, out: &mut Vec<PhotonEvent>) -> Result<(), DatasetError> {
            if self.bad == Some(block) {
                let (path, place) = (PathBuf::from("numbered"), "here".to_owned());
                return Err(DatasetError::Raw { path, place, what: "bad".to_owned(), remedy: "none".into() });
            }
            let before: u32 = self.blocks[..block].iter().sum();
            out.clear();
            out.extend((before..before + self.blocks[block]).map(|number| PhotonEvent::new(number, 0, 1)));
            Ok(())
        }
    }

    fn feed<'a>(
        device: &'a TestDevice,
        source: &'a Numbered,
        threads: usize,
        (piece, pieces): (usize, usize),
    ) -> Feed<'a, TestDevice> {
        let threads = NonZeroUsize::new(threads).expect("not zero");
        let workers = Workers { threads, observer: &Unobserved };
        Feed {
            device,
            readers: Readers { source, workers, piece },
            chunk: piece * pieces,
            stagings: RefCell::default(),
        }
    }

    /// The frames of a chunk.
    fn frames(device: &TestDevice, chunk: &Chunk<TestDevice>) -> Vec<u32> {
        let events = chunk.events.read(device).expect("is there");
        events[..chunk.number].iter().map(|event| event.frame()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn each_event_comes_once_and_stays_where_it_is_kept(
            blocks in proptest::collection::vec(0u32..40, 0..20),
            threads in 1usize..6,
            piece in 1usize..30,
            pieces in 1usize..4,
            kept in proptest::collection::vec(any::<bool>(), 800),
        ) {
            let (device, source) = (TestDevice::new(1 << 20, 1), Numbered::new(blocks));
            let feed = feed(&device, &source, threads, (piece, pieces));
            // the second reading uses what the first one left
            for _ in 0..2 {
                let (mut seen, mut chunks, mut kept) = (Vec::new(), Vec::new(), kept.iter());
                let read = feed.read(|chunk| {
                    if kept.next() == Some(&true) {
                        chunks.push(chunk);
                        return Ok(Used::Kept);
                    }
                    seen.extend(frames(&device, &chunk));
                    Ok(Used::Free(chunk))
                });
                prop_assert!(read.is_ok());
                chunks.iter().for_each(|chunk| seen.extend(frames(&device, chunk)));
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..source.events_bound() as u32).collect::<Vec<_>>());
                prop_assert_eq!(feed.stagings.borrow().len(), threads + ON_THE_WAY + 1, "none is lost");
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_ends_it() {
        let device = TestDevice::new(1 << 20, 1);
        let source = Numbered { bad: Some(60), ..Numbered::new(vec![10; 100]) };
        let read = feed(&device, &source, 3, (4, 2)).read(|chunk| Ok(Used::Free(chunk)));
        assert!(matches!(read, Err(CudaError::Engine(EngineError::Read(_)))), "{read:?}");
    }

    #[test]
    fn a_device_that_fails_ends_the_threads() {
        let (device, source) = (TestDevice::new(1 << 20, 1), Numbered::new(vec![10; 1000]));
        let taken = Cell::new(0);
        let read = feed(&device, &source, 3, (4, 2)).read(|chunk| {
            taken.set(taken.get() + 1);
            if taken.get() == 5 {
                Err(DeviceError::OutOfMemory { memory: MemoryKind::Gpu, bytes: 1 }.into())
            } else {
                Ok(Used::Free(chunk))
            }
        });
        assert!(matches!(read, Err(CudaError::Device(DeviceError::OutOfMemory { bytes: 1, .. }))), "{read:?}");
        assert_eq!(taken.get(), 5);
    }

    /// With room for a chunk of half the size, and for none beside it.
    #[test]
    fn chunks_are_as_large_as_the_memory_allows() {
        let (device, source) = (TestDevice::new(300, 1), Numbered::new(vec![10; 100]));
        let (mut seen, mut sizes) = (Vec::new(), Vec::new());
        let read = feed(&device, &source, 3, (4, 16)).read(|chunk| {
            seen.extend(frames(&device, &chunk));
            sizes.push(chunk.events.len());
            Ok(Used::Free(chunk))
        });
        read.expect("there is enough");
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        assert!(sizes.iter().all(|&size| size == 32), "{sizes:?}");
        let read = feed(&device, &source, 3, (64, 1)).read(|chunk| Ok(Used::Free(chunk)));
        assert!(matches!(read, Err(CudaError::Device(DeviceError::OutOfMemory { bytes: 512, .. }))), "{read:?}");
    }

    #[test]
    fn as_many_threads_and_as_much_memory_as_the_events_need() {
        let (device, source) = (TestDevice::new(1 << 30, 1), Numbered::new(vec![10; 10]));
        let workers = Workers { threads: NonZeroUsize::new(8).expect("not zero"), observer: &Unobserved };
        let sizes = |source: &Numbered| {
            let feed = Feed::new(&device, source, workers).expect("fits");
            (feed.readers.workers.threads.get(), feed.readers.piece, feed.chunk)
        };
        assert_eq!(sizes(&source), (1, 100, 100));
        assert_eq!(sizes(&Numbered::new(vec![1000; 2])), (4, PIECE, 3 * PIECE));
        assert_eq!(sizes(&Numbered::new(vec![1000; 100])), (8, PIECE, CHUNK));
    }
}
