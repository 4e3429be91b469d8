//! Which version of the wire two programs speak. One release of skew works: each knows its own version and the one
//! before. More is refused, and both are named.

use thiserror::Error;

use super::wire::Versions;
use crate::task::names::printable;

/// The newest version that this program speaks; it grows when a field changes its meaning or a message must not be
/// left out. New optional fields need no new version.
pub const NEWEST: u32 = 1;

/// The oldest that this program still speaks: its predecessor's.
pub const OLDEST: u32 = if NEWEST > 1 { NEWEST - 1 } else { NEWEST };

/// Two programs that do not understand each other.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "the {they} is {program:?} and speaks versions {oldest} to {newest} of the protocol, this is speckled {} and speaks \
     {OLDEST} to {NEWEST}; update the older of the two",
    env!("CARGO_PKG_VERSION")
)]
pub struct Mismatch {
    they: &'static str,
    program: String,
    oldest: u32,
    newest: u32,
}

/// What this program says of itself.
pub fn own() -> Versions {
    Versions { oldest: OLDEST, newest: NEWEST, program: format!("speckled {}", env!("CARGO_PKG_VERSION")) }
}

/// The newest version that both speak; `they` is what the other side is, for the message.
///
/// # Errors
/// There is none.
pub fn negotiate(they: &'static str, theirs: &Versions) -> Result<u32, Mismatch> {
    let Versions { oldest, newest, program } = theirs;
    let common = NEWEST.min(*newest);
    if common >= OLDEST.max(*oldest) && common > 0 {
        return Ok(common);
    }
    // it is shown on terminals and comes from outside
    Err(Mismatch { they, program: printable(program, 64), oldest: *oldest, newest: *newest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(oldest: u32, newest: u32) -> Versions {
        Versions { oldest, newest, program: "speckled 9.9\x1b[2J".into() }
    }

    #[test]
    fn one_release_of_skew_works() {
        assert_eq!(negotiate("endpoint", &own()), Ok(NEWEST));
        assert_eq!(negotiate("endpoint", &versions(NEWEST, NEWEST + 1)), Ok(NEWEST));
        assert_eq!(negotiate("endpoint", &versions(OLDEST, OLDEST)), Ok(OLDEST));
    }

    #[test]
    fn more_skew_is_refused_with_both_versions() {
        for (oldest, newest) in [(NEWEST + 1, NEWEST + 2), (0, 0), (5, 1)] {
            let error = negotiate("endpoint", &versions(oldest, newest)).expect_err("no common version").to_string();
            let both = [format!("versions {oldest} to {newest}"), format!("speaks {OLDEST} to {NEWEST}")];
            assert!(both.iter().all(|text| error.contains(text)) && !error.contains('\x1b'), "{error}");
        }
    }
}
