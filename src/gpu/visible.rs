//! Which GPUs a process may use: `CUDA_VISIBLE_DEVICES` as CUDA reads it, and the CPUs that are near a GPU.
//!
//! Pure: the variable and the GPUs come in, the choice goes out. It asks neither the environment nor the driver, and
//! gives no GPU to anyone.
//!
//! As CUDA does: unset is all, empty is none, an index that is none (such as -1) ends the list, a prefix of a UUID
//! stands for the GPU if there is one such, and a GPU that comes twice makes the list worthless. CUDA itself uses one
//! MIG instance of a process; here a GPU that is divided stands for all its instances, each for a process of its own.

use thiserror::Error;

use super::identity::{Extent, GpuIdentity, GpuUuid};

/// How CUDA counts GPUs: `CUDA_DEVICE_ORDER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By their place on the bus, as NVML counts: `PCI_BUS_ID`.
    PciBus,
    /// By what CUDA takes for their speed, its default. Only among equal GPUs is it the order of the bus.
    FastestFirst,
}

/// The GPUs that a process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visible {
    /// In the order in which CUDA counts them.
    pub gpus: Vec<GpuIdentity>,
    /// Why there are not more, if the variable has a mistake.
    pub mistake: Option<Mistake>,
}

/// A mistake in `CUDA_VISIBLE_DEVICES`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Mistake {
    /// CUDA stops reading there.
    #[error(
        "CUDA_VISIBLE_DEVICES names `{entry}`, which is no GPU here, and CUDA reads no further: \
         `nvidia-smi -L` lists what there is"
    )]
    Unknown {
        /// What it says.
        entry: String,
    },
    /// CUDA stops reading there.
    #[error("CUDA_VISIBLE_DEVICES names `{entry}`, with which several UUIDs begin: write more of it")]
    Ambiguous {
        /// What it says.
        entry: String,
    },
    /// CUDA then uses no GPU at all.
    #[error("CUDA_VISIBLE_DEVICES names a GPU twice, the second time as `{entry}`, and CUDA uses none: name it once")]
    Twice {
        /// The second entry.
        entry: String,
    },
    /// The index means another GPU to CUDA than to NVML.
    #[error(
        "CUDA_VISIBLE_DEVICES names `{entry}`, but the GPUs here differ and CUDA counts them in an order of its own: \
         set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name them by UUID"
    )]
    Order {
        /// The index.
        entry: String,
    },
}

/// What the variable stands for. `gpus` are all of the node, as NVML lists them; `setting` is the variable, None where
/// it is not set.
pub fn visible(setting: Option<&str>, order: Order, gpus: &[GpuIdentity]) -> Visible {
    let Some(setting) = setting else { return Visible { gpus: usable(gpus), mistake: None } };
    let mut chosen: Vec<GpuIdentity> = Vec::new();
    let mut mistake = None;
    for entry in setting.split(',').map(str::trim) {
        if setting.trim().is_empty() || is_negative(entry) {
            break;
        }
        match find(entry, order, gpus) {
            Ok(found) if found.iter().any(|gpu| chosen.iter().any(|one| one.uuid == gpu.uuid)) => {
                return Visible { gpus: Vec::new(), mistake: Some(Mistake::Twice { entry: entry.to_owned() }) };
            }
            Ok(found) => chosen.extend(found),
            Err(found) => {
                mistake = Some(found);
                break;
            }
        }
    }
    Visible { gpus: chosen, mistake }
}

/// Whether the variable leaves no GPU visible, whichever there are.
pub fn hides_all(setting: &str) -> bool {
    setting.trim().is_empty() || setting.split(',').next().is_some_and(|first| is_negative(first.trim()))
}

/// The CPUs for a process that uses a GPU: those near it among the ones that this process may use; all of these where
/// the driver does not know, or where none of the near ones is ours.
pub fn near_cpus(gpu: &GpuIdentity, allowed: &[u32]) -> Vec<u32> {
    let near: Vec<u32> = allowed.iter().copied().filter(|cpu| gpu.cpus.contains(cpu)).collect();
    if near.is_empty() { allowed.to_vec() } else { near }
}

/// All that a program can run on.
fn usable(gpus: &[GpuIdentity]) -> Vec<GpuIdentity> {
    let runs = |gpu: &&GpuIdentity| match gpu.extent {
        Extent::Whole | Extent::Instance { .. } => true,
        Extent::Divided => false,
    };
    gpus.iter().filter(runs).cloned().collect()
}

