//! The blocks whose workers connect from other computers. Each has a secret, in a file that its workers read; it is void
//! when the block is over. Opens no connection and starts no worker.
//!
//! ```text
//!   ── open ──▶ open: blocks/<id>/link.json is there, its secret lets workers of the block in ── end ──▶ over
//! ```
//!
//! The files are what the next process of the endpoint knows the blocks by.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::state_dir::{StateDir, StateDirError};
use crate::config::endpoint::WorkerOptions;
use crate::ids::BlockId;
use crate::runtime::secret::{NoRandomness, SecretDigest};
use crate::task::failure::chain;

mod file;

pub use file::{BlockFile, BlockFileError, BlockSecret, LinkAddress};

/// A block's file in its directory.
const FILE: &str = "link.json";

/// A block cannot be opened or ended.
#[derive(Debug, Error)]
pub enum BlockError {
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The file system.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No secret.
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

/// The blocks that are open.
#[derive(Debug, Clone)]
pub struct BlockFiles(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state_dir: StateDir,
    address: LinkAddress,
    worker: WorkerOptions,
    open: Mutex<Open>,
    /// Held while a file is made: nobody opens a block twice, and nobody waits for the file system to look one up.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Open {
    blocks: BTreeMap<BlockId, OpenBlock>,
    secrets: HashMap<SecretDigest, BlockId>,
}

#[derive(Debug)]
struct OpenBlock {
    secret: SecretDigest,
    over: CancellationToken,
}

/// Whoever showed a block's secret.
#[derive(Debug, Clone)]
pub struct BlockMember {
    /// The block.
    pub block: BlockId,
    /// Cancelled when the block is over.
    pub over: CancellationToken,
}

/// The files of blocks that an earlier process of the endpoint opened; one that cannot be read is left out, and said.
/// Blocks on the file system.
///
/// # Errors
/// The directory cannot be read.
pub fn remembered(state_dir: &StateDir) -> Result<Vec<BlockFile>, BlockError> {
    let path = state_dir.blocks();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(BlockError::Io { action: "list", path, source }),
    };
    let mut found = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let directory = entry.path();
        match BlockFile::read(&directory.join(FILE)) {
            Ok(file) if directory.ends_with(file.block.to_string()) => found.push(file),
            Ok(file) => {
                tracing::error!(block = %file.block, directory = %directory.display(), "a block's file lies elsewhere")
            }
            // it ended half-way, or is not whole yet
            Err(BlockFileError::Gone { .. }) => {}
            Err(error) => tracing::error!(error = chain(&error), "a block's workers cannot connect"),
        }
    }
    Ok(found)
}

