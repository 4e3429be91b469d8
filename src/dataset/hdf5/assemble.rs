//! Which datasets make the frames of a file: one, the numbered ones of an Eiger master, or the sources of a virtual
//! dataset. Finds and checks them; reads no frames.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5::dataset::Layout;
use serde::{Deserialize, Serialize};

use super::FRAMES;
use super::ffi::{self, Selected, VirtualMap};
use super::form::{DenseForm, Frames};
use super::locate::{Located, locate, locate_group, resolve};
use crate::dataset::DatasetError;
use crate::dataset::reader::{BrokenAnswer, Desk};

/// The group of the frames.
const GROUP: &str = "/entry/data";

/// How an Eiger master names its datasets, before six digits.
const NUMBERED: &str = "data_";

/// The datasets of a stack of frames.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::dataset) struct Assembly {
    /// What the whole stack is.
    pub(super) frames: Frames,
    /// The datasets.
    pub(super) sources: Vec<DenseForm>,
    /// Where their frames are in the stack, ascending and apart.
    pub(super) slabs: Vec<Slab>,
}

/// Consecutive frames of one dataset in the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::dataset) struct Slab {
    /// First frame in the stack.
    pub(super) first: u64,
    /// Number of frames, at least one.
    pub(super) count: u64,
    /// Which dataset.
    pub(super) source: usize,
    /// First frame in the dataset.
    pub(super) source_first: u64,
}

impl Slab {
    /// The frame after the last one.
    pub(super) fn end(&self) -> u64 {
        self.first + self.count
    }

    /// A frame's number in the dataset.
    pub(super) fn in_source(&self, frame: u64) -> u64 {
        self.source_first + (frame - self.first)
    }
}

impl Assembly {
    /// Looks for whatever holds the frames of a file.
    ///
    /// # Errors
    /// As [`super::open_frames`].
    pub(super) fn find(desk: &dyn Desk, path: &Path) -> Result<Self, DatasetError> {
        let absent = || DatasetError::Raw {
            path: path.to_owned(),
            place: GROUP.to_owned(),
            what: format!("there is neither {FRAMES} nor {GROUP}/{NUMBERED}000001"),
            remedy: "name the file with the frames".into(),
        };
        let found = locate_group(desk, path, GROUP);
        if let Err(DatasetError::Hdf5 { action, .. }) = &found
            && *action == format!("open {GROUP}")
        {
            return Err(absent());
        }
        let (path, group) = found?;
        let path = path.as_path();
        let name = group.name();
        if group.link_exists("data") {
            return Self::of_one(desk, locate(desk, path, &format!("{name}/data"))?);
        }
        let names = group.member_names().map_err(|source| DatasetError::hdf5(format!("list {name}"), path, source))?;
        let numbered: BTreeMap<u32, String> =
            names.into_iter().filter_map(|name| Some((number(&name)?, name))).collect();
        if numbered.is_empty() {
            return Err(absent());
        }
        Self::of_numbered(desk, path, &name, &numbered)
    }

    fn of_one(desk: &dyn Desk, located: Located) -> Result<Self, DatasetError> {
        let refused = |source| DatasetError::hdf5(format!("read the layout of {FRAMES}"), &located.path, source);
        let dcpl = located.dataset.create_plist().map_err(refused)?;
        if dcpl.get_layout().map_err(refused)? == Layout::Virtual {
            let frames = Frames::of(&located, &dcpl)?;
            let maps = ffi::virtual_maps(&dcpl).map_err(refused)?;
            return Self::of_virtual(desk, &located.path, frames, &maps);
        }
        let source = DenseForm::of(&located)?;
        let frames = source.frames;
        let slab = Slab { first: 0, count: frames.count, source: 0, source_first: 0 };
        Ok(Self { frames, sources: vec![source], slabs: vec![slab] })
    }

    fn of_numbered(
        desk: &dyn Desk,
        path: &Path,
        group: &str,
        numbered: &BTreeMap<u32, String>,
    ) -> Result<Self, DatasetError> {
        let (mut sources, mut slabs) = (Vec::<DenseForm>::new(), Vec::new());
        let mut next = 0_u64;
        let lowest = numbered.keys().next().copied().unwrap_or_default();
        for (expected, (&number, name)) in (lowest..).zip(numbered) {
            let name = format!("{group}/{name}");
            if number != expected {
                return Err(mismatch(path, &name, format!("follows number {}", expected.saturating_sub(1))));
            }
            let source = DenseForm::of(&locate(desk, path, &name)?)?;
            if let Some(first) = sources.first() {
                alike(path, &name, &first.frames, &source.frames)?;
            }
            let count = source.frames.count;
            slabs.push(Slab { first: next, count, source: sources.len(), source_first: 0 });
            next = next
                .checked_add(count)
                .ok_or_else(|| mismatch(path, &name, "makes more frames than can be numbered".to_owned()))?;
            sources.push(source);
        }
        let frames = Frames { count: next, ..sources[0].frames };
        Ok(Self { frames, sources, slabs })
    }

