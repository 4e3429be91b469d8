//! The program as users run it: `speckled corr` and `speckled info`, their results, errors and exit codes.

mod bad_input;
mod behaviour;
mod common;
#[path = "../fakes/cuda.rs"]
mod cuda;
mod damages;
mod defects;
mod disk;
mod golden;
mod gpu;
mod gpu_check;
mod layouts;
mod memory;
mod reader;
