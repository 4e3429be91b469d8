//! Which pixels of the wanted bins are on the device at once, and their counts there: a matrix (frame, column), see
//! twotime.cu. A bin that does not fit is cut, between its groups or within one.

use std::collections::VecDeque;
use std::ops::Range;

use crate::correlate::twotime::Smoothing;
use crate::dataset::PixelType;
use crate::engine::cuda::device::{Arg, Buffer, Counts, Device, DeviceError, Grid, Kernel};
use crate::engine::cuda::reduce::{filed_at_once, starts};
use crate::engine::cuda::sort::sort;
use crate::engine::cuda::{NONE, threads};
use crate::engine::layout::Layout;
use crate::engine::two_time::groups;

/// Groups are filled up to a multiple of it: twotime.cu's DEPTH.
pub(super) const DEPTH: usize = 32;

/// Rows are filled up to a multiple of it: twotime.cu's ROWS.
pub(in crate::engine::cuda) const ROWS: usize = 128;

/// A digit's base: twotime.cu's BASE.
const BASE: u64 = 256;

/// Planes of digits at most: all of a 64-bit number.
const MOST_PLANES: u32 = 8;

/// Threads of a block whose warps take a column each.
const COLUMN_THREADS: u32 = 128;

/// Pixels of a bin that share their weights, or a part of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine::cuda) struct Share {
    /// Position of the bin among those wanted.
    pub(super) bin: usize,
    /// Number of the group in its bin.
    pub(super) group: usize,
    pub(super) places: Range<usize>,
    /// What of the group comes in later slices.
    pub(super) rest: usize,
}

/// The groups of all wanted bins that are not on the device yet.
#[derive(Debug)]
pub(in crate::engine::cuda) struct Queue {
    /// The first is next; those of a bin follow one another.
    shares: VecDeque<Share>,
    /// The bin that was cut last.
    cut: Option<usize>,
}

impl Queue {
    /// All groups of some bins.
    pub(in crate::engine::cuda) fn new(layout: &Layout, labels: &[u32], smoothing: Smoothing) -> Self {
        let mut shares = VecDeque::new();
        for (bin, &label) in labels.iter().enumerate() {
            let places = layout.bin(label);
            let own = groups(&layout.statics[places.clone()], smoothing).into_iter().enumerate();
            shares.extend(own.map(|(group, own)| {
                let places = places.start + own.start..places.start + own.end;
                Share { bin, group, places, rest: 0 }
            }));
        }
        Self { shares, cut: None }
    }

    /// Whether all have been taken.
    pub(in crate::engine::cuda) fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// As many of the next bins as fit into so many columns; of a bin that is larger by itself, a part. The last part of a
    /// bin comes alone: the bin may be wanted again before the next one.
    pub(super) fn take(&mut self, columns: usize) -> Vec<Share> {
        let (mut taken, mut left) = (Vec::<Share>::new(), columns / DEPTH * DEPTH);
        while let Some(next) = self.shares.front() {
            let bin = next.bin;
            let needed: usize = self.shares.iter().take_while(|share| share.bin == bin).map(filled).sum();
            let alone = taken.first().is_some_and(|first| Some(first.bin) == self.cut);
            if (needed > left || alone) && !taken.is_empty() {
                break;
            }
            if needed > left {
                self.cut = Some(bin);
            }
            while let Some(mut share) = self.shares.pop_front_if(|share| share.bin == bin) {
                let fits = share.places.len().min(left);
                if fits == 0 {
                    self.shares.push_front(share);
                    return taken;
                }
                if fits < share.places.len() {
                    let middle = share.places.start + fits;
                    self.shares.push_front(Share { places: middle..share.places.end, ..share.clone() });
                    share = Share { rest: share.places.len() - fits, places: share.places.start..middle, ..share };
                    taken.push(share);
                    return taken;
                }
                left -= filled(&share);
                taken.push(share);
            }
        }
        taken
    }

