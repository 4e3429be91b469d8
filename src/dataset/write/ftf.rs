//! Writes Rigaku fast-transfer files: `/entry/data/data` of (bytes of a frame, frames), a chunk for each frame with
//! counts, four 2-bit pixels a byte, the first in the lowest bits.

use std::path::PathBuf;

use hdf5::{Dataset, File, Hyperslab, SliceOrIndex};

use super::{Sink, module_pixel};
use crate::dataset::{DatasetError, stitch};
use crate::simulate::Window;

const FRAME_BYTES: usize = stitch::MODULE.rows * stitch::MODULE.cols / 4;

/// The largest count of two bits; the detector stops counting there.
const MAX_COUNT: u32 = 3;

/// The six files of a 3M detector.
pub(super) struct Ftf(Vec<Module>);

struct Module {
    path: PathBuf,
    file: File,
    dataset: Dataset,
    frame: Vec<u8>,
    counts: bool,
}

impl Ftf {
    pub(super) fn create(paths: &[PathBuf], frames: u64) -> Result<Self, DatasetError> {
        paths.iter().map(|path| Module::create(path.clone(), frames)).collect::<Result<_, _>>().map(Self)
    }
}

impl Sink for Ftf {
    fn window(&mut self, window: &Window) -> Result<(), DatasetError> {
        for k in 0..window.frames() {
            for photon in window.photons(k) {
                let (module, index) = module_pixel(photon.pixel);
                self.0[module].set(index, photon.count.min(MAX_COUNT) as u8);
            }
            self.0.iter_mut().try_for_each(|module| module.write(window.first() + k as u64))?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), DatasetError> {
        self.0.into_iter().try_for_each(Module::finish)
    }
}

impl Module {
    fn create(path: PathBuf, frames: u64) -> Result<Self, DatasetError> {
        let create = || -> hdf5::Result<(File, Dataset)> {
            let file = File::create(&path)?;
            let group = file.create_group("entry/data")?;
            let shape = (FRAME_BYTES, frames as usize);
            let dataset = group.new_dataset::<u8>().chunk((FRAME_BYTES, 1)).shape(shape).create("data")?;
            Ok((file, dataset))
        };
        let (file, dataset) = create().map_err(|e| DatasetError::hdf5("create /entry/data/data", &path, e))?;
        Ok(Self { path, file, dataset, frame: vec![0; FRAME_BYTES], counts: false })
    }

    fn set(&mut self, pixel: usize, count: u8) {
        self.frame[pixel / 4] |= count << (2 * (pixel % 4));
        self.counts = true;
    }

    /// Writes the frame that [`Self::set`] made, and begins the next.
    fn write(&mut self, frame: u64) -> Result<(), DatasetError> {
        if !self.counts {
            return Ok(());
        }
        let column = Hyperslab::from(vec![SliceOrIndex::from(..), SliceOrIndex::from(frame as usize)]);
        let written = self.dataset.write_slice(&self.frame, column);
        written.map_err(|e| DatasetError::hdf5(format!("write frame {frame}"), &self.path, e))?;
        self.frame.fill(0);
        self.counts = false;
        Ok(())
    }

    fn finish(self) -> Result<(), DatasetError> {
        let Self { path, file, dataset, .. } = self;
        drop(dataset);
        file.close().map_err(|e| DatasetError::hdf5("close the file", &path, e))
    }
}