impl BlockFiles {
    /// Those of an earlier process; their workers are told where the endpoint listens now. Blocks on the file system.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn new(
        state_dir: StateDir,
        address: LinkAddress,
        worker: WorkerOptions,
        remembered: Vec<BlockFile>,
    ) -> Result<Self, BlockError> {
        // attempts that do not compute are for the endpoint's own computer
        let worker = WorkerOptions { login_slots: 0, ..worker };
        let mut open = Open::default();
        for file in remembered {
            open.add(file.block, file.secret.digest());
            if file.address != address || file.worker != worker {
                let address = address.clone();
                write(&state_dir, &BlockFile { address, worker, ..file })?;
            }
        }
        // what a process left that was killed while it opened or ended a block
        let entries = fs::read_dir(state_dir.blocks()).into_iter().flatten().filter_map(Result::ok);
        let directories = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
        directories.filter(|path| !path.join(FILE).exists()).for_each(remove);
        let (open, writing) = (Mutex::new(open), Mutex::default());
        Ok(Self(Arc::new(Shared { state_dir, address, worker, open, writing })))
    }

    /// Opens a block: returns the file that its workers are to be given. One that is open stays as it is. Blocks on the
    /// file system.
    ///
    /// # Errors
    /// The file cannot be written, or there are no random numbers.
    pub fn issue(&self, block: BlockId) -> Result<PathBuf, BlockError> {
        let Shared { state_dir, address, worker, open: _, writing } = &*self.0;
        let _writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = state_dir.blocks().join(block.to_string());
        if !self.look(|open| open.blocks.contains_key(&block)) {
            let secret = BlockSecret::generate()?;
            let digest = secret.digest();
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            made.map_err(|source| BlockError::Io { action: "create the directory", path: directory.clone(), source })?;
            write(state_dir, &BlockFile { block, address: address.clone(), secret, worker: *worker })?;
            self.look(|open| open.add(block, digest));
        }
        Ok(directory.join(FILE))
    }

    /// A block is over: its secret is void, its workers are told to leave, its files are removed. False when it was not
    /// open. Blocks on the file system.
    pub fn end(&self, block: BlockId) -> bool {
        let ended = self.look(|open| {
            let ended = open.blocks.remove(&block)?;
            open.secrets.remove(&ended.secret);
            Some(ended)
        });
        let Some(OpenBlock { secret: _, over }) = ended else { return false };
        over.cancel();
        remove(self.0.state_dir.blocks().join(block.to_string()));
        true
    }

    /// Who shows this secret. It is found by its digest, whose time to compare tells nothing about it.
    pub fn member(&self, secret: &BlockSecret) -> Option<BlockMember> {
        self.look(|open| {
            let block = *open.secrets.get(&secret.digest())?;
            let over = open.blocks.get(&block)?.over.clone();
            Some(BlockMember { block, over })
        })
    }

    /// Those that are open.
    pub fn open(&self) -> Vec<BlockId> {
        self.look(|open| open.blocks.keys().copied().collect())
    }

    /// Where the endpoint listens.
    pub fn address(&self) -> &LinkAddress {
        &self.0.address
    }

    fn look<T>(&self, with: impl FnOnce(&mut Open) -> T) -> T {
        with(&mut self.0.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Open {
    fn add(&mut self, block: BlockId, secret: SecretDigest) {
        self.blocks.insert(block, OpenBlock { secret, over: CancellationToken::new() });
        self.secrets.insert(secret, block);
    }
}

fn write(state_dir: &StateDir, file: &BlockFile) -> Result<(), BlockError> {
    // plain fields are always JSON
    let text = serde_json::to_string_pretty(file).unwrap_or_default();
    let name = state_dir.blocks().join(file.block.to_string()).join(FILE);
    Ok(state_dir.replace(&name, text.as_bytes())?)
}

/// The file first: its secret is void, whatever else cannot be removed.
fn remove(directory: PathBuf) {
    let file = directory.join(FILE);
    let removed = match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => fs::remove_dir_all(&directory),
    };
    if let Err(error) = removed {
        tracing::warn!(%error, directory = %directory.display(), "the files of a block that is over stay");
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::endpoint::GpuUse;
    use crate::runtime::ids;

    fn options() -> WorkerOptions {
        WorkerOptions {
            slots: 2,
            login_slots: 4,
            threads: None,
            memory: None,
            gpus: GpuUse::None,
            slots_per_gpu: NonZeroU32::MIN,
            gpu_quiet_s: 1,
        }
    }

    fn address(port: u16) -> LinkAddress {
        LinkAddress { hosts: vec!["login1".parse().expect("a host")], port, ca: "PEM".to_owned() }
    }

    fn blocks(state_dir: &StateDir, port: u16) -> BlockFiles {
        let remembered = remembered(state_dir).expect("reads");
        BlockFiles::new(state_dir.clone(), address(port), options(), remembered).expect("writes")
    }

    #[test]
    fn a_blocks_file_is_for_its_owner_and_goes_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let state_dir = StateDir::new(dir.path().to_owned());
        let blocks = blocks(&state_dir, 7461);
        let (one, other) = (ids::block(), ids::block());
        let path = blocks.issue(one).expect("writes");
        let _other = blocks.issue(other).expect("writes");
        let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let directory = path.parent().expect("a directory");
        assert_eq!((mode(&path), mode(directory), mode(&state_dir.blocks())), (0o600, 0o700, 0o700));
        let BlockFile { block, address: found, secret, worker } = BlockFile::read(&path).expect("ours");
        assert_eq!((block, found, worker.slots, worker.login_slots), (one, address(7461), 2, 0));
        assert_eq!(blocks.member(&secret).expect("its own").block, one);
        assert_eq!(BlockFile::read(&blocks.issue(one).expect("is there")).expect("ours").secret, secret, "the same");
        assert!(blocks.member(&BlockSecret::generate().expect("random numbers")).is_none());
        let member = blocks.member(&secret).expect("its own");
        assert!(blocks.end(one) && !blocks.end(one));
        assert!(member.over.is_cancelled() && blocks.member(&secret).is_none() && !directory.exists());
        assert_eq!(blocks.open(), [other]);
        assert!(matches!(BlockFile::read(&path), Err(BlockFileError::Gone { .. })));
        assert!(!format!("{secret:?}").contains(&secret.reveal()[PREFIX_LENGTH..]));
    }

    const PREFIX_LENGTH: usize = "speckled_block_".len();

    #[test]
    fn the_next_process_knows_the_blocks_and_says_where_it_listens() {
        let dir = tempfile::tempdir().expect("a directory");
        let state_dir = StateDir::new(dir.path().to_owned());
        let (kept, ended) = (ids::block(), ids::block());
        let before = blocks(&state_dir, 7461);
        let path = before.issue(kept).expect("writes");
        before.issue(ended).expect("writes");
        before.end(ended);
        let secret = BlockFile::read(&path).expect("ours").secret;
        // what a killed process left of another
        fs::create_dir(state_dir.blocks().join("half")).expect("made");
        fs::create_dir(state_dir.blocks().join("damaged")).expect("made");
        fs::write(state_dir.blocks().join("damaged/link.json"), "{}").expect("written");
        let after = blocks(&state_dir, 7462);
        assert_eq!(after.open(), [kept]);
        assert_eq!(after.member(&secret).expect("its own").block, kept);
        assert_eq!(BlockFile::read(&path).expect("ours").address.port, 7462);
        assert!(!state_dir.blocks().join("half").exists() && state_dir.blocks().join("damaged").exists());
    }
}
