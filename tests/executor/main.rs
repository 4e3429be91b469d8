//! Executors as real processes: what they compute, how they are killed, and that nothing of them runs on.

mod common;
mod hostile;
mod killed;
mod worked;
