//! Two-time maps as they come, some rows after the other, in square tiles. Computes nothing of them.

use super::fault::save;
use super::store::{Chunked, Grid, Store};
use super::tables::map_object;
use crate::correlate::result::MapRows;
use crate::dataset::DatasetError;

/// Longest side of a map's tiles: 1 MiB each, enough of them to keep all cores at work.
const TILE: usize = 512;

/// Side of the tiles of a map of so many frames: those of a row of tiles are stored together.
pub(super) fn tile(frames: usize) -> usize {
    frames.div_ceil(frames.div_ceil(TILE).max(1)).max(1)
}

/// The maps of a result.
#[derive(Debug, Default)]
pub(super) struct Maps {
    /// The map whose rows come.
    open: Option<OpenMap>,
    /// Labels of those that are whole.
    whole: Vec<u32>,
}

#[derive(Debug)]
struct OpenMap {
    label: u32,
    frames: usize,
    /// The next row.
    next: usize,
    tiles: Chunked<f32, 2>,
}

impl Maps {
    /// Whether the map of a bin is there, whole.
    pub(super) fn has(&self, label: u32) -> bool {
        self.whole.contains(&label)
    }

    /// Writes the tiles of some rows; those below the diagonal are left out.
    ///
    /// # Errors
    /// Rows that are not the next ones, or cut tiles; a full disk.
    pub(super) fn add(&mut self, store: &Store, rows: MapRows<'_>) -> Result<(), DatasetError> {
        let (count, frames) = rows.values.dim();
        let open = match self.open.take() {
            Some(open) => open,
            None => OpenMap::create(store, rows.label, frames)?,
        };
        let (end, tile) = (rows.first + count, tile(frames));
        let fits = (rows.label, frames, rows.first) == (open.label, open.frames, open.next) && end <= frames;
        if !fits || (!end.is_multiple_of(tile) && end < frames) {
            let action = format!("write rows {} to {end} of {} into", rows.first, map_object(rows.label));
            return Err(save(action, store.target(), "they are not the next ones"));
        }
        let origins: Vec<_> = (rows.first..end)
            .step_by(tile)
            .flat_map(|row| (row..frames).step_by(tile).map(move |col| [row, col]))
            .collect();
        open.tiles.write(store, &origins, |[row, col], values| {
            let (lines, columns) = (row..end.min(row + tile), col..frames.min(col + tile));
            for (line, out) in std::iter::zip(lines, values.chunks_exact_mut(tile)) {
                let own = rows.values.slice(ndarray::s![line - rows.first, columns.clone()]);
                std::iter::zip(out, own).for_each(|(value, &c2)| *value = c2);
            }
            Ok(())
        })?;
        if end < frames {
            self.open = Some(OpenMap { next: end, ..open });
        } else {
            self.whole.push(open.label);
        }
        Ok(())
    }
}

impl OpenMap {
    fn create(store: &Store, label: u32, frames: usize) -> Result<Self, DatasetError> {
        let side = tile(frames);
        let grid = Grid { shape: [frames, frames], chunk: [side, side] };
        Ok(Self { label, frames, next: 0, tiles: store.chunked(&map_object(label), grid)? })
    }
}
