//! A stand-in for CUDA's driver, which no test machine has, compiled once a process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A directory with a `libcuda.so.1` whose GPUs are played by the host build of the kernels: `kernels/host/libcuda.cpp`
/// tells its environment variables. Programs find it by `LD_LIBRARY_PATH`.
pub(crate) fn cuda() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cuda-{}", env!("CARGO_CRATE_NAME")));
        std::fs::create_dir_all(&folder).expect("a directory");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/host");
        let done = Command::new("c++")
            .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-DSPECKLED_HOST", "-ffp-contract=off"])
            .args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"])
            .args(["shim.cpp", "kernels.cpp", "libcuda.cpp"].map(|source| sources.join(source)))
            .arg("-o")
            .arg(folder.join("libcuda.so.1"))
            .output()
            .expect("a C++ compiler, which HDF5 needs as well");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        folder
    })
}
