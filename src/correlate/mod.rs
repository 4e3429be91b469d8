//! What XPCS computes: delays, frame selection, bins, normalisation and the plain float64 reference.
//!
//! Pure: no IO, no clock, no threads, no wire types. Every fast engine is tested against [`oracle`].

pub mod bins;
pub mod delays;
pub mod listed;
pub mod oracle;
pub mod reduce;
pub mod result;
pub mod scattering;
pub mod twotime;
pub mod window;
