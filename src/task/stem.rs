//! The name of a dataset without what tells its format. Names only: no IO.

use std::path::Path;

/// Endings of raw files; none ends another.
const ENDINGS: [&str; 7] = [".hdf5", ".hdf", ".h5", ".bin", ".imm", ".nxs", ".tpx"];

/// The file name of `raw` without its format's ending: `A0003.bin.000`, `A0003.h5`, `A0003.imm` -> `A0003`.
///
/// Only whole endings are removed, once; a name without a known one stays as it is.
pub fn raw_stem(raw: &Path) -> String {
    let name = raw.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let known = |name: &str| {
        let stem = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))?;
        (!stem.is_empty()).then(|| stem.to_owned())
    };
    known(without_module_number(&name)).or_else(|| known(&name)).unwrap_or(name)
}

/// `name` without a trailing `.ddd`.
fn without_module_number(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((front, digits)) if digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()) => front,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_endings_are_removed_and_no_character_more() {
        let cases = [
            ("A0003.bin", "A0003"),
            ("A0003.bin.000", "A0003"),
            ("A0003.h5.005", "A0003"),
            ("A0003_data.h5", "A0003_data"),
            ("A0003_metadata.hdf", "A0003_metadata"),
            ("tame.hdf5", "tame"),
            ("H0012_00001-00040.imm", "H0012_00001-00040"),
            ("run_0.5s.h5", "run_0.5s"),
            ("run.tpx.002", "run"),
            ("a.bin.h5", "a.bin"),
            ("run_1.000", "run_1.000"),
            ("noending", "noending"),
            (".bin", ".bin"),
        ];
        for (name, stem) in cases {
            assert_eq!(raw_stem(&Path::new("/some.h5/dir").join(name)), stem, "{name}");
        }
    }
}
