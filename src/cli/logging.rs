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

/// stderr, with what others have put into a line written out. On a terminal colours pass, since the lines have some.
#[derive(Debug, Default)]
struct HarmlessErrors;

/// What a terminal's colours begin with.
const ESCAPE: char = '\u{1b}';

/// Whether what follows an escape character sets a colour, as `[31m`, and nothing else (ECMA-48, SGR).
fn begins_colour(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('[') else { return false };
    rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
}

impl Write for HarmlessErrors {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if io::stderr().is_terminal() {
            let mut parts = text.split(ESCAPE);
            let mut shown = harmless(parts.next().unwrap_or_default()).into_owned();
            for part in parts {
                shown.push_str(if begins_colour(part) { "\u{1b}" } else { "\\u001b" });
                shown.push_str(&harmless(part));
            }
            io::stderr().write_all(shown.as_bytes())?;
        } else {
            io::stderr().write_all(harmless(&text).as_bytes())?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_pass() {
        assert!(begins_colour("[31mred") && begins_colour("[0m") && begins_colour("[1;4m"));
        for other in ["]0;title", "[2J", "[31", "c", "", "m"] {
            assert!(!begins_colour(other), "{other}");
        }
    }
}
