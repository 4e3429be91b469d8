//! A stand-in for NVIDIA's library, for tests: `tests/fake-nvml/nvml.c`, compiled once a process, and the script that
//! it plays. Each one is a library of its own, so that tests do not see each other's GPUs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use rustix::fs::{CWD, FileType, Mode};
use tempfile::{NamedTempFile, TempDir};

/// A library and its script.
pub(crate) struct Fake {
    folder: TempDir,
    script: Mutex<BTreeMap<String, String>>,
}

impl Fake {
    /// With so many GPUs, all of which are well.
    pub(crate) fn new(gpus: u32) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::write(folder.path().join(NAME), library()).expect("writes");
        let mut script = BTreeMap::from([("gpus".to_owned(), gpus.to_string())]);
        for gpu in 0..gpus {
            for (key, value) in WELL {
                script.insert(format!("{gpu}.{key}"), (*value).to_owned());
            }
            script.insert(format!("{gpu}.uuid"), uuid(gpu));
            script.insert(format!("{gpu}.pci"), format!("00000000:{:02X}:00.0", 0x1B + gpu));
        }
        let fake = Self { folder, script: Mutex::new(script) };
        fake.write();
        fake
    }

    /// Where the library is.
    pub(crate) fn library(&self) -> PathBuf {
        self.folder.path().join(NAME)
    }

    /// Has the script say something from now on.
    pub(crate) fn set(&self, key: &str, value: &str) {
        self.script.lock().expect("no panic").insert(key.to_owned(), value.to_owned());
        self.write();
    }

    /// Has the script say nothing of it any more.
    pub(crate) fn unset(&self, key: &str) {
        self.script.lock().expect("no panic").remove(key);
        self.write();
    }

    /// Has calls hang from now on: of which kind, `nvml.c` says by number.
    pub(crate) fn hang(&self, kind: u32) -> Hanging {
        let pipe = self.folder.path().join(format!("hangs.{kind}"));
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        self.set(&format!("hang.tell.{kind}"), &pipe.to_string_lossy());
        self.set("hang", &kind.to_string());
        Hanging { pipe }
    }

    /// Renamed into place: it is never seen half written.
    fn write(&self) {
        let mut file = NamedTempFile::new_in(self.folder.path()).expect("a file");
        for (key, value) in self.script.lock().expect("no panic").iter() {
            writeln!(file, "{key} {value}").expect("writes");
        }
        file.persist(self.folder.path().join(format!("{NAME}.script"))).expect("renames");
    }
}

/// Calls that hang.
pub(crate) struct Hanging {
    pipe: PathBuf,
}

impl Hanging {
    /// Waits until there is one.
    pub(crate) fn wait(self) {
        std::fs::read(self.pipe).expect("reads");
    }
}

/// The UUID of the GPU of that index.
pub(crate) fn uuid(gpu: u32) -> String {
    format!("GPU-8932f937-d72c-4106-c12f-20bd9fae000{gpu}")
}

const NAME: &str = "libnvidia-ml.so";

/// A GPU that is well.
const WELL: &[(&str, &str)] = &[
    ("name", "NVIDIA H100 80GB HBM3"),
    ("serial", "1650123456789"),
    ("capability", "9.0"),
    ("numa", "1"),
    ("cpus", "f0"),
    ("memory", "85899345920 1073741824"),
    ("utilization", "93 41"),
    ("temperature", "61"),
    ("slowdown", "87"),
    ("power", "523000"),
    ("energy", "7200000"),
    ("clock.sm", "1980"),
    ("clock.memory", "2619"),
    ("throttle", "4"),
    ("ecc.volatile", "3 0"),
    ("ecc.aggregate", "20 1"),
    ("remapped", "1 0 0 0"),
    ("replays", "2"),
    ("processes", "4242:1048576 4343:2097152"),
];

fn library() -> &'static [u8] {
    static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join(NAME);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-nvml/nvml.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-std=gnu11", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]);
        let done = compiler.arg(source).arg("-o").arg(&path).args(["-ldl", "-lpthread"]).output();
        let done = done.expect("a C compiler, which HDF5 needs as well");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(path).expect("reads")
    })
}
