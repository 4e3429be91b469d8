//! What a GPU is: its UUID, its place in the node, and whether it is whole or a part of another.
//!
//! Values only. Nothing here asks the driver.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// The name of a GPU or of a MIG instance that never changes and that no other has: `GPU-…` or `MIG-…`, the digits in
/// lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct GpuUuid(String);

/// A text that is no UUID of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{text}` is no UUID of a GPU: it looks like GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, or MIG-… for an instance"
)]
pub struct UuidError {
    /// What was given.
    pub text: String,
}

impl GpuUuid {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What two names of one device have in common: of a MIG instance NVML writes `MIG-` before the digits, CUDA's driver,
    /// as of any device, `GPU-`. An instance's older name, which has its GPU's digits and slashes, keeps the rest of it.
    pub fn digits(&self) -> &str {
        self.0.strip_prefix("GPU-").or_else(|| self.0.strip_prefix("MIG-")).unwrap_or(&self.0)
    }
}

impl FromStr for GpuUuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        let found = match text.split_at_checked(4) {
            Some(("GPU-", digits)) => is_uuid(digits),
            Some(("MIG-", rest)) => is_uuid(rest) || is_old_instance(rest),
            _ => false,
        };
        if !found {
            return Err(UuidError { text: text.to_owned() });
        }
        let (kind, digits) = text.split_at(4);
        // of an old name only the digits may be lowered
        let digits = if is_uuid(digits) { digits.to_ascii_lowercase() } else { digits.to_owned() };
        Ok(Self(format!("{kind}{digits}")))
    }
}

impl fmt::Display for GpuUuid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What the driver says about a GPU that does not change while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuIdentity {
    /// Its name for all that is remembered.
    pub uuid: GpuUuid,
    /// NVML's index, in the order of the PCI bus; of a MIG instance, the index in its GPU.
    pub index: u32,
    /// The product.
    pub name: String,
    /// Where it sits, as `00000000:3B:00.0`; of a MIG instance, where its GPU sits.
    pub pci_bus_id: String,
    /// The NUMA node that is near; None where the driver does not know.
    pub numa_node: Option<u32>,
    /// The CPUs that are near, ascending; empty where the driver does not know.
    pub cpus: Vec<u32>,
    /// Its memory, bytes; None where it has none of its own.
    pub memory_bytes: Option<u64>,
    /// Which kernels it runs; None where the driver does not say.
    pub capability: Option<Capability>,
    /// The number on the board; None where it has none.
    pub serial: Option<String>,
    /// Whole, divided or a part.
    pub extent: Extent,
}

impl GpuIdentity {
    /// The physical GPU: a fault of it is a fault of each of its instances.
    pub fn physical(&self) -> &GpuUuid {
        match &self.extent {
            Extent::Whole | Extent::Divided => &self.uuid,
            Extent::Instance { parent, .. } => parent,
        }
    }
}

/// A compute capability, such as 9.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Capability {
    /// The generation.
    pub major: u32,
    /// The variant of it.
    pub minor: u32,
}

/// How much of a physical GPU it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// All of it.
    Whole,
    /// All of it, but MIG is on: programs run in its instances only.
    Divided,
    /// A MIG instance.
    Instance {
        /// The GPU that it is a part of.
        parent: GpuUuid,
        /// The number of the GPU instance.
        gpu_instance: u32,
        /// The number of the compute instance in it.
        compute_instance: u32,
    },
}

/// Digits in groups of 8, 4, 4, 4 and 12.
fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `GPU-<uuid>/<GPU instance>/<compute instance>`, as drivers before R470 name an instance.
fn is_old_instance(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let [gpu, instances @ ..] = parts.as_slice() else { return false };
    instances.len() == 2
        && gpu.strip_prefix("GPU-").is_some_and(is_uuid)
        && instances.iter().all(|number| number.parse::<u32>().is_ok())
}

/// Whether two names mean one GPU.
pub fn is_same_gpu(one: &str, other: &str) -> bool {
    match (one.parse::<GpuUuid>(), other.parse::<GpuUuid>()) {
        (Ok(one), Ok(other)) => one.digits() == other.digits(),
        (Err(_), _) | (_, Err(_)) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_checked() {
        for text in [
            "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
            "MIG-8932f937-d72c-4106-c12f-20bd9faed9f6",
            "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0",
        ] {
            assert_eq!(text.parse::<GpuUuid>().map(|uuid| uuid.to_string()).as_deref(), Ok(text));
        }
        let lowered: GpuUuid = "GPU-8932F937-D72C-4106-C12F-20BD9FAED9F6".parse().expect("digits of either case");
        assert_eq!(lowered.as_str(), "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6");
        for text in [
            "",
            "GPU",
            "GPU-",
            "GPU-8932f937",
            "CPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
            "GPU-8932f937-d72c-4106-c12f-20bd9faed9fg",
            "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/../x",
            "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1",
            "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/../0",
            "ÄPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
        ] {
            assert_eq!(text.parse::<GpuUuid>(), Err(UuidError { text: text.to_owned() }));
        }
    }
}
