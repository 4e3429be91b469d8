//! Which engine a job gets: what `-i` asks for, never the CPU in place of a GPU that was asked for.

use std::num::NonZeroUsize;

use crate::engine::Engine;
use crate::engine::cpu::CpuEngine;
use crate::engine::cuda::{CudaEngine, NoGpu, SelfTestError};

/// The engine for `-i`: -1 the CPU, -2 a GPU if there is one, else the GPU of that number. With it comes, where -2 takes
/// the CPU, why.
///
/// # Errors
/// The GPU is not there, or cannot be used.
pub fn choose(gpu: i64, threads: Option<NonZeroUsize>) -> Result<(Box<dyn Engine>, Option<NoGpu>), NoGpu> {
    let cpu = |why| Ok((Box::new(CpuEngine::new(threads)) as Box<dyn Engine>, why));
    match (gpu, u32::try_from(gpu)) {
        (_, Ok(number)) => Ok((Box::new(CudaEngine::new(number, threads)?), None)),
        (-2, Err(_)) => match CudaEngine::any(threads) {
            Ok(engine) => Ok((Box::new(engine), None)),
            // a GPU that is there and broken is not passed over in silence
            Err(none @ (NoGpu::NoDriver | NoGpu::None)) => cpu(Some(none)),
            Err(other @ (NoGpu::Init(_) | NoGpu::Unknown { .. } | NoGpu::Unusable { .. })) => Err(other),
        },
        (_, Err(_)) => cpu(None),
    }
}

/// Why the GPU of this process is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// It is not there.
    #[error("there is no GPU to test")]
    NoGpu(#[source] NoGpu),
    /// It computes wrongly, or not at all.
    #[error("the GPU has failed its self-test")]
    Failed(#[source] SelfTestError),
}

/// Tests the first GPU that this process sees.
///
/// # Errors
/// What is wrong.
pub fn self_test() -> Result<(), TestError> {
    let engine = CudaEngine::new(0, Some(NonZeroUsize::MIN)).map_err(TestError::NoGpu)?;
    engine.self_test().map_err(TestError::Failed)
}
