//! Where the chunks of a dataset are in the file: built once under the library's lock, read by every thread.

use std::ops::Range;
use std::path::Path;

use bytemuck::{Pod, Zeroable};
use hdf5::Dataset;
use serde::{Deserialize, Serialize};

use crate::dataset::DatasetError;
use crate::dataset::reader::{BrokenAnswer, Packed};

/// How chunks tile a dataset of `R` axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid<const R: usize> {
    shape: [u64; R],
    chunk: [u64; R],
    counts: [u64; R],
}

impl<const R: usize> Grid<R> {
    /// None if an extent is 0 or there are more chunks than can be numbered.
    pub(super) fn new(shape: [u64; R], chunk: [u64; R]) -> Option<Self> {
        if shape.contains(&0) || chunk.contains(&0) {
            return None;
        }
        let counts = std::array::from_fn(|i| shape[i].div_ceil(chunk[i]));
        counts.iter().try_fold(1, |all: u64, &count| all.checked_mul(count))?;
        Some(Self { shape, chunk, counts })
    }

    /// Extent of a chunk.
    pub(super) fn chunk(&self) -> [u64; R] {
        self.chunk
    }

    /// Number of a chunk, from its place in the grid: the last axis counts fastest.
    pub(super) fn number(&self, cell: [u64; R]) -> u64 {
        cell.iter().zip(self.counts).fold(0, |number, (&at, count)| number * count + at)
    }

    /// Chunks along each axis.
    pub(super) fn counts(&self) -> [u64; R] {
        self.counts
    }

    /// True when no element of the chunk lies beyond the dataset's end.
    pub(super) fn is_inside(&self, cell: [u64; R]) -> bool {
        (0..R).all(|i| self.shape[i] / self.chunk[i] > cell[i])
    }

    /// The cell that begins at an element; None if no cell does.
    fn cell_at(&self, offset: &[u64]) -> Option<[u64; R]> {
        let offset: [u64; R] = offset.try_into().ok()?;
        let begins = (0..R).all(|i| offset[i] < self.shape[i] && offset[i].is_multiple_of(self.chunk[i]));
        begins.then(|| std::array::from_fn(|i| offset[i] / self.chunk[i]))
    }
}

/// A chunk in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Zeroable, Pod)]
#[repr(C)]
pub(in crate::dataset) struct StoredChunk {
    /// First byte.
    pub(super) address: u64,
    /// Bytes.
    pub(super) size: u32,
    /// Bit `i` is set when filter `i` was not applied.
    pub(super) skipped: u32,
}

/// The stored chunks, by number.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::dataset) struct ChunkIndex {
    /// Ascending; None when the numbers are those of the positions, as in files without absent chunks.
    numbers: Option<Packed<u64>>,
    chunks: Packed<StoredChunk>,
}

impl ChunkIndex {
    /// Asks the library for all chunks, in one walk; every one of them is found to lie within the file.
    ///
    /// # Errors
    /// An index that the library cannot read, or chunks that are not of the grid or not within `file_length`.
    pub(super) fn build<const R: usize>(
        dataset: &Dataset,
        path: &Path,
        grid: &Grid<R>,
        file_length: u64,
    ) -> Result<Self, DatasetError> {
        let mut entries = Vec::new();
        let mut refused = None;
        dataset
            .chunks_visit(|info| {
                // An index may have room for chunks that were never written.
                if info.addr == u64::MAX || info.size == 0 {
                    return 0;
                }
                match entry(grid, info.offset, (info.addr, info.size, info.filter_mask), file_length) {
                    Ok(entry) => entries.push(entry),
                    Err(what) => refused = Some((what, info.addr)),
                }
                i32::from(refused.is_some())
            })
            .map_err(|source| DatasetError::hdf5(format!("list the chunks of {}", dataset.name()), path, source))?;
        entries.sort_unstable_by_key(|&(number, _)| number);
        match refused.or_else(|| twice(&entries)) {
            Some((what, address)) => Err(DatasetError::Raw {
                path: path.to_owned(),
                place: format!("{}, byte {address}", dataset.name()),
                what,
                remedy: "the file is damaged or was cut off; copy it again".into(),
            }),
            None => Ok(Self::new(entries)),
        }
    }

    /// Of chunks by ascending numbers.
    fn new(entries: Vec<(u64, StoredChunk)>) -> Self {
        let complete = entries.iter().zip(0..).all(|(&(number, _), position)| number == position);
        let numbers = (!complete).then(|| Packed(entries.iter().map(|&(number, _)| number).collect()));
        Self { numbers, chunks: Packed(entries.into_iter().map(|(_, chunk)| chunk).collect()) }
    }

