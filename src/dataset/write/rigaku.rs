//! Writes Rigaku event files: one little-endian u64 an event, bits 0-11 count, 16-36 pixel, 40-63 frame.

use std::path::{Path, PathBuf};

use super::{Bytes, Sink, module_pixel};
use crate::dataset::DatasetError;
use crate::simulate::{Photon, Window};

/// The largest count of an event; more photons take several events, which add.
const MAX_COUNT: u32 = (1 << 12) - 1;

/// Some modules number their pixels from here.
const OFFSET: usize = 1 << 20;

/// The single file of a 500k detector.
pub(super) struct Single(Bytes);

/// The six files of a 3M detector.
pub(super) struct Stitched(Vec<Bytes>);

impl Single {
    pub(super) fn create(path: &Path) -> Result<Self, DatasetError> {
        Bytes::create(path).map(Self)
    }
}

impl Sink for Single {
    fn window(&mut self, window: &Window) -> Result<(), DatasetError> {
        for_each(window, |frame, photon| write(&mut self.0, frame, photon.pixel as usize, photon.count))
    }

    fn finish(self: Box<Self>) -> Result<(), DatasetError> {
        self.0.finish()
    }
}

impl Stitched {
    pub(super) fn create(paths: &[PathBuf]) -> Result<Self, DatasetError> {
        paths.iter().map(|path| Bytes::create(path)).collect::<Result<_, _>>().map(Self)
    }
}

impl Sink for Stitched {
    fn window(&mut self, window: &Window) -> Result<(), DatasetError> {
        for_each(window, |frame, photon| {
            let (module, index) = module_pixel(photon.pixel);
            // Every second module, so that readers meet both numberings.
            write(&mut self.0[module], frame, index + module % 2 * OFFSET, photon.count)
        })
    }

    fn finish(self: Box<Self>) -> Result<(), DatasetError> {
        self.0.into_iter().try_for_each(Bytes::finish)
    }
}

fn for_each(
    window: &Window,
    mut write: impl FnMut(u64, Photon) -> Result<(), DatasetError>,
) -> Result<(), DatasetError> {
    for k in 0..window.frames() {
        window.photons(k).try_for_each(|photon| write(window.first() + k as u64, photon))?;
    }
    Ok(())
}

fn write(file: &mut Bytes, frame: u64, index: usize, mut count: u32) -> Result<(), DatasetError> {
    while count > 0 {
        let part = count.min(MAX_COUNT);
        let event = frame << 40 | (index as u64) << 16 | u64::from(part);
        file.write(&event.to_le_bytes())?;
        count -= part;
    }
    Ok(())
}
