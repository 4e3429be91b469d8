//! What an executor's process may use: the roots, its own directory, what programs run on, and what CUDA opens. Confines
//! nothing itself but for [`confine`], which hands the list to `runtime::sandbox`.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};

use super::assignment::{Assignment, Computation};
use crate::runtime::sandbox::{self, Confinement, ConfinementLevel};

/// Programs and libraries with what they read of the system: nothing of it is secret. Of `/proc`, the kernel shows a
/// confined process little of others.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/lib",
    "/lib64",
    "/opt",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/nvidia",
    "/proc",
    "/sys",
];

/// Devices that any program uses.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/shm"];

/// How the names of the driver's libraries begin.
const DRIVER_LIBRARIES: [&str; 2] = ["libcuda", "libnvidia"];

/// How NVIDIA's device files and directories are named in `/dev`.
const GPU_DEVICES: &str = "nvidia";

/// Where CUDA keeps what it compiled, in the home directory, unless `CUDA_CACHE_PATH` names another place.
const GPU_CACHE: &str = ".nv";

/// Where processes that share a GPU meet, unless `CUDA_MPS_PIPE_DIRECTORY` names another place.
const GPU_SHARING: &str = "/tmp/nvidia-mps";

/// Confines this process to what its assignment needs, and tells how far that went. Before its threads start: they are
/// confined with it. Nothing to do needs nothing.
pub fn confine(assignment: &Assignment) {
    if assignment.work == Computation::Nothing {
        return;
    }
    let confinement = confinement(assignment);
    match sandbox::confine(&confinement) {
        Ok(level @ ConfinementLevel::Full) => tracing::info!("this process is {level}"),
        Ok(level @ (ConfinementLevel::Partial | ConfinementLevel::None)) => tracing::warn!("this process is {level}"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "this process is not confined: the kernel refuses");
        }
    }
}

fn confinement(assignment: &Assignment) -> Confinement {
    let named = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
    let mut read = named(&SYSTEM);
    let mut write = named(&DEVICES);
    // for its reader of HDF5 files
    read.extend(env::current_exe());
    read.extend(library_directories());
    write.extend(env::current_dir());
    // as they are configured: what is wrong with one is told by whoever asks for it, and not as a lack of rights
    read.extend_from_slice(&assignment.roots.raw.read);
    write.extend_from_slice(&assignment.roots.raw.write);
    if assignment.gpu.is_some() {
        read.extend(driver_places());
        write.extend(gpu_devices());
        write.extend(gpu_cache());
        write.push(variable("CUDA_MPS_PIPE_DIRECTORY").unwrap_or_else(|| GPU_SHARING.into()));
    }
    Confinement { read, write }
}

/// Where a site has libraries of its own.
fn library_directories() -> Vec<PathBuf> {
    let named = env::var_os("LD_LIBRARY_PATH");
    named.iter().flat_map(env::split_paths).filter(|path| path.is_absolute()).collect()
}

/// Where the driver's libraries are that a site's own directories link to.
fn driver_places() -> Vec<PathBuf> {
    let is_driver = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        DRIVER_LIBRARIES.iter().any(|beginning| name.starts_with(beginning))
    };
    let entries = library_directories().into_iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten();
    let libraries = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| is_driver(path));
    let places = libraries.filter_map(|library| library.canonicalize().ok()?.parent().map(Path::to_owned));
    places.collect::<BTreeSet<_>>().into_iter().collect()
}

fn gpu_devices() -> Vec<PathBuf> {
    let is_one = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(GPU_DEVICES));
    let entries = std::fs::read_dir("/dev").into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| is_one(path)).collect()
}

/// The directory of CUDA's cache, which is made: the driver could not make it any more.
fn gpu_cache() -> Option<PathBuf> {
    let cache = match variable("CUDA_CACHE_PATH") {
        Some(cache) => cache,
        None => variable("HOME")?.join(GPU_CACHE),
    };
    if let Err(error) = std::fs::create_dir_all(&cache) {
        tracing::warn!(path = %cache.display(), %error, "CUDA's cache cannot be made: kernels may be compiled each time");
    }
    Some(cache)
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
