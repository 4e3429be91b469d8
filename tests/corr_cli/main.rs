//! The program as users run it: `speckled corr` and `speckled info`, their results, errors and exit codes.

mod bad_input;
mod behaviour;
mod common;
mod defects;
mod disk;
#[path = "../fakes/mod.rs"]
mod fakes;
mod golden;
mod gpu;
mod layouts;