    /// Wants what was taken of a bin once more, before the others. It is cut where it was: sums of floats depend on it.
    pub(super) fn again(&mut self, shares: Vec<Share>) {
        shares.into_iter().rev().for_each(|share| self.shares.push_front(share));
    }

    /// Puts back what was taken and could not be done.
    pub(in crate::engine::cuda) fn put_back(&mut self, shares: Vec<Share>) {
        for mut share in shares.into_iter().rev() {
            if share.rest > 0 {
                let (end, rest) =
                    self.shares.pop_front().map_or((share.places.end, 0), |next| (next.places.end, next.rest));
                share = Share { places: share.places.start..end, rest, ..share };
            }
            self.shares.push_front(share);
        }
    }
}

/// Columns of a share.
pub(super) fn filled(share: &Share) -> usize {
    share.places.len().next_multiple_of(DEPTH)
}

/// What counts are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::cuda) enum Kind {
    /// So many digits.
    Whole(u32),
    Floats,
}

impl Kind {
    /// What holds sums of `avg` counts.
    pub(in crate::engine::cuda) fn of(counts: Counts, avg: u64) -> Self {
        let largest = match counts {
            Counts::TwoBits => 3,
            Counts::Pixels(PixelType::U8) => u64::from(u8::MAX),
            Counts::Pixels(PixelType::U16) => u64::from(u16::MAX),
            Counts::Pixels(PixelType::U32) => u64::from(u32::MAX),
            Counts::Pixels(PixelType::I16) => i16::MAX as u64,
            Counts::Pixels(PixelType::I32) => i32::MAX as u64,
            Counts::Pixels(PixelType::F32) => return Self::Floats,
        };
        Self::Whole(planes(largest.saturating_mul(avg)))
    }

    /// Bytes of a column and frame.
    pub(in crate::engine::cuda) fn bytes(self) -> usize {
        match self {
            Self::Whole(planes) => planes as usize * size_of::<u16>(),
            Self::Floats => size_of::<f32>(),
        }
    }
}

/// Digits of a number.
pub(super) fn planes(number: u64) -> u32 {
    (1..MOST_PLANES).find(|&planes| number < BASE.pow(planes)).unwrap_or(MOST_PLANES)
}

/// Counts of some pixels in all frames.
pub(in crate::engine::cuda) struct Columns<D: Device> {
    pub(super) shares: Vec<Share>,
    /// First column of each share.
    pub(super) begins: Vec<u32>,
    pub(super) width: usize,
    pub(super) frames: usize,
    pub(super) cells: Cells<D>,
    cells_of: Buffer<D, u32>,
    /// What of a frame, or of the image, each column shows.
    own: Vec<u32>,
}

/// The matrix.
pub(super) enum Cells<D: Device> {
    Whole {
        digits: Buffer<D, u16>,
        planes: u32,
        /// The largest number.
        most: Buffer<D, u64>,
    },
    Floats(Buffer<D, f32>),
}

impl<D: Device> Columns<D> {
    /// Zeros; `cells` has what shows the pixel of each place.
    pub(super) fn new(
        device: &D,
        cells: &[u32],
        shares: Vec<Share>,
        frames: usize,
        kind: Kind,
    ) -> Result<Self, (DeviceError, Vec<Share>)> {
        let (mut begins, mut own) = (Vec::new(), Vec::new());
        for share in &shares {
            begins.push(own.len() as u32);
            own.extend_from_slice(&cells[share.places.clone()]);
            own.resize(own.len().next_multiple_of(DEPTH), NONE);
        }
        let width = own.len();
        let made = (|| Ok((Buffer::of(device, &own)?, Cells::new(device, width * rows(frames), kind)?)))();
        match made {
            Ok((cells_of, cells)) => Ok(Self { shares, begins, width, frames, cells, cells_of, own }),
            Err(error) => Err((error, shares)),
        }
    }

    /// What it was made of.
    pub(in crate::engine::cuda) fn into_shares(self) -> Vec<Share> {
        self.shares
    }

