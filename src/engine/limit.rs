//! What two-time maps take of the memory that a request may use, the same on every engine.

use super::EngineError;

/// What makes two-time maps smaller.
pub(super) const MAP_REMEDY: &str = "average frames with -a";

/// That some rows of a map, the fewest that are stored together, take more memory than is allowed.
pub(super) fn map_too_large(needed: u64, allowed: u64) -> EngineError {
    EngineError::Memory { what: "a band of rows of a two-time map", needed, allowed, remedy: MAP_REMEDY }
}

/// Bytes of which a part is at least so many.
pub(super) fn whole_of(part: u64, share: f64) -> u64 {
    // what is cut off when numbers are rounded comes on top
    (part as f64 / share) as u64 + 4
}