    fn of_virtual(desk: &dyn Desk, path: &Path, frames: Frames, maps: &[VirtualMap]) -> Result<Self, DatasetError> {
        let mut sources = Vec::<DenseForm>::new();
        let mut known = BTreeMap::<(PathBuf, String), usize>::new();
        // each is resolved once: many maps take from few files
        let mut files = BTreeMap::from([(Path::new("."), path.to_owned())]);
        let mut slabs = Vec::new();
        for map in maps {
            let file = match files.get(map.file.as_path()) {
                Some(file) => PathBuf::clone(file),
                None => resolve(desk, path, &map.file, FRAMES)?.path.clone(),
            };
            files.insert(&map.file, file.clone());
            let key = (file, map.dataset.clone());
            let source = match known.get(&key) {
                Some(&source) => source,
                None => {
                    let source = DenseForm::of(&locate(desk, &key.0, &key.1)?)?;
                    alike(path, &format!("{} of {}", key.1, key.0.display()), &frames, &source.frames)?;
                    sources.push(source);
                    known.insert(key, sources.len() - 1);
                    sources.len() - 1
                }
            };
            let (from, to) = (block(&map.source, &sources[source].frames), block(&map.target, &frames));
            let slab = match (from, to) {
                (Some(from), Some(to)) if to.end - to.start == from.end - from.start => {
                    Slab { first: to.start, count: to.end - to.start, source, source_first: from.start }
                }
                _ => return Err(not_blocks(path, &map.dataset)),
            };
            slabs.push(slab);
        }
        slabs.sort_unstable_by_key(|slab| slab.first);
        if slabs.windows(2).any(|pair| pair[0].end() > pair[1].first) {
            return Err(not_blocks(path, FRAMES));
        }
        Ok(Self { frames, sources, slabs })
    }

    /// Holds the parts against each other again: the assembly may come from a process that read a hostile file.
    ///
    /// # Errors
    /// Sources of other frames, slabs that are not apart or not within their sources.
    pub(super) fn check(&self) -> Result<(), BrokenAnswer> {
        let Self { frames, sources, slabs } = self;
        let same = |source: &DenseForm| source.frames.shape == frames.shape && source.frames.pixel == frames.pixel;
        let inside = |slab: &Slab| {
            let end = slab.source_first.checked_add(slab.count);
            let held = sources.get(slab.source).zip(end).is_some_and(|(source, end)| end <= source.frames.count);
            held && slab.count > 0 && slab.first.checked_add(slab.count).is_some_and(|end| end <= frames.count)
        };
        let apart = |pair: &[Slab]| pair[0].end() <= pair[1].first;
        // the ends are looked at first: they must be numbers
        let sound = sources.iter().all(same) && slabs.iter().all(inside) && slabs.windows(2).all(apart);
        if sound { Ok(()) } else { Err(BrokenAnswer("parts of the frames do not belong together")) }
    }
}

/// The number of an Eiger master's dataset.
fn number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(NUMBERED)?;
    (digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The frames that are selected, if those are whole ones that are there, and at least one.
fn block(selection: &Selected, frames: &Frames) -> Option<Range<u64>> {
    let ranges = match selection {
        Selected::All => return Some(0..frames.count),
        Selected::Box(ranges) => ranges.as_slice(),
        Selected::Other => return None,
    };
    let [depth, rows, cols] = ranges else {
        return None;
    };
    let whole = *rows == (0..frames.shape.rows as u64) && *cols == (0..frames.shape.cols as u64);
    (whole && depth.start < depth.end && depth.end <= frames.count).then(|| depth.clone())
}

fn alike(path: &Path, name: &str, one: &Frames, other: &Frames) -> Result<(), DatasetError> {
    if one.shape == other.shape && one.pixel == other.pixel {
        return Ok(());
    }
    let what = format!(
        "has frames of {} {:?} pixels where {} {:?} are expected",
        other.shape, other.pixel, one.shape, one.pixel
    );
    Err(mismatch(path, name, what))
}

fn mismatch(path: &Path, name: &str, what: String) -> DatasetError {
    DatasetError::Raw {
        path: path.to_owned(),
        place: name.to_owned(),
        what: format!("the dataset {what}"),
        remedy: "the files do not belong together; copy the whole measurement again".into(),
    }
}

fn not_blocks(path: &Path, name: &str) -> DatasetError {
    DatasetError::Unsupported {
        path: path.to_owned(),
        what: format!("the virtual dataset does not take blocks of whole frames from {name}"),
        remedy: "only consecutive whole frames are read from virtual datasets; rewrite it as a plain one".into(),
    }
}
