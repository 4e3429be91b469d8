//! Between the wire's types and ours. Each conversion destructures every field, so that a new one cannot be
//! forgotten; an error names the field's place in the message.

use std::fmt;

use thiserror::Error;

use crate::task::names::printable;

pub mod attempt;
pub mod session;
pub mod spec;
pub mod task;
pub mod worker;

/// The longest name of a host that is kept (POSIX HOST_NAME_MAX is 255).
const LONGEST_HOST: usize = 255;

/// A message that says nothing we understand.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{place}: {reason}")]
pub struct WireError {
    place: String,
    reason: String,
}

impl WireError {
    pub(in crate::rpc) fn new(place: &str, reason: impl fmt::Display) -> Self {
        Self { place: place.to_owned(), reason: reason.to_string() }
    }

    /// The same error, seen from the message around it.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        Self { place: format!("{outer}.{}", self.place), ..self }
    }
}

/// A part that must be there.
pub(super) fn required<T>(place: &str, part: Option<T>) -> Result<T, WireError> {
    part.ok_or_else(|| WireError::new(place, "is missing"))
}

/// A text that names something.
pub(super) fn named<T>(place: &str, text: String) -> Result<T, WireError>
where
    T: std::str::FromStr<Err: fmt::Display>,
{
    text.parse().map_err(|error| WireError::new(place, error))
}

/// A text that may be empty for nothing.
pub(super) fn optional<T>(place: &str, text: String) -> Result<Option<T>, WireError>
where
    T: std::str::FromStr<Err: fmt::Display>,
{
    if text.is_empty() { Ok(None) } else { named(place, text).map(Some) }
}

/// A host's name, from outside.
pub(super) fn host_name(text: &str) -> String {
    printable(text, LONGEST_HOST)
}

/// A value of an enumeration; a number that this program does not know is an error, not a default.
pub(super) fn known<T: TryFrom<i32>>(place: &str, number: i32) -> Result<T, WireError> {
    T::try_from(number).map_err(|_| WireError::new(place, format!("{number} is not a value that this program knows")))
}
