//! What goes to stdout and stderr, and in which form: the one door for text, which writes out what would act on a terminal.
//!
//! A reader that has gone away (a closed pipe) is no error: the work is done all the same.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::exit::{Failure, ProcessError};
use crate::task::names::harmless;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people: text on stdout, summaries on stderr.
    Human,
    /// One JSON document on stdout.
    Json,
    /// Text on stdout, only warnings and errors on stderr.
    Quiet,
}

/// Writes text to stdout, with a newline.
pub(super) fn stdout(text: impl Display) -> Result<(), Failure> {
    let text = text.to_string();
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", harmless(&text)).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ProcessError::Stdout(error).into()),
        _ => Ok(()),
    }
}

/// Writes a JSON document to stdout.
pub(super) fn json(document: &Value) -> Result<(), Failure> {
    stdout(format_args!("{document:#}"))
}

/// Tells people something that no program reads.
pub(super) fn note(text: impl Display) {
    // If stderr is gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "speckled: {}", harmless(&text.to_string()));
}

/// Does so on a line of its own, where a bar may have begun one.
pub(super) fn note_below(text: impl Display) {
    let end = if io::stderr().is_terminal() { "\n" } else { "" };
    let _ = writeln!(io::stderr(), "{end}speckled: {}", harmless(&text.to_string()));
}

/// Warns.
pub(super) fn warn(text: impl Display) {
    note(format_args!("warning: {text}"));
}

/// Prints an error with its causes, as one line.
pub(super) fn error(failure: &Failure) {
    note(format_args!("error: {}", failure.words()));
}
