//! Has frames on the device, some at a time: threads read and decode into pieces of memory that the device copies from by
//! itself, while the caller's thread, the only one that calls the device, sends what is full. Knows nothing of what is
//! computed, nor where on the device a frame goes.
//!
//! Frames come in blocks, which the caller may use when all their frames were sent. Pieces are small, so that little of the
//! host's memory is pinned and the first bytes are sent soon; blocks are as large as the device allows. A thread is given
//! an empty piece together with the frames to read into it, in ascending order, so that no thread waits for a piece that
//! others hold. Two blocks are read at a time: frames of the block behind them are given out when the first is used.

use std::ops::{DerefMut, Range};
use std::sync::mpsc::{Receiver, Sender};

use super::stored::Stored;
use crate::correlate::window::FrameSelection;
use crate::dataset::Scratch;
use crate::engine::EngineError;
use crate::engine::cuda::CudaError;
use crate::engine::cuda::device::{Device, DeviceError};
use crate::engine::cuda::ring::{Given, ON_THE_WAY, OnTheWay, beside};
use crate::engine::workers::Workers;

/// Bytes of a piece, or a frame where that is more: enough for the bus, few enough that a thread fills one soon. Tests have
/// small frames, and want several pieces of them.
const PIECE: u64 = if cfg!(test) { 1 << 12 } else { 8 << 20 };

/// Pieces at most: 256 MiB.
const MOST_PIECES: usize = 32;

/// Pieces with which reading and sending still overlap: what is on its way, one that is full, one that is filled.
const FEWEST: usize = ON_THE_WAY + 2;

/// All pieces together take this part of the host's memory that may be used: the threads that decode need some.
const HOST_SHARE: u64 = 4;

/// Blocks that are read at a time.
pub(super) const OPEN: u64 = 2;

/// What is read, and who reads. Frames are numbered among the raw ones that are taken.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) stored: &'a Stored<'a>,
    pub(super) selection: &'a FrameSelection,
    pub(super) workers: Workers<'a>,
}

/// What the caller is to do.
pub(super) enum Fed<'a, S> {
    /// Send these frames.
    Piece(Range<u64>, &'a mut S),
    /// Use this block, all of whose frames were sent.
    Block(Range<u64>),
}

/// Pieces, kept from reading to reading.
pub(super) struct Feed<D: Device> {
    /// Frames of a piece at most.
    frames: u64,
    pieces: Vec<D::Staging>,
}

/// A piece that was read.
struct Filled<S> {
    piece: S,
    frames: Range<u64>,
}

/// What a thread hands over. When it panics, it says that it stopped: the caller's thread would wait for its piece.
struct Hand<S>(Sender<Result<Filled<S>, EngineError>>);

impl<S> Hand<S> {
    /// Nobody takes it when the caller's thread has ended, and that says why.
    fn over(&self, read: Result<Filled<S>, EngineError>) {
        self.0.send(read).unwrap_or_default();
    }
}

impl<S> Drop for Hand<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.over(Err(EngineError::Cancelled));
        }
    }
}

impl Source<'_> {
    /// Raw frames that are taken.
    fn taken(&self) -> u64 {
        self.selection.outputs() * self.selection.avg()
    }

    /// Reads some frames.
    fn read(&self, frames: &Range<u64>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), EngineError> {
        let (stored, selection) = (self.stored, self.selection);
        if selection.stride() == 1 {
            let begin = selection.raw(frames.start);
            let raw = begin..begin + (frames.end - frames.start);
            return stored.read(raw, scratch, out).map_err(EngineError::Read);
        }
        for (frame, out) in std::iter::zip(frames.clone(), out.chunks_exact_mut(stored.frame_bytes().max(1))) {
            let raw = selection.raw(frame);
            stored.read(raw..raw + 1, scratch, out).map_err(EngineError::Read)?;
        }
        Ok(())
    }

    /// Frames that are decoded together, as far as they are taken.
    fn frames_per_chunk(&self) -> u64 {
        self.stored.frames_per_chunk().div_ceil(self.selection.stride())
    }
}

/// How many frames a piece holds, and how many pieces there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    frames: u64,
    pieces: usize,
}