    /// Whether there cannot be fewer.
    pub(in crate::engine::cuda) fn are_fewest(&self) -> bool {
        self.width <= DEPTH
    }

    /// Bins that are in it.
    pub(in crate::engine::cuda) fn bins(&self) -> u64 {
        self.shares.chunk_by(|a, b| a.bin == b.bin).count() as u64
    }

    /// Numbers of a plane.
    pub(super) fn plane(&self) -> usize {
        self.width * rows(self.frames)
    }

    /// Writes `count` frames, `first` and on, each the sum of `avg` raw ones.
    pub(in crate::engine::cuda) fn write(
        &self,
        device: &D,
        counts: Counts,
        raw: Arg<'_, D::Memory>,
        shape: (usize, u64),
        frames: Range<u64>,
    ) -> Result<(), DeviceError> {
        let ((row, avg), count) = (shape, (frames.end - frames.start) as usize);
        let at = frames.start as usize * self.width;
        let numbers = [row as u32, avg as u32].map(Arg::U32);
        let [row, avg] = numbers;
        let sizes = [Arg::U32(self.width as u32), Arg::U32(count as u32)];
        let [width, number] = sizes;
        let mut arguments = vec![raw, row, avg, self.cells_of.arg(), width, number];
        match &self.cells {
            Cells::Whole { digits, planes, most } => {
                arguments.extend([Arg::U32(*planes), Arg::U64(self.plane() as u64), most.arg(), digits.arg_from(at)])
            }
            Cells::Floats(values) => arguments.push(values.arg_from(at)),
        }
        device.launch(Kernel::Columns(counts), threads(count * self.width), &arguments)
    }

    /// The column of each pixel of the image, NONE of those without.
    pub(in crate::engine::cuda) fn places(&self, image: usize) -> Vec<u32> {
        let mut columns = vec![NONE; image];
        for (column, &pixel) in self.own.iter().enumerate().filter(|(_, pixel)| **pixel != NONE) {
            columns[pixel as usize] = column as u32;
        }
        columns
    }

    /// How many events each column has, of those of each place.
    pub(in crate::engine::cuda) fn events(&self, layout: &Layout, of_places: &[u32]) -> Vec<u32> {
        self.own
            .iter()
            .map(|&pixel| if pixel == NONE { 0 } else { of_places[layout.place[pixel as usize] as usize] })
            .collect()
    }
}

impl<D: Device> Cells<D> {
    fn new(device: &D, plane: usize, kind: Kind) -> Result<Self, DeviceError> {
        Ok(match kind {
            Kind::Whole(planes) => Self::Whole {
                digits: Buffer::zeros(device, plane * planes as usize)?,
                planes,
                most: Buffer::zeros(device, 1)?,
            },
            Kind::Floats => Self::Floats(Buffer::zeros(device, plane)?),
        })
    }
}

/// Rows of a matrix of so many frames.
pub(super) fn rows(frames: usize) -> usize {
    frames.next_multiple_of(ROWS)
}

/// Events that are sorted by column.
pub(in crate::engine::cuda) struct Filed<D: Device> {
    pub(in crate::engine::cuda) events: Buffer<D, u64>,
    starts: Buffer<D, u32>,
    columns: usize,
}

impl<D: Device> Filed<D> {
    /// Room for so many events of each column, and the cursors at which they are filed.
    pub(in crate::engine::cuda) fn new(device: &D, events: &[u32]) -> Result<(Self, Buffer<D, u32>), DeviceError> {
        let all = filed_at_once(events)?;
        let numbers = Buffer::of(device, events)?;
        let columns = events.len();
        let filed = Self { events: Buffer::new(device, all)?, starts: starts(device, &numbers, columns)?, columns };
        Ok((filed, starts(device, &numbers, columns)?))
    }

    fn grid(&self) -> Grid {
        let blocks = (self.columns as u32).div_ceil(COLUMN_THREADS / 32);
        Grid { blocks, threads: COLUMN_THREADS, shared: 0 }
    }

