//! Log lines on stderr: warnings by default, everything about the work with `-v`.
//!
//! `RUST_LOG`, where set, decides instead.

use std::io::{self, IsTerminal, Write};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::output::Form;
use crate::task::names::harmless;

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
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(HarmlessErrors::default).with_target(false);
    let started = lines.with_ansi(io::stderr().is_terminal()).try_init();
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}

/// stderr, with what others have put into a line written out. The colours of the lines pass: what has begun a colour in a
/// field was written out before.
#[derive(Debug, Default)]
struct HarmlessErrors;

/// What a terminal's colours begin with.
const ESCAPE: char = '\u{1b}';

impl Write for HarmlessErrors {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let shown: Vec<_> = text.split(ESCAPE).map(harmless).collect();
        io::stderr().write_all(shown.join("\u{1b}").as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
