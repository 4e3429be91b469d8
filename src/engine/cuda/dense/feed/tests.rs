//! Frames come whole, once and in their blocks, whatever the threads do; nobody waits for what does not come.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use proptest::prelude::*;

use super::*;
use crate::correlate::bins::Shape;
use crate::correlate::window::FrameWindow;
use crate::dataset::{DatasetError, FrameSource, PixelType, SourceInfo};
use crate::engine::cuda::device::{Buffer, MemoryKind};
use crate::engine::cuda::test_device::TestDevice;
use crate::engine::{Observer, Unobserved};

/// What a frame does when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Error,
    Panic,
}

/// Frames of a few bytes, each full of its number.
struct Numbered {
    info: SourceInfo,
    chunk: usize,
    /// In reading this frame.
    trouble: Option<(u64, Trouble)>,
}

/// Pixels of one byte.
const PIXELS: usize = 6;

impl Numbered {
    fn new(frames: u64, chunk: usize) -> Self {
        let (format, shape) = ("numbered".to_owned(), Shape { rows: 2, cols: 3 });
        let info = SourceInfo { format, files: Vec::new(), bytes: 0, shape, frames };
        Self { info, chunk, trouble: None }
    }
}

impl FrameSource for Numbered {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn pixel_type(&self) -> PixelType {
        PixelType::U8
    }

    fn marks_saturation(&self) -> bool {
        false
    }

    fn frames_per_chunk(&self) -> usize {
        self.chunk
    }

    fn read_frames(&self, frames: Range<u64>, _: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        assert_eq!(out.len() as u64, (frames.end - frames.start) * PIXELS as u64);
        for (frame, out) in std::iter::zip(frames, out.chunks_exact_mut(PIXELS)) {
            match self.trouble {
                Some((bad, Trouble::Panic)) if bad == frame => panic!("a reader that panics"),
                Some((bad, Trouble::Error)) if bad == frame => {
                    let (path, place) = (PathBuf::from("numbered"), "here".to_owned());
                    return Err(DatasetError::Raw { path, place, what: "bad".to_owned(), remedy: "none".into() });
                }
                Some(_) | None => out.fill(frame as u8),
            }
        }
        Ok(())
    }
}

/// Threads, frames of a piece, pieces.
type Sizes = (usize, u64, usize);

/// Feeds a source; calls `used` with each block and its bytes on the device.
fn feed(
    device: &TestDevice,
    (threads, frames, pieces): Sizes,
    source: Source<'_>,
    block: u64,
    mut used: impl FnMut(Range<u64>, Vec<u8>) -> Result<(), CudaError>,
) -> Result<usize, CudaError> {
    let frame = source.stored.frame_bytes();
    let workers = Workers { threads: NonZeroUsize::new(threads).expect("not zero"), ..source.workers };
    let source = Source { workers, ..source };
    let staging = || device.staging(frames as usize * frame).expect("memory");
    let mut feed = Feed::<TestDevice> { frames, pieces: (0..pieces).map(|_| staging()).collect() };
    let mut slots = [(); 2].map(|()| Buffer::<_, u8>::new(device, block as usize * frame).expect("memory"));
    feed.read(device, source, block, |fed| match fed {
        Fed::Piece(own, staging) => {
            assert!(own.end - own.start <= frames && own.start / block == (own.end - 1) / block, "{own:?}");
            let slot = &mut slots[(own.start / block % OPEN) as usize];
            let bytes = |frames: u64| frames as usize * frame;
            Ok(slot.send(device, bytes(own.start % block), staging, bytes(own.end - own.start))?)
        }
        Fed::Block(own) => {
            let bytes = slots[(own.start / block % OPEN) as usize].read(device)?;
            let length = (own.end - own.start) as usize * frame;
            used(own, bytes[..length].to_vec())
        }
    })?;
    Ok(feed.pieces.len())
}

