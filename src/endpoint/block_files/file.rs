//! A block's file: what its workers need to connect to the endpoint, the secret among it. Written by the endpoint for its
//! owner alone, on a file system that login and compute nodes share; read by workers, anew for each connection.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::endpoint::WorkerOptions;
use crate::config::worker_link::LinkHost;
use crate::ids::BlockId;
use crate::runtime::secret::{NoRandomness, NoSecret, SecretBytes, SecretDigest};

/// The largest file that is read: a few hosts and a certificate.
const LARGEST: u64 = 64 << 10;

/// Before each secret, so that scanners for leaked ones find it.
const PREFIX: &str = "speckled_block_";

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockFile {
    /// The block.
    pub block: BlockId,
    /// Where the endpoint is.
    pub address: LinkAddress,
    /// What its workers show.
    pub secret: BlockSecret,
    /// How they share their nodes.
    pub worker: WorkerOptions,
}

/// Where an endpoint listens for workers, and how it proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkAddress {
    /// Names and addresses of its computer; those that others do not reach are among them.
    pub hosts: Vec<LinkHost>,
    /// The port.
    pub port: u16,
    /// The endpoint's own CA, PEM.
    pub ca: String,
}

/// A block's secret. Never logged: its debug form hides it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlockSecret(SecretBytes);

/// A block's file that cannot be used.
#[derive(Debug, Error)]
pub enum BlockFileError {
    /// It is gone.
    #[error("{} is not there; its block is over, or was never opened", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The file system.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its text.
    #[error("{} is no file of a block; `speckled endpoint block open` makes one", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl BlockFile {
    /// Reads one. Blocks on the file system.
    ///
    /// # Errors
    /// See [`BlockFileError`].
    pub fn read(path: &Path) -> Result<Self, BlockFileError> {
        let unread = |source: io::Error| {
            let path = path.to_owned();
            let is_gone = source.kind() == io::ErrorKind::NotFound;
            if is_gone { BlockFileError::Gone { path } } else { BlockFileError::Read { path, source } }
        };
        let mut text = String::new();
        File::open(path).map_err(unread)?.take(LARGEST).read_to_string(&mut text).map_err(unread)?;
        serde_json::from_str(&text).map_err(|source| BlockFileError::Parse { path: path.to_owned(), source })
    }
}

impl BlockSecret {
    /// A new one.
    pub(super) fn generate() -> Result<Self, NoRandomness> {
        SecretBytes::generate().map(Self)
    }

    /// What it is found by.
    pub(super) fn digest(&self) -> SecretDigest {
        self.0.digest()
    }

    /// The text that a worker shows.
    pub fn reveal(&self) -> String {
        self.0.reveal(PREFIX)
    }
}

impl std::str::FromStr for BlockSecret {
    type Err = NoSecret;

    fn from_str(text: &str) -> Result<Self, NoSecret> {
        SecretBytes::parse(PREFIX, text).map(Self)
    }
}

impl TryFrom<String> for BlockSecret {
    type Error = NoSecret;

    fn try_from(text: String) -> Result<Self, NoSecret> {
        text.parse()
    }
}

impl From<BlockSecret> for String {
    fn from(secret: BlockSecret) -> Self {
        secret.reveal()
    }
}

impl PartialEq for BlockSecret {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl fmt::Debug for BlockSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockSecret(hidden)")
    }
}
