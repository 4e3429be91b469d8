//! Makes a command line in boost_corr's manner (argparse) one that clap reads the same way.
//!
//! Pure: strings in, strings out. Knows boost_corr's option names and nothing of their values.

use std::ffi::OsString;
use std::path::Path;

/// The subcommand that boost_corr's options belong to.
const CORR: &str = "corr";

/// Another that takes them, beside its own.
const SUBMIT: &str = "submit";

/// Names of the executable under which the program is `speckled corr`.
const ALIASES: [&str; 2] = ["boost_corr", "boost_corr_bin"];

/// Short options of more than one letter, which clap does not know.
const LONG_SHORTS: [(&str, &str); 2] = [("-nf", "--normalize-frame"), ("-np", "--num-partial-g2")];

/// boost_corr's long options: an abbreviation that is unique among them means what it meant there, whatever
/// options were added here.
const BOOST_CORR_OPTIONS: [&str; 27] = [
    "--help",
    "--raw",
    "--qmap",
    "--output",
    "--smooth",
    "--gpu-id",
    "--normalize-frame",
    "--begin-frame",
    "--end-frame",
    "--stride-frame",
    "--avg-frame",
    "--type",
    "--dq-selection",
    "--version",
    "--verbose",
    "--save-G2",
    "--dry-run",
    "--num-partial-g2",
    "--crop-ratio-threshold",
    "--prefix",
    "--suffix",
    "--bin-time-s",
    "--run-config-path",
    "--max-memory",
    "--num-segments",
    "--meta-fname",
    "--overwrite",
];

/// The arguments for clap: `corr` inserted when called as boost_corr, and corr's options spelled out.
pub(super) fn normalise(argv: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let name = argv.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| ALIASES.iter().any(|alias| name == *alias)) {
        argv.insert(1, CORR.into());
    }
    if argv.get(1).is_none_or(|command| command != CORR && command != SUBMIT) {
        return argv;
    }
    let end = argv.iter().position(|arg| arg == "--").unwrap_or(argv.len());
    for arg in &mut argv[2..end.max(2)] {
        if let Some(spelled) = arg.to_str().and_then(spell_out) {
            *arg = spelled.into();
        }
    }
    argv
}

/// The full spelling of one argument, if it needs another one than it has.
fn spell_out(arg: &str) -> Option<String> {
    for (short, long) in LONG_SHORTS {
        if let Some(value) = arg.strip_prefix(short) {
            return Some(match value.strip_prefix('=').unwrap_or(value) {
                "" => long.to_owned(),
                value => format!("{long}={value}"),
            });
        }
    }
    let (name, value) = arg.split_once('=').map_or((arg, None), |(name, value)| (name, Some(value)));
    if name.len() < 3 || !name.starts_with("--") {
        return None;
    }
    let mut candidates = BOOST_CORR_OPTIONS.iter().filter(|option| option.starts_with(name));
    match (candidates.next(), candidates.next()) {
        (Some(only), None) if *only != name => {
            Some(value.map_or_else(|| (*only).to_owned(), |value| format!("{only}={value}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normalised(line: &str) -> String {
        let argv = normalise(line.split(' ').map(OsString::from));
        argv.iter().map(|a| a.to_str().expect("UTF-8")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn multi_letter_shorts() {
        for (given, read) in [
            ("speckled corr -nf 0", "speckled corr --normalize-frame 0"),
            ("speckled corr -nf0", "speckled corr --normalize-frame=0"),
            ("speckled corr -nf=1", "speckled corr --normalize-frame=1"),
            ("speckled corr -np 5", "speckled corr --num-partial-g2 5"),
            ("speckled corr -np5 -r a", "speckled corr --num-partial-g2=5 -r a"),
            ("speckled corr -n -p 5", "speckled corr -n -p 5"),
            ("speckled corr -- -nf0", "speckled corr -- -nf0"),
            ("speckled info -nf0", "speckled info -nf0"),
        ] {
            assert_eq!(normalised(given), read);
        }
    }

    #[test]
    fn abbreviations_are_boost_corrs() {
        for (given, read) in [
            ("speckled corr --num-seg 3", "speckled corr --num-segments 3"),
            ("speckled corr --num-seg=3", "speckled corr --num-segments=3"),
            ("speckled corr --q x", "speckled corr --qmap x"),
            ("speckled corr --sa", "speckled corr --save-G2"),
            ("speckled corr --num 3", "speckled corr --num 3"),
            ("speckled corr --raw x", "speckled corr --raw x"),
            ("speckled corr --saturated fail", "speckled corr --saturated fail"),
        ] {
            assert_eq!(normalised(given), read);
        }
    }

    #[test]
    fn called_as_boost_corr() {
        assert_eq!(normalised("/opt/bin/boost_corr -r a -nf0"), "/opt/bin/boost_corr corr -r a --normalize-frame=0");
        assert_eq!(normalised("boost_corr_bin"), "boost_corr_bin corr");
        assert_eq!(normalised("boost_corrx -nf0"), "boost_corrx -nf0");
        assert!(normalise([]).is_empty());
    }

    proptest! {
        #[test]
        fn any_arguments_pass(args in proptest::collection::vec(".*", 0..6)) {
            let count = args.len();
            let argv = ["speckled", "corr"].into_iter().map(OsString::from);
            prop_assert_eq!(normalise(argv.chain(args.into_iter().map(OsString::from))).len(), count + 2);
        }
    }
}