/// A source of such frames, and the frames that are taken.
fn with_source<T>(numbered: &Numbered, window: FrameWindow, use_it: impl FnOnce(Source<'_>) -> T) -> T {
    let stored = Stored::Decoded(numbered);
    let selection = window.select(numbered.info.frames).expect("frames");
    let workers = Workers { threads: NonZeroUsize::MIN, observer: &Unobserved };
    use_it(Source { stored: &stored, selection: &selection, workers })
}

fn every(stride: u32, avg: u32) -> FrameWindow {
    let number = |number| NonZeroU32::new(number).expect("not zero");
    FrameWindow { stride: number(stride), avg: number(avg), ..FrameWindow::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_frame_comes_once_in_its_block(
        taken in 1u64..200,
        (threads, piece, pieces) in (1usize..6, 1u64..12, 1usize..9),
        block in 1u64..40,
        chunk in 1usize..12,
        stride in 1u32..4,
    ) {
        let device = TestDevice::new(1 << 20, 1);
        let numbered = Numbered::new(taken * u64::from(stride), chunk);
        with_source(&numbered, every(stride, 1), |source| {
            let mut next = 0;
            let left = feed(&device, (threads, piece, pieces), source, block, |own, bytes| {
                assert_eq!(own, next..(next + block).min(taken), "blocks come in their order");
                let wanted: Vec<u8> = own.clone().flat_map(|k| [(k * u64::from(stride)) as u8; PIXELS]).collect();
                assert_eq!(bytes, wanted);
                next = own.end;
                Ok(())
            });
            prop_assert_eq!(left.expect("reads"), pieces, "no piece is lost");
            prop_assert_eq!(next, taken);
            Ok(())
        })?;
    }

    /// Pieces are handed over in any order: a block is used once all its frames were sent, after the one before, and
    /// nothing is sent to where a block is that was not used.
    #[test]
    fn blocks_are_used_in_their_order_and_then_overwritten(
        taken in 1u64..120,
        (piece, pieces) in (1u64..8, 1usize..12),
        block in 1u64..20,
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 120),
    ) {
        let device = TestDevice::new(1 << 20, 1);
        let selection = every(1, 1).select(taken).expect("frames");
        let cut = Cut { piece, block, taken, chunk: 1, selection: &selection };
        let (mut sent, mut used) = (vec![false; taken as usize], 0);
        let mut turns = Turns {
            device: &device,
            empty: (0..pieces).map(|_| device.staging(1).expect("memory")).collect(),
            on_the_way: OnTheWay::new(),
            next: 0,
            given: 0,
            used: 0,
            left: [cut.block_frames(0), cut.block_frames(1)],
            cut,
            take: |fed: Fed<'_, _>| {
                match fed {
                    Fed::Piece(frames, _) => {
                        assert!(frames.start / block < used / block + OPEN, "{frames:?} when {used} were used");
                        sent[frames.start as usize..frames.end as usize].fill(true);
                    }
                    Fed::Block(frames) => {
                        assert_eq!(frames, used..(used + block).min(taken));
                        used = frames.end;
                        assert!(sent[..used as usize].iter().all(|&sent| sent), "{frames:?} is not whole");
                    }
                }
                Ok(())
            },
        };
        let (give, given) = channel();
        let mut filling = Vec::new();
        let mut picks = picks.into_iter();
        loop {
            turns.give_out(&give);
            filling.extend(given.try_iter());
            prop_assert_eq!(filling.len(), turns.given);
            if filling.is_empty() {
                match turns.on_the_way.oldest(&device).expect("leaves") {
                    Some(piece) => turns.empty.push(piece),
                    None => break,
                }
                continue;
            }
            let pick = picks.next().expect("a piece has a frame at least").index(filling.len());
            let (piece, frames) = filling.swap_remove(pick);
            turns.given -= 1;
            turns.send(Filled { piece, frames }).expect("is sent");
        }
        prop_assert_eq!(turns.empty.len(), pieces);
        prop_assert_eq!(used, taken);
    }

    #[test]
    fn pieces_hold_what_is_decoded_together(
        piece in 1u64..30,
        block in 1u64..100,
        taken in 1u64..300,
        chunk in 1u64..20,
        stride in 1u32..4,
    ) {
        let selection = every(stride, 1).select(taken * u64::from(stride)).expect("frames");
        let cut = Cut { piece, block, taken, chunk, selection: &selection };
        let (mut next, mut begins) = (0, vec![0]);
        while next < taken {
            let own = cut.piece_at(next);
            prop_assert!(own.start == next && own.end > next && own.end <= next + piece);
            next = own.end;
            begins.push(next);
        }
        prop_assert_eq!(next, taken);
        // what begins in the middle of a chunk begins a block, or holds less than what is left of the chunk
        let chunk_of = |frame: u64| selection.raw(frame) / chunk;
        for pair in begins.windows(2).filter(|pair| pair[1] < taken) {
            let whole = chunk_of(pair[1]) != chunk_of(pair[1] - 1);
            let fits = chunk_of(pair[0]) != chunk_of(pair[1] - 1) && pair[1] % block != 0;
            prop_assert!(whole || !fits, "{pair:?} ends within a chunk that it could have left to the next");
        }
    }

    /// All pieces together are no more than is allowed, and as many as help.
    #[test]
    fn pieces_take_no_more_than_they_may(
        frame in 1u64..100_000,
        chunk in 1u64..50,
        taken in 1u64..100_000,
        threads in 1usize..100,
        host in 0u64..10_000_000,
    ) {
        let size = Size::new(frame, chunk, taken, threads, host);
        let bytes = size.frames * size.pieces as u64 * frame;
        prop_assert!(size.frames > 0 && size.pieces > 0);
        prop_assert!(bytes <= host || (size.frames == 1 && size.pieces == 1), "{size:?} in {host} bytes");
        prop_assert!(size.pieces <= threads + ON_THE_WAY + 1 && size.pieces <= MOST_PIECES);
        prop_assert!((size.pieces as u64 - 1) * size.frames < taken, "{size:?}: one is never filled");
    }
}

