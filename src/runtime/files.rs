//! Files of daemons: how many a process may have open, and how one is written so that it is always whole.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Has this process have as many files open as it may, where the usual limit is a tenth of that. Not for a process that
/// starts other people's programs: those inherit it, and some cannot cope (select(2)).
pub fn open_as_many_as_allowed() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// How many files this process may have open.
pub fn most_open() -> usize {
    let Rlimit { current, .. } = getrlimit(Resource::Nofile);
    // None = without a limit
    current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

/// Reads a small regular file, as a token's or a certificate's. Blocks.
///
/// # Errors
/// The operating system's; a file that is not regular, or has more than `most` bytes.
pub fn read_small(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // a pipe or device is looked at without waiting for it
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("it has more than {most} bytes")));
    }
    Ok(content)
}

/// Writes a file for its owner alone; it is whole, with its old or its new content, whenever the process or the machine
/// dies. Blocks.
///
/// # Errors
/// The file system refuses.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // one that a killed process left may have another mode
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let [small, pipe] = ["small", "pipe"].map(|name| dir.path().join(name));
        std::fs::write(&small, "token").expect("written");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        assert_eq!(read_small(&small, 5).expect("reads"), b"token");
        for (path, words) in
            [(&*small, "more than 4 bytes"), (&pipe, "not a regular file"), (Path::new("/dev/zero"), "not a")]
        {
            let error = read_small(path, 4).expect_err("is none").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_limit_is_the_highest() {
        open_as_many_as_allowed();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert!(most_open() >= 64, "{}", most_open());
    }
}
