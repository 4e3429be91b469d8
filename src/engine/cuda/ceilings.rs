//! What copies over the bus and within a GPU reach: the ceilings that kernels are compared with. For benchmarks alone.

use std::time::Instant;

use super::device::{Device, DeviceError};
use super::driver::Driver;

/// Copies of each kind; the fastest counts, since other work only adds time.
const TRIES: usize = 5;

/// Bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// From pinned memory to the GPU.
    pub to_device: f64,
    /// From the GPU to pinned memory.
    pub to_host: f64,
    /// From the GPU to memory that is not pinned, as results go.
    pub to_pageable: f64,
    /// Within the GPU: bytes that are read and bytes that are written, together.
    pub within: f64,
}

/// Copies some bytes there, back and within.
pub(super) fn ceilings(device: &Driver, bytes: usize) -> Result<Ceilings, DeviceError> {
    let (mut one, mut other) = (device.allocate(bytes)?, device.allocate(bytes)?);
    let (mut pinned, mut pageable) = (device.staging(bytes)?, vec![0; bytes]);
    device.clear(&mut one)?;
    let to_device = fastest(bytes, || {
        device.send(&mut one, 0, &mut pinned, bytes)?;
        device.reclaim(&mut pinned)
    })?;
    let to_host = fastest(bytes, || device.download(&one, 0, &mut pinned))?;
    let to_pageable = fastest(bytes, || device.download(&one, 0, &mut pageable))?;
    let within = fastest(2 * bytes, || device.copy(&mut other, &one, bytes))?;
    Ok(Ceilings { to_device, to_host, to_pageable, within })
}

fn fastest(bytes: usize, mut copy: impl FnMut() -> Result<(), DeviceError>) -> Result<f64, DeviceError> {
    let mut best = 0.0_f64;
    for _ in 0..TRIES {
        let begin = Instant::now();
        copy()?;
        best = best.max(bytes as f64 / begin.elapsed().as_secs_f64());
    }
    Ok(best)
}