#[test]
fn sizes_of_pieces() {
    let size = |frame, chunk, threads, host| {
        let size = Size::new(frame, chunk, u64::MAX, threads, host);
        (size.frames, size.pieces)
    };
    assert_eq!(size(PIECE / 8, 1, 16, u64::MAX), (8, 19));
    assert_eq!(size(PIECE / 8, 3, 200, u64::MAX), (6, MOST_PIECES), "whole chunks");
    assert_eq!(size(PIECE / 8, 20, 4, u64::MAX), (20, 7), "a chunk that is larger than a piece");
    assert_eq!(size(PIECE * 3, 1, 4, u64::MAX), (1, 7), "a frame that is larger than a piece");
    assert_eq!(size(PIECE / 8, 1, 4, PIECE), (1, 7), "smaller pieces, to have all of them");
    assert_eq!(size(PIECE / 8, 20, 4, 5 * PIECE), (10, 4), "fewer pieces, for what is decoded together");
    assert_eq!(size(PIECE, 1, 4, 2 * PIECE), (1, 2));
    assert_eq!(size(PIECE, 1, 4, 0), (1, 1), "a frame must be there");
}

#[test]
fn a_file_that_cannot_be_read_ends_it() {
    let device = TestDevice::new(1 << 20, 1);
    for (bad, pieces) in [(0, 1), (0, 7), (60, 2), (99, 7)] {
        let numbered = Numbered { trouble: Some((bad, Trouble::Error)), ..Numbered::new(100, 1) };
        let read = with_source(&numbered, FrameWindow::default(), |source| {
            feed(&device, (3, 2, pieces), source, 16, |_, _| Ok(()))
        });
        assert!(matches!(read, Err(CudaError::Engine(EngineError::Read(_)))), "{read:?}");
    }
}

#[test]
fn a_reader_that_panics_ends_it() {
    let device = TestDevice::new(1 << 20, 1);
    let numbered = Numbered { trouble: Some((60, Trouble::Panic)), ..Numbered::new(100, 1) };
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        with_source(&numbered, FrameWindow::default(), |source| feed(&device, (3, 2, 7), source, 16, |_, _| Ok(())))
    }));
    let panic = read.expect_err("the panic is handed on");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a reader that panics"));
}

#[test]
fn a_device_that_fails_ends_the_threads() {
    let device = TestDevice::new(1 << 20, 1);
    let read = with_source(&Numbered::new(1000, 1), FrameWindow::default(), |source| {
        feed(&device, (3, 2, 7), source, 16, |own, _| {
            if own.start == 48 {
                Err(DeviceError::OutOfMemory { memory: MemoryKind::Gpu, bytes: 1 }.into())
            } else {
                Ok(())
            }
        })
    });
    assert!(matches!(read, Err(CudaError::Device(DeviceError::OutOfMemory { bytes: 1, .. }))), "{read:?}");
}

/// Says that it is to stop when it was asked so often.
struct Impatient {
    asked: AtomicU64,
    patience: u64,
}

impl Observer for Impatient {
    fn step(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) {}

    fn cancelled(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed) >= self.patience
    }
}

#[test]
fn it_ends_when_it_is_asked_to() {
    let device = TestDevice::new(1 << 20, 1);
    for patience in [0, 1, 2, 30] {
        let observer = Impatient { asked: AtomicU64::new(0), patience };
        let read = with_source(&Numbered::new(1000, 1), FrameWindow::default(), |source| {
            let source = Source { workers: Workers { observer: &observer, ..source.workers }, ..source };
            feed(&device, (3, 2, 7), source, 16, |_, _| Ok(()))
        });
        assert!(matches!(read, Err(CudaError::Engine(EngineError::Cancelled))), "{read:?}");
    }
}

/// Pieces are fewer, or smaller, where the system has less memory to send from.
#[test]
fn pieces_that_there_is_no_memory_for_are_not_needed() {
    let workers = Workers { threads: NonZeroUsize::new(5).expect("not zero"), observer: &Unobserved };
    let usual = PIECE as usize / PIXELS * PIXELS;
    let pieces = |limit| {
        let device = TestDevice::new(1 << 20, 1).staging_at_most(limit);
        with_source(&Numbered::new(1 << 20, 1), FrameWindow::default(), |source| {
            let feed = Feed::new(&device, Source { workers, ..source }, u64::MAX);
            feed.map(|feed| (feed.frames as usize * PIXELS, feed.pieces.len()))
        })
    };
    assert_eq!(pieces(usize::MAX).expect("memory"), (usual, 8));
    assert_eq!(pieces(usual * 5).expect("memory"), (usual, 5), "fewer");
    let (bytes, number) = pieces(usual).expect("memory");
    assert!(bytes < usual && number >= FEWEST && bytes * number <= usual, "{number} of {bytes} bytes");
    assert_eq!(pieces(PIXELS).expect("memory"), (PIXELS, 1), "a frame");
    assert!(matches!(pieces(PIXELS - 1), Err(DeviceError::OutOfMemory { .. })));
}
