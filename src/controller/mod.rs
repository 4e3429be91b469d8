//! The controller's own decisions: who may do what. It knows no wire format and opens no data file.

pub mod access;
pub mod token;
