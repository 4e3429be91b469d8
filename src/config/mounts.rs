//! Which file system a directory lies on, as the kernel's table of mounts tells. Reading the table asks no file system:
//! it never hangs. Decides nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// The table of this process (proc(5), /proc/pid/mountinfo).
const TABLE: &str = "/proc/self/mountinfo";

/// A mounted file system: the same each time that the same thing is mounted there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Its type, such as `nfs4`.
    pub kind: String,
    /// What is mounted, such as `server:/export`.
    pub source: String,
    /// Which directory of that.
    pub directory: PathBuf,
}

/// The file system of each root, by the root as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootMounts(pub BTreeMap<PathBuf, Mount>);

/// The table of mounts, in their order: a later one hides what lies below its point.
#[derive(Debug, Clone, Default)]
pub struct MountTable(Vec<Mount>);

impl RootMounts {
    /// From the text of [`RootMounts::to_json`].
    ///
    /// # Errors
    /// Another text.
    pub fn from_json(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// As text.
    pub fn to_json(&self) -> String {
        // paths that are no text were refused with the configuration
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl MountTable {
    /// The table now.
    ///
    /// # Errors
    /// The system does not show it.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read(TABLE)?))
    }

    /// The mount that a path lies on; the path has no links.
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let above = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        // of the same point the last one, which hides the others
        above.max_by_key(|mount| mount.point.components().count())
    }

    fn parse(table: &[u8]) -> Self {
        Self(table.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }
}

/// A line: number, parent, device, directory, point, options, further fields, `-`, type, source, options.
fn mount(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let end = fields.iter().position(|field| *field == b"-")?;
    let text = |index: usize| fields.get(index).map(|field| plain(field));
    let (directory, point) = (text(3)?, text(4)?);
    let name = |index: usize| text(index).map(|name| OsString::from_vec(name).to_string_lossy().into_owned());
    let path = |bytes| PathBuf::from(OsString::from_vec(bytes));
    Some(Mount { point: path(point), kind: name(end + 1)?, source: name(end + 2)?, directory: path(directory) })
}

/// Blanks, tabs, line ends and backslashes are written as `\` and three octal digits.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let code = after.first_chunk::<3>().filter(|_| first == b'\\');
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINES: &str = "\
22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw
40 22 0:31 / /data rw shared:9 master:2 - autofs systemd-1 rw,fd=1
41 40 0:52 / /data rw,hard shared:10 - nfs4 nas1:/export/8\\040id rw,vers=4.2
50 41 0:60 /scratch /data/a\\134b ro - lustre mgs@tcp:/fs rw
broken line
";

    #[test]
    fn a_path_lies_on_the_nearest_mount() {
        let table = MountTable::parse(LINES.as_bytes());
        let source = |path: &str| table.of(Path::new(path)).map(|mount| mount.source.as_str());
        assert_eq!(source("/home/ada"), Some("overlay"));
        assert_eq!(source("/data/run1"), Some("nas1:/export/8 id"), "the later one hides the automounter");
        assert_eq!(source("/data-old"), Some("overlay"));
        assert_eq!(source("/data/a\\b/c"), Some("mgs@tcp:/fs"));
        assert_eq!(MountTable::default().of(Path::new("/data")), None);
    }

    #[test]
    fn the_root_directory_is_mounted() {
        let table = MountTable::read().expect("Linux");
        assert!(table.of(Path::new("/")).is_some());
        assert!(table.of(Path::new("/proc/self")).is_some_and(|mount| mount.kind == "proc"));
    }

    proptest! {
        #[test]
        fn no_table_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _mount = MountTable::parse(&bytes).of(Path::new("/data"));
        }
    }
}
