//! Stand-ins for the libraries of a node with GPUs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::cuda::cuda;

/// A node's GPUs: NVIDIA's library for their management, played by a script that the test changes, and CUDA's driver.
pub(crate) struct Gpus {
    folder: tempfile::TempDir,
    script: BTreeMap<String, String>,
}

/// A GPU that is well: see `tests/fake-nvml/nvml.c`.
const WELL: [(&str, &str); 9] = [
    ("name", "Imaginary GPU"),
    ("capability", "9.0"),
    ("memory", "1073741824 0"),
    ("temperature", "41"),
    ("slowdown", "87"),
    ("power", "95000"),
    ("energy", "1000"),
    ("ecc.volatile", "0 0"),
    ("remapped", "0 0 0 0"),
];

impl Gpus {
    /// So many, which no other test has.
    pub(crate) fn new(number: usize) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let library = folder.path().join("libnvidia-ml.so.1");
        let done = Command::new("cc")
            .args(["-std=gnu11", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-nvml/nvml.c"))
            .arg("-o")
            .arg(&library)
            .args(["-ldl", "-lpthread"])
            .output()
            .expect("a C compiler, which HDF5 needs as well");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::os::unix::fs::symlink(cuda().join("libcuda.so.1"), folder.path().join("libcuda.so.1")).expect("a link");
        let mut gpus = Self { folder, script: [("gpus".to_owned(), number.to_string())].into() };
        for gpu in 0..number {
            WELL.iter().for_each(|(key, value)| drop(gpus.script.insert(format!("{gpu}.{key}"), (*value).to_owned())));
            gpus.script.insert(format!("{gpu}.uuid"), format!("GPU-{}", uuid::Uuid::new_v4()));
            gpus.script.insert(format!("{gpu}.pci"), format!("00000000:{:02X}:00.0", gpu + 1));
        }
        gpus.write();
        gpus
    }

    /// What programs find them by.
    pub(crate) fn variables(&self) -> [(&'static str, String); 1] {
        [("LD_LIBRARY_PATH", self.folder.path().to_str().expect("text").to_owned())]
    }

    /// The number of the GPU of a UUID.
    pub(crate) fn of(&self, uuid: &str) -> usize {
        let found = self.script.iter().find(|(_, value)| *value == uuid).expect("one of them").0;
        found.split('.').next().expect("a number").parse().expect("a number")
    }

    /// From now on.
    pub(crate) fn set(&mut self, gpu: usize, key: &str, value: &str) {
        self.script.insert(format!("{gpu}.{key}"), value.to_owned());
        self.write();
    }

    /// What NVIDIA's library says from now on when a program starts it: an error of nvml.h by its number, 0 for none.
    pub(crate) fn driver(&mut self, error: u32) {
        self.script.insert("init".to_owned(), error.to_string());
        self.write();
    }

    /// Renamed into place: it is never seen half written.
    fn write(&self) {
        let lines: String = self.script.iter().map(|(key, value)| format!("{key} {value}\n")).collect();
        let new = self.folder.path().join("script");
        std::fs::write(&new, lines).expect("written");
        std::fs::rename(new, self.folder.path().join("libnvidia-ml.so.1.script")).expect("renamed");
    }
}
