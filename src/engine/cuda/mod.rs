//! The CUDA engine: the kernels of `kernels/` and what feeds them. It is generic over the device, so that
//! the same code runs on a GPU and, in tests, over a host build of the same kernels.

mod api;
mod ceilings;
mod dense;
mod device;
mod driver;
mod engine;
mod events;
#[cfg(test)]
mod host;
mod images;
mod levels;
mod reduce;
mod ring;
mod self_test;
mod sort;
#[cfg(test)]
mod test_device;
#[cfg(test)]
mod tests;
mod twotime;

pub use ceilings::Ceilings;
pub use device::{DeviceError, DriverCause, MemoryKind};
pub use driver::{HostPhase, NoGpu, Spent, Times};
pub use engine::CudaEngine;
pub use self_test::SelfTestError;

use super::sink::{PixelBatch, Sink};
use super::workers::Workers;
use super::{EngineError, Request};
use crate::correlate::reduce::CHANNELS;

/// Why a correlation on a device ended.
#[derive(Debug, thiserror::Error)]
enum CudaError {
    /// As on any engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What is asked for, and who works on it.
#[derive(Clone, Copy)]
struct Call<'a> {
    request: &'a Request,
    workers: Workers<'a>,
}

/// No place, no pixel, no cell: common.cuh's NONE.
const NONE: u32 = u32::MAX;

/// Threads of a block, for kernels whose threads work alone.
const THREADS: u32 = 256;

/// Blocks of such a kernel at most: some for each multiprocessor; their threads take several numbers each.
const MOST_BLOCKS: u32 = 2048;

/// The grid of one thread, which works alone, for each number.
fn each(number: usize) -> device::Grid {
    device::Grid { blocks: number.div_ceil(THREADS as usize) as u32, threads: THREADS, shared: 0 }
}

/// The grid of threads that work alone, each on several of so many numbers where these are many.
fn threads(number: usize) -> device::Grid {
    let grid = each(number);
    device::Grid { blocks: grid.blocks.clamp(1, MOST_BLOCKS), ..grid }
}

/// Pixels whose correlations are copied from a device at a time.
const HANDED_OVER: usize = 4096;

/// Hands the correlations of some pixels over, (pixel, channel, delay).
fn hand_over<D: device::Device>(
    device: &D,
    correlations: &device::Buffer<D, f64>,
    pixels: &[u32],
    delays: usize,
    sink: Sink<'_>,
) -> Result<(), CudaError> {
    for (first, own) in (0..).step_by(HANDED_OVER).zip(pixels.chunks(HANDED_OVER)) {
        let mut values = vec![0.0; own.len() * CHANNELS * delays];
        correlations.read_from(device, first * CHANNELS * delays, &mut values)?;
        sink.pixel_g2(&PixelBatch::of(own, delays, &values))?;
    }
    Ok(())
}
