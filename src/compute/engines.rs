//! Which engine a job gets: what `-i` asks for, never the CPU in place of a GPU that was asked for.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::time::Duration;

use crate::engine::cpu::CpuEngine;
use crate::engine::cuda::{CudaEngine, DeviceError, NoGpu, SelfTestError};
use crate::engine::{Engine, EngineError};
use crate::gpu::{LIBRARY, free_memory, is_same_gpu};
use crate::task::failure::Fault;

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

    /// The CPU.
    pub fn cpu(threads: Option<NonZeroUsize>) -> Self {
        Self { engine: Box::new(CpuEngine::new(threads)), gpu: None, why_cpu: None }
    }
}

/// How long the driver may take to say how much memory is free: without persistence mode it starts each GPU first, which
/// takes seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The engine for `-i`: -1 the CPU; -2 a GPU if there is one, of those that `is_free` says of, by their UUIDs, the one with
/// the most free memory, of all if none is free; else the GPU of that number.
///
/// # Errors
/// The GPU is not there, or cannot be used.
pub fn choose(gpu: i64, threads: Option<NonZeroUsize>, is_free: impl FnMut(&str) -> bool) -> Result<Chosen, NoGpu> {
    match (gpu, u64::try_from(gpu)) {
        (_, Ok(number)) => Ok(Chosen::gpu(CudaEngine::new(number, threads)?)),
        (-2, Err(_)) => match CudaEngine::first(threads, |uuids| order(uuids, &memory(uuids), is_free)) {
            Ok(engine) => Ok(Chosen::gpu(engine)),
            // a GPU that is there and broken is not passed over in silence
            Err(none @ (NoGpu::NoDriver | NoGpu::None)) => Ok(Chosen { why_cpu: Some(none), ..Chosen::cpu(threads) }),
            Err(other @ (NoGpu::Init(_) | NoGpu::Unknown { .. } | NoGpu::Unusable { .. })) => Err(other),
        },
        (_, Err(_)) => Ok(Chosen::cpu(threads)),
    }
}

/// Free bytes of each GPU; 0 where the driver does not say. One GPU is not asked: there is nothing to choose.
fn memory(uuids: &[Option<String>]) -> Vec<u64> {
    if uuids.len() < 2 {
        return vec![0; uuids.len()];
    }
    let known = free_memory(Path::new(LIBRARY), PATIENCE);
    let of = |uuid: &String| known.iter().find(|(known, _)| is_same_gpu(known.as_str(), uuid)).map(|(_, bytes)| *bytes);
    uuids.iter().map(|uuid| uuid.as_ref().and_then(of).unwrap_or_default()).collect()
}

/// The order in which GPUs are tried: the first free one of those with the most memory, then the others.
fn order(uuids: &[Option<String>], memory: &[u64], mut is_free: impl FnMut(&str) -> bool) -> Vec<u32> {
    let mut order: Vec<u32> = (0..).zip(uuids).map(|(gpu, _)| gpu).collect();
    // of those that are alike the first
    order.sort_by_key(|&gpu| std::cmp::Reverse(memory[gpu as usize]));
    let free = order.iter().position(|&gpu| uuids[gpu as usize].as_deref().is_none_or(&mut is_free));
    if let Some(free) = free {
        order[..=free].rotate_right(1);
    }
    order
}

