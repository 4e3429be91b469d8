//! Which dynamic bins two-time takes: the text form of a choice, and the choice held against a qmap.
//!
//! Pure; knows nothing of the command line or of files.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::correlate::bins::Labels;

/// Dynamic bins as asked for, not yet held against a qmap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BinSelection {
    /// Every bin that has a pixel.
    #[default]
    All,
    /// The labels in these ranges, each of which must exist and have a pixel.
    Ranges(Vec<RangeInclusive<u32>>),
}

/// The bins of a qmap that a selection takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenBins {
    /// Labels, ascending, each with at least one masked-in pixel.
    pub labels: Vec<u32>,
    /// Labels up to the qmap's largest that `All` left out because they have no masked-in pixel.
    pub without_pixels: Vec<u32>,
}

/// A selection that cannot be read or does not fit the qmap.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelectionError {
    /// Not a list of labels and ranges.
    #[error("dq selection {text:?}: {part:?} is not a label or a range; give \"all\" or a list such as \"1,2,5-7\"")]
    Syntax {
        /// The whole text.
        text: String,
        /// The part that is wrong.
        part: String,
    },
    /// A label beyond the qmap's.
    #[error("dq selection has label {label}, but the qmap's dynamic labels are 1 to {max}")]
    OutOfRange {
        /// The label.
        label: u32,
        /// The qmap's largest.
        max: u32,
    },
    /// A label without a masked-in pixel.
    #[error("dq selection has label {label}, which has no pixel that the mask keeps; leave it out")]
    NoPixels {
        /// The label.
        label: u32,
    },
}

impl BinSelection {
    /// Holds the selection against a qmap's labels.
    ///
    /// # Errors
    /// An explicit label out of range or without a masked-in pixel.
    pub fn choose(&self, labels: &Labels) -> Result<ChosenBins, SelectionError> {
        let populated = populated(labels);
        let max = labels.dynamic_labels.iter().copied().max().unwrap_or(0);
        match self {
            Self::All => {
                // A label beyond the number of pixels is refused later; it must not make this list long.
                let bound = u32::try_from(labels.shape.pixels()).map_or(max, |pixels| max.min(pixels));
                let without_pixels = (1..=bound).filter(|label| !populated.contains(label)).collect();
                Ok(ChosenBins { labels: populated.into_iter().collect(), without_pixels })
            }
            Self::Ranges(ranges) => {
                if let Some(label) = ranges.iter().flat_map(|r| [*r.start(), *r.end()]).find(|&l| l > max) {
                    return Err(SelectionError::OutOfRange { label, max });
                }
                let labels: BTreeSet<u32> = ranges.iter().cloned().flatten().collect();
                match labels.iter().find(|label| !populated.contains(label)) {
                    Some(&label) => Err(SelectionError::NoPixels { label }),
                    None => Ok(ChosenBins { labels: labels.into_iter().collect(), without_pixels: Vec::new() }),
                }
            }
        }
    }
}

/// The dynamic labels that have a masked-in pixel.
fn populated(labels: &Labels) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut last = 0;
    for (&label, &kept) in std::iter::zip(&labels.dynamic_labels, &labels.mask) {
        if kept && label != last && label > 0 {
            found.insert(label);
            last = label;
        }
    }
    found
}

impl TryFrom<String> for BinSelection {
    type Error = SelectionError;

    fn try_from(text: String) -> Result<Self, SelectionError> {
        text.parse()
    }
}

impl From<BinSelection> for String {
    fn from(selection: BinSelection) -> Self {
        selection.to_string()
    }
}

impl FromStr for BinSelection {
    type Err = SelectionError;

    fn from_str(text: &str) -> Result<Self, SelectionError> {
        if text.trim().eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        let refused = |part: &str| SelectionError::Syntax { text: text.to_owned(), part: part.to_owned() };
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let label = |digits: &str| digits.trim().parse::<u32>().ok().filter(|&label| label > 0);
            match (label(first), label(last)) {
                (Some(first), Some(last)) if first <= last => ranges.push(first..=last),
                _ => return Err(refused(part)),
            }
        }
        if ranges.is_empty() { Err(refused(text)) } else { Ok(Self::Ranges(ranges)) }
    }
}

impl fmt::Display for BinSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Ranges(ranges) => {
                for (k, range) in ranges.iter().enumerate() {
                    let comma = if k > 0 { "," } else { "" };
                    if range.start() == range.end() {
                        write!(f, "{comma}{}", range.start())?;
                    } else {
                        write!(f, "{comma}{}-{}", range.start(), range.end())?;
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::correlate::bins::Shape;

    fn labels(dynamic: &[u32], mask: &[bool]) -> Labels {
        Labels {
            shape: Shape { rows: 1, cols: dynamic.len() },
            mask: mask.to_vec(),
            blemish: mask.to_vec(),
            dynamic_labels: dynamic.to_vec(),
            static_labels: dynamic.to_vec(),
        }
    }

    fn parsed(text: &str) -> BinSelection {
        text.parse().expect("a selection")
    }

    #[test]
    fn blanks_are_allowed() {
        assert_eq!(parsed("1, 2,5-7"), BinSelection::Ranges(vec![1..=1, 2..=2, 5..=7]));
        assert_eq!(parsed(" 5 - 7 ,").to_string(), "5-7");
        assert_eq!(parsed("All"), BinSelection::All);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", ",", "0", "1-", "-3", "7-5", "1;2", "1.5", "99999999999", "0-3"] {
            assert!(text.parse::<BinSelection>().is_err(), "{text}");
        }
    }

    #[test]
    fn labels_are_held_against_the_qmap() {
        let qmap = labels(&[1, 1, 3, 4, 0], &[true, true, true, false, true]);
        let all = BinSelection::All.choose(&qmap).expect("bins");
        assert_eq!(all, ChosenBins { labels: vec![1, 3], without_pixels: vec![2, 4] });
        assert_eq!(parsed("3,1").choose(&qmap).expect("bins").labels, [1, 3]);
        assert_eq!(parsed("1,4").choose(&qmap), Err(SelectionError::NoPixels { label: 4 }));
        assert_eq!(parsed("1-2").choose(&qmap), Err(SelectionError::NoPixels { label: 2 }));
        let error = parsed("1,3-4000000000").choose(&qmap).expect_err("out of range");
        assert_eq!(error, SelectionError::OutOfRange { label: 4_000_000_000, max: 4 });
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            if let Ok(selection) = text.parse::<BinSelection>() {
                prop_assert_eq!(&parsed(&selection.to_string()), &selection);
            }
        }
    }
}
