//! Which engine a job gets: what `-i` asks for, never the CPU in place of a GPU that was asked for.

use std::num::NonZeroUsize;

use crate::engine::Engine;
use crate::engine::cpu::CpuEngine;
use crate::engine::cuda::{CudaEngine, NoGpu, SelfTestError};

/// An engine.
pub struct Chosen {
    /// Computes.
    pub engine: Box<dyn Engine>,
    /// The UUID of its GPU, if it has one that tells it.
    pub gpu: Option<String>,
    /// Why -2 took the CPU, if it did.
    pub why_cpu: Option<NoGpu>,
}

impl Chosen {
    fn gpu(engine: CudaEngine) -> Self {
        Self { gpu: engine.uuid().map(str::to_owned), engine: Box::new(engine), why_cpu: None }
    }

    fn cpu(threads: Option<NonZeroUsize>, why_cpu: Option<NoGpu>) -> Self {
        Self { engine: Box::new(CpuEngine::new(threads)), gpu: None, why_cpu }
    }
}

/// The engine for `-i`: -1 the CPU, -2 a GPU if there is one, else the GPU of that number.
///
/// # Errors
/// The GPU is not there, or cannot be used.
pub fn choose(gpu: i64, threads: Option<NonZeroUsize>) -> Result<Chosen, NoGpu> {
    match (gpu, u32::try_from(gpu)) {
        (_, Ok(number)) => Ok(Chosen::gpu(CudaEngine::new(number, threads)?)),
        (-2, Err(_)) => match CudaEngine::any(threads) {
            Ok(engine) => Ok(Chosen::gpu(engine)),
            // a GPU that is there and broken is not passed over in silence
            Err(none @ (NoGpu::NoDriver | NoGpu::None)) => Ok(Chosen::cpu(threads, Some(none))),
            Err(other @ (NoGpu::Init(_) | NoGpu::Unknown { .. } | NoGpu::Unusable { .. })) => Err(other),
        },
        (_, Err(_)) => Ok(Chosen::cpu(threads, None)),
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
