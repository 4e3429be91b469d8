//! How much memory a job may take when nobody says. Measures nothing itself; enforces nothing.

use crate::runtime::node;

/// boost_corr's default, which stays the most that is taken unasked.
pub const MOST_UNASKED: u64 = 36_000_000_000;

/// Four fifths of the memory that is free to this process, at most [`MOST_UNASKED`].
pub fn default_limit() -> u64 {
    (node::measure().free.unwrap_or(MOST_UNASKED) / 5 * 4).min(MOST_UNASKED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_bounded() {
        assert!((1..=MOST_UNASKED).contains(&default_limit()));
    }
}