    /// Holds the index against the grid and the file again: it may come from a process that read a hostile file.
    ///
    /// # Errors
    /// Numbers that are not ascending or not of the grid, chunks that are not within the file.
    pub(super) fn check<const R: usize>(&self, grid: &Grid<R>, file_length: u64) -> Result<(), BrokenAnswer> {
        let chunks = grid.counts.iter().product::<u64>();
        let of_grid = match &self.numbers {
            None => self.chunks.len() as u64 <= chunks,
            Some(numbers) => {
                let ascending = numbers.windows(2).all(|pair| pair[0] < pair[1]);
                ascending && numbers.len() == self.chunks.len() && numbers.last().is_none_or(|&last| last < chunks)
            }
        };
        let inside =
            |chunk: &StoredChunk| chunk.address.checked_add(chunk.size.into()).is_some_and(|end| end <= file_length);
        match of_grid && self.chunks.iter().all(inside) {
            true => Ok(()),
            false => Err(BrokenAnswer("a chunk is not where one can be")),
        }
    }

    /// The chunk of a number; None if it is absent.
    pub(super) fn get(&self, number: u64) -> Option<StoredChunk> {
        let position = match &self.numbers {
            None => usize::try_from(number).ok()?,
            Some(numbers) => numbers.binary_search(&number).ok()?,
        };
        self.chunks.get(position).copied()
    }

    /// True when at least one chunk of these numbers is stored.
    pub(super) fn has_any(&self, numbers: Range<u64>) -> bool {
        match &self.numbers {
            None => numbers.start < numbers.end && numbers.start < self.chunks.len() as u64,
            Some(stored) => {
                let first = stored.partition_point(|&number| number < numbers.start);
                stored.get(first).is_some_and(|&number| number < numbers.end)
            }
        }
    }
}

/// What is wrong with chunks of the same number, and where, if there are such.
fn twice(entries: &[(u64, StoredChunk)]) -> Option<(String, u64)> {
    let pair = entries.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
    let [one, other] = [pair[0].1.address, pair[1].1.address];
    Some((format!("the chunk is stored twice, at byte {one} too"), other))
}

fn entry<const R: usize>(
    grid: &Grid<R>,
    offset: &[u64],
    (address, size, skipped): (u64, u64, u32),
    file_length: u64,
) -> Result<(u64, StoredChunk), String> {
    let cell = grid.cell_at(offset).ok_or_else(|| format!("chunk at element {offset:?} is not of the chunk grid"))?;
    if address.checked_add(size).is_none_or(|end| end > file_length) {
        return Err(format!("chunk of {size} bytes ends beyond the file's {file_length}"));
    }
    let size = u32::try_from(size).map_err(|_| format!("chunk of {size} bytes is larger than HDF5 allows"))?;
    Ok((grid.number(cell), StoredChunk { address, size, skipped }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(address: u64) -> StoredChunk {
        StoredChunk { address, size: 1, skipped: 0 }
    }

    #[test]
    fn cells_are_numbered_with_the_last_axis_fastest() {
        let grid = Grid::new([10, 7, 5], [3, 4, 5]).unwrap();
        assert_eq!(grid.counts(), [4, 2, 1]);
        assert_eq!(grid.number([3, 1, 0]), 7);
        assert!(grid.is_inside([2, 0, 0]));
        assert!(!grid.is_inside([3, 0, 0]) && !grid.is_inside([0, 1, 0]));
        assert_eq!(grid.cell_at(&[9, 4, 0]), Some([3, 1, 0]));
        assert_eq!((grid.cell_at(&[9, 5, 0]), grid.cell_at(&[12, 4, 0])), (None, None));
    }

    #[test]
    fn extents_that_cannot_be_numbered_are_refused() {
        assert_eq!(Grid::new([u64::MAX, 3], [1, 1]), None);
        assert_eq!(Grid::new([4, 3], [0, 1]), None);
        assert_eq!(Grid::new([0, 3], [1, 1]), None);
    }

    #[test]
    fn absent_chunks_are_none() {
        let index = ChunkIndex::new(vec![(2, chunk(20)), (7, chunk(70))]);
        assert_eq!((index.get(2), index.get(7), index.get(3)), (Some(chunk(20)), Some(chunk(70)), None));
        assert!(index.has_any(0..3) && index.has_any(7..8));
        assert!(!index.has_any(3..7) && !index.has_any(8..99) && !index.has_any(2..2));
        let complete = ChunkIndex::new(vec![(0, chunk(0)), (1, chunk(10))]);
        assert_eq!((complete.numbers.is_none(), complete.get(1), complete.get(2)), (true, Some(chunk(10)), None));
        assert!(complete.has_any(1..9) && !complete.has_any(2..9));
    }

    #[test]
    fn a_chunk_that_is_stored_twice_is_refused() {
        assert_eq!(twice(&[(2, chunk(20)), (3, chunk(20))]), None);
        let (what, address) = twice(&[(2, chunk(20)), (2, chunk(70)), (3, chunk(1))]).unwrap();
        assert_eq!((what.as_str(), address), ("the chunk is stored twice, at byte 20 too", 70));
    }

    #[test]
    fn chunks_beyond_the_file_are_refused() {
        let grid = Grid::new([4], [2]).unwrap();
        assert!(entry(&grid, &[2], (90, 10, 0), 100).is_ok());
        for (address, size) in [(91, 10), (u64::MAX - 1, 10)] {
            assert!(entry(&grid, &[2], (address, size, 0), 100).unwrap_err().contains("beyond the file's 100"));
        }
    }
}