/// The engine of a slot that has a GPU, the only one that its process sees, of which it may use a part of the memory.
///
/// # Errors
/// The GPU is not there, or cannot be used.
pub fn on_slot(sharers: NonZeroU32, threads: Option<NonZeroUsize>) -> Result<Chosen, NoGpu> {
    Ok(Chosen::gpu(CudaEngine::new(0, threads)?.shared_by(sharers)))
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

/// CUDA_ERROR_OUT_OF_MEMORY: of a call that names no size, as that for a context; the GPU's memory or the host's.
const OUT_OF_MEMORY: u32 = 2;

impl TestError {
    /// Whose fault it is: that of what is tested, or, as of an input that is not there, of what the test was given.
    pub fn fault(&self) -> Fault {
        let can_run = match self {
            Self::NoGpu(NoGpu::NoDriver) => false,
            Self::NoGpu(NoGpu::None | NoGpu::Unknown { .. }) => true,
            Self::NoGpu(NoGpu::Init(error) | NoGpu::Unusable { source: error, .. })
            | Self::Failed(SelfTestError::Device(error)) => has_memory(error),
            Self::Failed(SelfTestError::Correlate(error)) => match error {
                EngineError::Device { device: _, source } => has_memory(source),
                EngineError::Memory { .. } => false,
                EngineError::Read(_)
                | EngineError::Partition(_)
                | EngineError::Saturated(_)
                | EngineError::Value { .. }
                | EngineError::Store(_)
                | EngineError::Cancelled => true,
            },
            Self::Failed(
                SelfTestError::Memory { .. } | SelfTestError::Length { .. } | SelfTestError::Numbers { .. },
            ) => true,
        };
        if can_run { Fault::Program } else { Fault::Input }
    }
}

/// Whether it failed for another reason than that memory is taken.
fn has_memory(error: &DeviceError) -> bool {
    match error {
        DeviceError::OutOfMemory { .. } => false,
        DeviceError::Kernel { source, .. } | DeviceError::Load { source, .. } | DeviceError::Call { source, .. } => {
            source.code != OUT_OF_MEMORY
        }
    }
}

/// Tests the first GPU that this process sees.
///
/// # Errors
/// What is wrong.
pub fn self_test() -> Result<(), TestError> {
    let engine = CudaEngine::new(0, Some(NonZeroUsize::MIN)).map_err(TestError::NoGpu)?;
    engine.self_test().map_err(TestError::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cuda::{DriverCause, MemoryKind};

    #[test]
    fn the_first_free_gpu_with_the_most_memory_is_tried_first() {
        let uuids: Vec<Option<String>> = ["a", "b", "c", "d"].map(|uuid| Some(uuid.to_owned())).into();
        let memory = [1, 4, 3, 4];
        let tried = |free: &[&str]| {
            let mut asked = Vec::new();
            let found = order(&uuids, &memory, |uuid| {
                asked.push(uuid.to_owned());
                free.contains(&uuid)
            });
            (found, asked.concat())
        };
        assert_eq!(tried(&["a", "b", "c", "d"]), (vec![1, 3, 2, 0], "b".to_owned()), "no other is asked: asking locks");
        assert_eq!(tried(&["a", "c"]), (vec![2, 1, 3, 0], "bdc".to_owned()));
        assert_eq!(tried(&["a"]), (vec![0, 1, 3, 2], "bdca".to_owned()));
        assert_eq!(tried(&[]), (vec![1, 3, 2, 0], "bdca".to_owned()));
        assert_eq!(order(&[], &[], |_| true), Vec::<u32>::new());
    }

    #[test]
    fn memory_that_others_have_is_no_fault_of_a_gpu() {
        let call = |code| {
            let source = DriverCause { code, name: "CUDA_ERROR".into(), text: "in words".into() };
            DeviceError::Call { call: "cuDevicePrimaryCtxRetain", source }
        };
        let full = || DeviceError::OutOfMemory { memory: MemoryKind::Gpu, bytes: 1 << 30 };
        let unusable = |source| TestError::NoGpu(NoGpu::Unusable { gpu: 0, source });
        let correlate = |source| TestError::Failed(SelfTestError::Correlate(source));
        let computing = |source| EngineError::Device { device: "GPU".into(), source: Box::new(source) };
        let host = EngineError::Memory { what: "a plan", needed: 2, allowed: 1, remedy: "more" };
        for of_others in [
            TestError::NoGpu(NoGpu::NoDriver),
            unusable(call(2)),
            TestError::Failed(SelfTestError::Device(full())),
            correlate(computing(full())),
            correlate(computing(call(2))),
            correlate(host),
        ] {
            assert_eq!(of_others.fault(), Fault::Input, "{of_others:?}");
        }
        let wrong = SelfTestError::Memory { wrong: 1, numbers: 2 };
        for own in [
            TestError::NoGpu(NoGpu::None),
            unusable(call(214)),
            TestError::Failed(SelfTestError::Device(call(719))),
            TestError::Failed(wrong),
            correlate(computing(call(700))),
        ] {
            assert_eq!(own.fault(), Fault::Program, "{own:?}");
        }
    }
}