impl Size {
    /// For `taken` frames of `frame` bytes each, which `threads` threads read; `chunk` of them are decoded together. All
    /// pieces together take no more than `host` bytes, or a frame.
    fn new(frame: u64, chunk: u64, taken: u64, threads: usize, host: u64) -> Self {
        let wanted = (threads + ON_THE_WAY + 1).min(MOST_PIECES);
        // what is decoded together is read into one piece: else each piece of it decodes all of it
        let usual = (PIECE / frame / chunk * chunk).max(chunk);
        let allowed = (host / frame).max(1);
        let frames = usual.min((allowed / wanted as u64).max(chunk)).min(allowed / FEWEST as u64).max(1);
        let most = (allowed / frames).min(taken.div_ceil(frames)).max(1);
        Self { frames, pieces: wanted.min(usize::try_from(most).unwrap_or(wanted)) }
    }
}

impl<D: Device> Feed<D> {
    /// With pieces in no more than a part of `host` bytes, and fewer or smaller ones where the system has less.
    pub(super) fn new(device: &D, source: Source<'_>, host: u64) -> Result<Self, DeviceError> {
        let frame = source.stored.frame_bytes().max(1);
        let threads = source.workers.threads.get();
        let chunk = source.frames_per_chunk();
        let mut size = Size::new(frame as u64, chunk, source.taken(), threads, host / HOST_SHARE);
        loop {
            let (pieces, error) = pieces(device, size.pieces, size.frames as usize * frame);
            match error {
                Some(DeviceError::OutOfMemory { .. }) if pieces.len() < FEWEST && size.frames > 1 => size.frames /= 2,
                Some(DeviceError::OutOfMemory { .. }) if !pieces.is_empty() => {
                    return Ok(Self { frames: size.frames, pieces });
                }
                Some(error) => return Err(error),
                None => return Ok(Self { frames: size.frames, pieces }),
            }
        }
    }

    /// Reads all frames, in blocks of `block`, and lets the caller send and use them.
    pub(super) fn read(
        &mut self,
        device: &D,
        source: Source<'_>,
        block: u64,
        take: impl FnMut(Fed<'_, D::Staging>) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let cut = Cut {
            piece: self.frames,
            block,
            taken: source.taken(),
            chunk: source.stored.frames_per_chunk(),
            selection: source.selection,
        };
        let pieces = std::mem::take(&mut self.pieces);
        let threads = source.workers.threads.get().min(pieces.len());
        let mut turns = Turns {
            device,
            empty: pieces,
            on_the_way: OnTheWay::new(),
            next: 0,
            given: 0,
            used: 0,
            left: [cut.block_frames(0), cut.block_frames(1)],
            cut,
            take,
        };
        let (read, _) = beside(
            |given, full| fill(source, threads, given, full),
            |give, filled| {
                turns.run(&give, &filled)?;
                Ok(turns.empty)
            },
        );
        self.pieces = read?;
        Ok(())
    }
}

/// At most `number` pieces, and why some are missing.
fn pieces<D: Device>(device: &D, number: usize, bytes: usize) -> (Vec<D::Staging>, Option<DeviceError>) {
    let mut pieces = Vec::new();
    while pieces.len() < number {
        match device.staging(bytes) {
            Ok(piece) => pieces.push(piece),
            Err(error) => return (pieces, Some(error)),
        }
    }
    (pieces, None)
}

/// Reads into the pieces that are given, on `threads` threads, until no more are given.
fn fill<S: DerefMut<Target = [u8]> + Send>(
    source: Source<'_>,
    threads: usize,
    given: &Given<(S, Range<u64>)>,
    full: Sender<Result<Filled<S>, EngineError>>,
) -> Result<(), EngineError> {
    let frame = source.stored.frame_bytes();
    let workers = source.workers;
    workers.run(
        threads,
        || (Scratch::default(), Hand(full.clone())),
        |(scratch, hand), _| {
            while let Some((mut piece, frames)) = given.next() {
                let bytes = (frames.end - frames.start) as usize * frame;
                let cancelled = if workers.observer.cancelled() { Err(EngineError::Cancelled) } else { Ok(()) };
                let read = cancelled.and_then(|()| source.read(&frames, scratch, &mut piece[..bytes]));
                hand.over(read.map(|()| Filled { piece, frames }));
            }
            Ok(())
        },
    )?;
    Ok(())
}

