//! Log lines on stderr: warnings by default, everything about the work with `-v`.
//!
//! `RUST_LOG`, where set, decides instead.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::output::Form;

/// Starts logging for a daemon: what it does is told, since its log is read when something went wrong.
pub(super) fn init_daemon(form: Form) {
    start(if form == Form::Quiet { LevelFilter::WARN } else { LevelFilter::INFO });
}

/// Starts logging for this process; a second call changes nothing.
pub(super) fn init(verbose: bool, form: Form) {
    let level = match (verbose, form) {
        (true, _) => LevelFilter::DEBUG,
        (false, Form::Quiet) => LevelFilter::ERROR,
        (false, Form::Human | Form::Json) => LevelFilter::WARN,
    };
    start(level);
}

fn start(level: LevelFilter) {
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    let started = lines.with_ansi(io::stderr().is_terminal()).try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
