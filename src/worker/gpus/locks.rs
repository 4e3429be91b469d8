//! Where the locks of GPUs are, and how a command that is no worker takes one.

use std::path::PathBuf;
use std::time::Duration;

use crate::gpu::lock::{GpuLock, GpuLockError};
use crate::gpu::{GpuUuid, UuidError};

/// A command waits so long for a GPU: longer than any batch job.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 86_400);

/// Where the locks of this user's GPUs are: the same for all of the user's processes, whatever their environment, and not
/// in memory that goes when the user logs out.
pub(super) fn directory() -> PathBuf {
    PathBuf::from(format!("/tmp/speckled-{}", rustix::process::getuid().as_raw()))
}

/// Why a GPU cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Its name.
    #[error("it has no name that a lock could have")]
    Name(#[source] UuidError),
    /// The lock.
    #[error("its lock cannot be had")]
    Lock(#[source] GpuLockError),
}

/// Takes a GPU for this process if nobody has it.
pub fn lock_free_gpu(uuid: &str) -> Option<GpuLock> {
    GpuLock::try_take(&directory(), &uuid.parse().ok()?).ok()
}

/// Takes a GPU for this process; `waits` is told who has it, if anybody has.
///
/// # Errors
/// It cannot be locked.
pub fn lock_gpu(uuid: &str, waits: impl FnOnce(&GpuLockError)) -> Result<GpuLock, TakeError> {
    let uuid: GpuUuid = uuid.parse().map_err(TakeError::Name)?;
    match GpuLock::try_take(&directory(), &uuid) {
        Err(held @ GpuLockError::Held { .. }) => {
            waits(&held);
            GpuLock::take(&directory(), &uuid, LONGEST_WAIT).map_err(TakeError::Lock)
        }
        other => other.map_err(TakeError::Lock),
    }
}