    /// Sorts them; returns what holds the largest counts of a column and frame.
    pub(in crate::engine::cuda) fn sort(&self, device: &D) -> Result<Kind, DeviceError> {
        let most = Buffer::<D, u64>::zeros(device, 1)?;
        sort(device, &self.starts, self.columns, &self.events)?;
        let arguments = [self.events.arg(), self.starts.arg(), Arg::U32(self.columns as u32), most.arg()];
        device.launch(Kernel::EventsMost, self.grid(), &arguments)?;
        Ok(Kind::Whole(planes(most.read(device)?[0])))
    }

    /// Writes them to their columns.
    pub(in crate::engine::cuda) fn write(&self, device: &D, columns: &Columns<D>) -> Result<(), DeviceError> {
        let Cells::Whole { digits, planes, most } = &columns.cells else { return Ok(()) };
        let number = Arg::U32(self.columns as u32);
        let plane = Arg::U64(columns.plane() as u64);
        let digits = [number, Arg::U32(*planes), plane, most.arg(), digits.arg()];
        let arguments: Vec<_> = [self.events.arg(), self.starts.arg()].into_iter().chain(digits).collect();
        device.launch(Kernel::ColumnsEvents, self.grid(), &arguments)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(sizes: &[Vec<usize>]) -> Queue {
        let mut start = 0;
        let mut shares = VecDeque::new();
        for (bin, groups) in sizes.iter().enumerate() {
            for (group, &size) in groups.iter().enumerate() {
                shares.push_back(Share { bin, group, places: start..start + size, rest: 0 });
                start += size;
            }
        }
        Queue { shares, cut: None }
    }

    proptest! {
        #[test]
        fn slices_hold_everything_once_and_fit(
            sizes in proptest::collection::vec(proptest::collection::vec(1usize..200, 1..5), 1..6),
            columns in 32usize..400,
            refused in proptest::collection::vec(any::<bool>(), 400),
        ) {
            let pixels: Vec<usize> = sizes.iter().map(|groups| groups.iter().sum()).collect();
            let begin = |bin: usize| pixels[..bin].iter().sum::<usize>();
            let mut queue = queue(&sizes);
            let (mut next, mut refused) = (0, refused.into_iter());
            let mut open: Option<usize> = None;
            // bins that were cut are taken twice
            let (mut again, mut parts) = (None, Vec::new());
            while !queue.is_empty() {
                let shares = queue.take(columns);
                prop_assert!(!shares.is_empty());
                prop_assert!(shares.iter().map(filled).sum::<usize>() <= columns);
                if refused.next() == Some(true) {
                    queue.put_back(shares);
                    continue;
                }
                if again.is_none_or(|bin| bin != shares[0].bin) {
                    parts.extend_from_slice(&shares);
                }
                let (first, last) = (&shares[0], &shares[shares.len() - 1]);
                let (bin, end) = (last.bin, last.places.end);
                let is_whole = first.places.start == begin(first.bin) && end == begin(bin + 1);
                prop_assert!(is_whole || first.bin == bin, "the parts of a bin come alone");
                for share in shares {
                    prop_assert_eq!(share.places.start, next);
                    next = share.places.end;
                    if let Some(bin) = open {
                        prop_assert_eq!(share.bin, bin, "a group goes on where it was cut");
                    }
                    open = (share.rest > 0).then_some(share.bin);
                }
                if end == begin(bin + 1) {
                    let parts = std::mem::take(&mut parts);
                    if !is_whole && again != Some(bin) {
                        again = Some(bin);
                        queue.again(parts);
                        next = begin(bin);
                    }
                }
            }
            prop_assert_eq!(next, pixels.iter().sum::<usize>());
            prop_assert_eq!(open, None);
        }
    }

    #[test]
    fn digits_of_numbers() {
        for (number, wanted) in [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 3), (u64::MAX, 8)] {
            assert_eq!(planes(number), wanted, "{number}");
        }
    }
}
