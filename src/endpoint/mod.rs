//! The daemon that an administrator runs: takes tasks from the controller and has workers compute them.
//!
//! Knows no wire format.

pub mod book;
pub mod journal;
pub mod roots;