/// How frames are cut into blocks and pieces.
struct Cut<'a> {
    /// Frames of a piece at most.
    piece: u64,
    /// Frames of a block.
    block: u64,
    /// All frames.
    taken: u64,
    /// Raw frames that are decoded together.
    chunk: u64,
    selection: &'a FrameSelection,
}

impl Cut<'_> {
    /// The frames of a block; none behind the last.
    fn block(&self, number: u64) -> Range<u64> {
        (number * self.block).min(self.taken)..((number + 1) * self.block).min(self.taken)
    }

    /// How many these are.
    fn block_frames(&self, number: u64) -> u64 {
        let block = self.block(number);
        block.end - block.start
    }

    fn block_of(&self, frame: u64) -> u64 {
        frame / self.block
    }

    /// The frames of the piece that begins with one: none of another block, and no part of those that are decoded together
    /// if the next piece can begin with them.
    fn piece_at(&self, begin: u64) -> Range<u64> {
        let last = self.block(self.block_of(begin)).end;
        let end = (begin + self.piece).min(last);
        if end == last {
            return begin..end;
        }
        let chunk = |frame| self.selection.raw(frame) / self.chunk;
        begin..(begin + 1..=end).rev().find(|&frame| chunk(frame) != chunk(frame - 1)).unwrap_or(end)
    }
}

/// What the caller's thread does while the others read.
struct Turns<'a, D: Device, F> {
    device: &'a D,
    cut: Cut<'a>,
    /// What nobody fills.
    empty: Vec<D::Staging>,
    on_the_way: OnTheWay<D::Staging>,
    /// The first frame that no thread was told to read.
    next: u64,
    /// Pieces that threads were given and have not handed over.
    given: usize,
    /// Blocks that were used.
    used: u64,
    /// Frames that were not sent, of the first block that was not used and of the one behind it, by whether their number
    /// is even.
    left: [u64; OPEN as usize],
    take: F,
}

impl<D: Device, F: FnMut(Fed<'_, D::Staging>) -> Result<(), CudaError>> Turns<'_, D, F> {
    /// Gives out pieces and has them sent until all frames were. Ends early when no thread is left: that says why.
    fn run(
        &mut self,
        give: &Sender<(D::Staging, Range<u64>)>,
        filled: &Receiver<Result<Filled<D::Staging>, EngineError>>,
    ) -> Result<(), CudaError> {
        loop {
            self.give_out(give);
            if self.given == 0 {
                match self.on_the_way.oldest(self.device)? {
                    Some(piece) => self.empty.push(piece),
                    None => return Ok(()),
                }
                continue;
            }
            let Ok(read) = filled.recv() else { return Ok(()) };
            self.given -= 1;
            self.send(read?)?;
        }
    }

    /// Gives all that is empty, as far as blocks may be read.
    fn give_out(&mut self, give: &Sender<(D::Staging, Range<u64>)>) {
        while self.next < self.cut.taken && self.cut.block_of(self.next) < self.used + OPEN {
            let Some(piece) = self.empty.pop() else { return };
            let frames = self.cut.piece_at(self.next);
            self.next = frames.end;
            self.given += 1;
            // no thread is left that takes it: nothing comes back then, either
            give.send((piece, frames)).unwrap_or_default();
        }
    }

    /// Has a piece sent, and the blocks used that are complete then, in their order.
    fn send(&mut self, Filled { mut piece, frames }: Filled<D::Staging>) -> Result<(), CudaError> {
        self.left[(self.cut.block_of(frames.start) % OPEN) as usize] -= frames.end - frames.start;
        (self.take)(Fed::Piece(frames, &mut piece))?;
        self.empty.extend(self.on_the_way.add(self.device, piece)?);
        while self.left[(self.used % OPEN) as usize] == 0 && self.cut.block_frames(self.used) > 0 {
            (self.take)(Fed::Block(self.cut.block(self.used)))?;
            self.left[(self.used % OPEN) as usize] = self.cut.block_frames(self.used + OPEN);
            self.used += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
