//! The words for the values of parameters, said once: options, configuration files and results use the same.

use crate::correlate::twotime::Smoothing;
use crate::task::correlate::{Analyses, BitOrder, SaturatedPolicy};

/// Words and what they mean, the default first.
pub type Names<T> = [(&'static str, T)];

/// `-t`.
pub const ANALYSES: &Names<Analyses> =
    &[("Multitau", Analyses::MultiTau), ("Twotime", Analyses::TwoTime), ("Both", Analyses::Both)];

/// `-s`.
pub const SMOOTHINGS: &Names<Smoothing> =
    &[("sqmap", Smoothing::StaticBins), ("dqmap", Smoothing::DynamicBins), ("none", Smoothing::None)];

/// `--saturated`.
pub const POLICIES: &Names<SaturatedPolicy> =
    &[("mask", SaturatedPolicy::Mask), ("fail", SaturatedPolicy::Fail), ("keep", SaturatedPolicy::Keep)];

/// `--ftf-bits`.
pub const BIT_ORDERS: &Names<BitOrder> = &[("little", BitOrder::LittlePairs), ("big", BitOrder::BigPairs)];

/// The value of a word; capitals do not matter.
pub fn value_of<T: Copy>(names: &Names<T>, word: &str) -> Option<T> {
    names.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|&(_, value)| value)
}

/// The word of a value; empty for one without.
pub fn word_for<T: PartialEq>(names: &Names<T>, value: T) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |&(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_values() {
        assert_eq!(value_of(ANALYSES, "twoTime"), Some(Analyses::TwoTime));
        assert_eq!(value_of(ANALYSES, "Multi"), None);
        assert_eq!(word_for(SMOOTHINGS, Smoothing::DynamicBins), "dqmap");
        assert_eq!(word_for(&SMOOTHINGS[..1], Smoothing::None), "");
    }
}