fn is_negative(entry: &str) -> bool {
    entry.strip_prefix('-').is_some_and(|digits| digits.parse::<u32>().is_ok())
}

/// The GPU that an entry names; of one that is divided, its instances.
fn find(entry: &str, order: Order, gpus: &[GpuIdentity]) -> Result<Vec<GpuIdentity>, Mistake> {
    let unknown = || Mistake::Unknown { entry: entry.to_owned() };
    if entry.starts_with("MIG-") {
        let found = gpus.iter().find(|gpu| is_instance(entry, gpu)).ok_or_else(unknown)?;
        return Ok(vec![found.clone()]);
    }
    let physical: Vec<&GpuIdentity> = gpus.iter().filter(|gpu| *gpu.physical() == gpu.uuid).collect();
    let named: Vec<&GpuIdentity> = if let Some(digits) = entry.strip_prefix("GPU-") {
        let start = format!("GPU-{}", digits.to_ascii_lowercase());
        physical.into_iter().filter(|gpu| gpu.uuid.as_str().starts_with(&start)).collect()
    } else {
        let index: u32 = entry.parse().map_err(|_not_a_number| unknown())?;
        let differ = physical.windows(2).any(|pair| pair[0].name != pair[1].name);
        if order == Order::FastestFirst && differ {
            return Err(Mistake::Order { entry: entry.to_owned() });
        }
        physical.into_iter().filter(|gpu| gpu.index == index).collect()
    };
    match named.as_slice() {
        [] => Err(unknown()),
        [gpu] => {
            let parts: Vec<GpuIdentity> = gpus.iter().filter(|part| *part.physical() == gpu.uuid).cloned().collect();
            Ok(usable(&parts))
        }
        _ => Err(Mistake::Ambiguous { entry: entry.to_owned() }),
    }
}

