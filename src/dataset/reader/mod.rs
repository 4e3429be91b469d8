//! What is asked of the HDF5 library about files that this program has not written, and where the library runs for it.
//!
//! A damaged or hostile file can crash the library, send it round in a circle or have it take all memory. So commands and
//! executors never call it on such a file: a process apart does ([`serve`](serve())), within limits, and answers with plain
//! data, which are checked like those of a file. In library tests, where the program is not there, the same code runs in
//! the process that asks. Knows no format: each answer is made, checked and used by the module that asks for it.
//!
//! ```text
//!   corr, info, executor                                        speckled hdf5-reader (a child, one at a time)
//!     │ Asked{question} ────────────────────────────────────────▶ │
//!     │ ◀───────────────────────────────────────── Open{path} ─── │  the Opener and its gate are the parent's
//!     │ Opened{number, length} and the file's descriptor ───────▶ │  HDF5 opens /proc/self/fd/N
//!     │ ◀─────────────────────────────────── Part{node of a tree}  │  written at once, so that memory stays bounded
//!     │ ◀─────────────────────────────── Done{answer or error} ── │
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::describe::DescriptionForm;
use super::hdf5::Assembly;
use super::hdf5::ftf::ModuleForm;
use super::metadata::MetadataForm;
use super::qmap::QmapForm;
use super::tree::{Node, TreeKind};
use super::{DatasetError, Opener, describe, hdf5, metadata, qmap, tree};

mod desk;
mod process;
mod serve;
pub(super) mod wire;

pub use process::ReaderEnd;
pub use serve::{ReaderError, serve};

pub(super) use desk::{Desk, DeskFile, FileNumber, Files};
pub(super) use process::Apart;
pub(super) use wire::Packed;

/// What is to be read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Question {
    /// Where the frames of a raw file are.
    Frames(#[serde(with = "wire::path")] PathBuf),
    /// Where the frames of one module of a FastTransfer dataset are.
    Module(#[serde(with = "wire::path")] PathBuf),
    /// A qmap's bins.
    Qmap(#[serde(with = "wire::path")] PathBuf),
    /// A metadata file's values.
    Metadata(#[serde(with = "wire::path")] PathBuf),
    /// What a file of any kind holds, in words.
    Description(#[serde(with = "wire::path")] PathBuf),
    /// All objects of a file, node by node.
    Tree(TreeKind, #[serde(with = "wire::path")] PathBuf),
}

/// An answer, as it comes: nothing of it is checked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    Frames(Assembly),
    Module(ModuleForm),
    Qmap(Box<QmapForm>),
    Metadata(MetadataForm),
    Description(DescriptionForm),
    /// All nodes were told.
    Tree,
}

/// Why an answer cannot be: what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BrokenAnswer(pub(super) &'static str);

impl BrokenAnswer {
    /// The answer to another question.
    pub(super) const OTHER: Self = Self("it is none to what was asked");
}

/// Takes the nodes of a tree as they come.
pub(super) type PutNode<'p> = dyn FnMut(Node) -> Result<(), DatasetError> + 'p;

/// Where the HDF5 library runs.
#[derive(Debug, Clone, Default)]
pub(super) enum LibraryPlace {
    /// In this process.
    #[default]
    Here,
    /// In a process apart.
    Apart(std::sync::Arc<Apart>),
}

impl Question {
    /// The file.
    fn path(&self) -> &Path {
        match self {
            Self::Frames(path)
            | Self::Module(path)
            | Self::Qmap(path)
            | Self::Metadata(path)
            | Self::Description(path)
            | Self::Tree(_, path) => path,
        }
    }

    /// Has the library read; this is where it runs.
    fn read(&self, desk: &dyn Desk, put: &mut PutNode<'_>) -> Result<Told, DatasetError> {
        Ok(match self {
            Self::Frames(path) => Told::Frames(hdf5::read(desk, path)?),
            Self::Module(path) => Told::Module(hdf5::ftf::read(desk, path)?),
            Self::Qmap(path) => Told::Qmap(Box::new(qmap::read(desk, path)?)),
            Self::Metadata(path) => Told::Metadata(metadata::read(desk, path)?),
            Self::Description(path) => Told::Description(describe::read(desk, path)?),
            Self::Tree(kind, path) => {
                tree::read(desk, *kind, path, put)?;
                Told::Tree
            }
        })
    }
}

/// Asks, and has the answer checked and used by `take`, which finds the files of the answer at the desk.
///
/// # Errors
/// What the question's reading refuses; [`DatasetError::Damaged`] for a file over which the library died; what `put` says.
pub(super) fn ask<T>(
    opener: &Opener,
    question: &Question,
    put: &mut PutNode<'_>,
    take: impl FnOnce(Told, &Files<'_>) -> Result<T, BrokenAnswer>,
) -> Result<T, DatasetError> {
    let files = Files::new(opener);
    let told = match opener.library() {
        LibraryPlace::Here => question.read(&files, put)?,
        LibraryPlace::Apart(apart) => apart.ask(question, &files, put)?,
    };
    take(told, &files).map_err(|BrokenAnswer(what)| {
        if let LibraryPlace::Apart(apart) = opener.library() {
            apart.end();
        }
        process::damaged(question, &files, ReaderEnd::Answer(what))
    })
}

/// For questions whose answer has no nodes.
pub(super) fn no_nodes(_: Node) -> Result<(), DatasetError> {
    Ok(())
}
