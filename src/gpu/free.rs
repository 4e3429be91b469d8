//! How much memory of each GPU is free, asked once: for a command that chooses a GPU and watches none. Does not say whether a
//! GPU may be trusted.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::identity::GpuUuid;
use super::nvml::{Reading, Session};

/// Free bytes of each GPU and MIG instance. Empty when there is no driver, or when it does not answer in time: what hangs
/// goes on in a thread of its own.
pub fn free_memory(library: &Path, patience: Duration) -> Vec<(GpuUuid, u64)> {
    let (tell, told) = channel();
    let library = library.to_owned();
    let look = move || {
        let readings = Session::open(&library).ok().and_then(|session| session.read().ok());
        let _nobody_waits_any_more = tell.send(readings.unwrap_or_default());
    };
    match std::thread::Builder::new().name("gpu-memory".into()).spawn(look) {
        Ok(_) => told.recv_timeout(patience).unwrap_or_default().into_iter().flat_map(of).collect(),
        Err(_) => Vec::new(),
    }
}

fn of(reading: Reading) -> Vec<(GpuUuid, u64)> {
    let free = |memory: super::Memory| memory.total_bytes.saturating_sub(memory.used_bytes);
    let found = reading.found.unwrap_or_default().into_iter();
    found.filter_map(|found| Some((found.identity.uuid, free(found.sample.memory?)))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn free_bytes_of_each_gpu() {
        let fake = Fake::new(2);
        fake.set("0.memory", "8000 3000");
        fake.set("1.memory", "8000 1000");
        let free: Vec<u64> = free_memory(&fake.library(), PATIENCE).into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(free, [5000, 7000]);
    }

    #[test]
    fn no_driver_has_no_memory() {
        assert_eq!(free_memory(Path::new("/nowhere/libnvidia-ml.so.1"), PATIENCE), []);
    }
}