/// By its UUID, or by the older `MIG-<UUID of the GPU>/<GPU instance>/<compute instance>`.
fn is_instance(entry: &str, gpu: &GpuIdentity) -> bool {
    match &gpu.extent {
        Extent::Whole | Extent::Divided => false,
        Extent::Instance { parent, gpu_instance, compute_instance } => {
            entry.parse::<GpuUuid>().is_ok_and(|uuid| uuid == gpu.uuid)
                || entry == format!("MIG-{parent}/{gpu_instance}/{compute_instance}")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gpu(uuid: &str, index: u32, extent: Extent) -> GpuIdentity {
        GpuIdentity {
            uuid: uuid.parse().expect("a UUID"),
            index,
            name: "NVIDIA H100".into(),
            pci_bus_id: String::new(),
            numa_node: None,
            cpus: vec![4, 5, 6],
            memory_bytes: None,
            capability: None,
            serial: None,
            extent,
        }
    }

    const A: &str = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6";
    const B: &str = "GPU-8932ffff-d72c-4106-c12f-20bd9faed9f6";
    const C: &str = "GPU-11111111-d72c-4106-c12f-20bd9faed9f6";
    const C0: &str = "MIG-22222222-d72c-4106-c12f-20bd9faed9f6";
    const C1: &str = "MIG-33333333-d72c-4106-c12f-20bd9faed9f6";

    /// Two whole GPUs and one in two parts.
    fn node() -> Vec<GpuIdentity> {
        let part =
            |gpu_instance| Extent::Instance { parent: C.parse().expect("a UUID"), gpu_instance, compute_instance: 0 };
        vec![
            gpu(A, 0, Extent::Whole),
            gpu(B, 1, Extent::Whole),
            gpu(C, 2, Extent::Divided),
            gpu(C0, 0, part(7)),
            gpu(C1, 1, part(9)),
        ]
    }

    fn seen(setting: &str) -> Vec<String> {
        names(&visible(Some(setting), Order::FastestFirst, &node()))
    }

    fn names(visible: &Visible) -> Vec<String> {
        visible.gpus.iter().map(|gpu| gpu.uuid.to_string()).collect()
    }

    fn mistake(setting: &str) -> Option<Mistake> {
        visible(Some(setting), Order::FastestFirst, &node()).mistake
    }

    #[test]
    fn it_is_read_as_cuda_reads_it() {
        assert_eq!(names(&visible(None, Order::PciBus, &node())), [A, B, C0, C1]);
        assert_eq!(seen(""), [""; 0]);
        assert_eq!(seen(" "), [""; 0]);
        assert_eq!(seen("0"), [A]);
        assert_eq!(seen("1,0"), [B, A]);
        assert_eq!(seen(" 1 , 0 "), [B, A]);
        // the example of NVIDIA's guide
        assert_eq!(seen("0,2,-1,1"), [A, C0, C1]);
        assert_eq!(seen("-1"), [""; 0]);
        assert_eq!(seen("2"), [C0, C1]);
        assert_eq!(seen(&format!("{B},0")), [B, A]);
        assert_eq!(seen("GPU-8932F937"), [A]);
        assert_eq!(seen("GPU-1"), [C0, C1]);
        assert_eq!(seen(C1), [C1]);
        assert_eq!(seen(&format!("MIG-{C}/9/0,MIG-{C}/7/0")), [C1, C0]);
        assert_eq!(mistake("0,2,-1,1"), None);
        assert_eq!(mistake(""), None);
        for (setting, hides) in [("", true), (" ", true), ("-1", true), (" -1,0", true), ("0,-1", false), ("7", false)]
        {
            assert_eq!(hides_all(setting), hides, "{setting}");
        }
    }

    #[test]
    fn what_is_wrong_ends_it_and_is_told() {
        for (setting, entry, left) in [
            ("7", "7", vec![]),
            ("1,9,0", "9", vec![B]),
            ("0,,1", "", vec![A]),
            ("0,x1", "x1", vec![A]),
            ("0,1x", "1x", vec![A]),
            ("0,GPU-77", "GPU-77", vec![A]),
            ("0,MIG-22222222", "MIG-22222222", vec![A]),
            ("NoDevFiles", "NoDevFiles", vec![]),
            ("99999999999", "99999999999", vec![]),
        ] {
            assert_eq!(mistake(setting), Some(Mistake::Unknown { entry: entry.into() }), "{setting}");
            assert_eq!(seen(setting), left, "{setting}");
        }
        assert_eq!(mistake("0,GPU-8932"), Some(Mistake::Ambiguous { entry: "GPU-8932".into() }));
        assert_eq!(seen("0,GPU-8932"), [A]);
        for setting in ["0,0", "0,1,GPU-8932f937", &format!("{C1},2")] {
            assert!(matches!(mistake(setting), Some(Mistake::Twice { .. })), "{setting}");
            assert_eq!(seen(setting), [""; 0], "{setting}");
        }
    }

    #[test]
    fn an_index_among_different_gpus_means_one_thing_only_by_the_bus() {
        let mut node = node();
        node[1].name = "NVIDIA T400".into();
        let found = visible(Some("1"), Order::FastestFirst, &node);
        assert_eq!((names(&found), found.mistake), (vec![], Some(Mistake::Order { entry: "1".into() })));
        assert_eq!(names(&visible(Some("1"), Order::PciBus, &node)), [B]);
        assert_eq!(names(&visible(Some(B), Order::FastestFirst, &node)), [B]);
    }

    #[test]
    fn near_cpus_are_ours_and_near() {
        let gpu = gpu(A, 0, Extent::Whole);
        assert_eq!(near_cpus(&gpu, &[0, 5, 6, 7]), [5, 6]);
        assert_eq!(near_cpus(&gpu, &[0, 1]), [0, 1]);
        assert_eq!(near_cpus(&GpuIdentity { cpus: vec![], ..gpu }, &[0, 1]), [0, 1]);
    }

    proptest! {
        /// Whatever it says: no panic, no GPU twice, none that is divided, none that is not there.
        #[test]
        fn any_text_can_be_read(entries in proptest::collection::vec(
            prop_oneof![
                4 => (0..4_u32).prop_map(|index| index.to_string()),
                1 => Just(A.to_owned()), 1 => Just(C.to_owned()), 1 => Just(C0.to_owned()),
                1 => "[-A-Z0-9äx /]{0,6}",
            ],
            0..5,
        )) {
            let node = node();
            let found = visible(Some(&entries.join(",")), Order::PciBus, &node);
            for (at, gpu) in found.gpus.iter().enumerate() {
                prop_assert!(node.contains(gpu) && gpu.extent != Extent::Divided);
                prop_assert!(!found.gpus[..at].contains(gpu));
            }
        }
    }
}
