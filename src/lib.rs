//! speckled: a compute endpoint for X-ray Photon Correlation Spectroscopy.
//!
//! The layers, each importing only from those below it: `cli`, `rpc` (edges), `controller`, `endpoint`, `worker`
//! (roles), `engine`, `dataset`, `gpu`, `provider`, `store`, `runtime` (ports), `scaling`, `protocol`, `correlate`, `simulate`,
//! `task`, `ids` (pure). `tests/layering.rs` enforces it.

pub mod cli;
pub mod compute;
pub mod config;
pub mod controller;
pub mod correlate;
pub mod dataset;
pub mod endpoint;
pub mod engine;
pub mod gpu;
pub mod ids;
pub mod protocol;
pub mod provider;
pub mod rpc;
pub mod runtime;
pub mod scaling;
pub mod simulate;
pub mod store;
pub mod task;
pub mod worker;
