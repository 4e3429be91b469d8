//! The threads of the CPU engine, and the memory that they keep from run to run.

use std::ops::Deref;

use super::memory::Memory;
use crate::engine::workers::Workers;

/// How many threads to use, whose memory, and whom to ask whether to stop.
#[derive(Clone, Copy)]
pub(super) struct Pool<'a> {
    pub(super) workers: Workers<'a>,
    pub(super) memory: &'a Memory,
}

impl<'a> Deref for Pool<'a> {
    type Target = Workers<'a>;

    fn deref(&self) -> &Workers<'a> {
        &self.workers
    }
}
