//! How many files a process may have open: each connection is one.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_highest() {
        open_as_many_as_allowed();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert!(most_open() >= 64, "{}", most_open());
    }
}
