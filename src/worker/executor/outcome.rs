//! What a process's end means for its attempt. Decides only; sends no signal and writes no log.

use std::io;

use serde_json::{Map, Value};

use super::streams::{Begun, Form, Protocol, Words};
use super::supervise::{Cause, Ended, Status};
use crate::runtime::process::exit;
use crate::task::failure::{Failure, Fault, Lack, Loss, Unfit};
use crate::task::life::Outcome;
use crate::task::result::TaskResult;

/// How the attempt ended, what it left, and what its log is to say besides.
pub(super) fn decide(ended: &Ended, form: Form) -> (Outcome, TaskResult, Option<String>) {
    match form {
        Form::Protocol(protocol) => executor(ended, protocol),
        Form::Command(words) => command(ended, words),
    }
}

/// How an attempt ended whose process could not be started. That an executor cannot is the node's fault; a command's is
/// the site's or, if its values are too long, the task's.
pub(super) fn not_started(form: &Form, error: &io::Error, words: &str) -> Outcome {
    match form {
        Form::Protocol(_) => unfit(words),
        Form::Command(_) if error.kind() == io::ErrorKind::ArgumentListTooLong => {
            Outcome::Failed(Failure::new(Fault::Input, words))
        }
        Form::Command(_) => Outcome::Failed(Failure::new(Fault::Program, words)),
    }
}

fn executor(ended: &Ended, protocol: Protocol) -> (Outcome, TaskResult, Option<String>) {
    if let Some(over) = protocol.over {
        // what it was stopped for is known here only
        return match (over.outcome, ended.cause) {
            (Outcome::Cancelled, Some(Cause::TimeLimit(limit))) => {
                let failure = too_long("the task", limit);
                let words = failure.message().to_owned();
                (Outcome::Failed(failure), over.result, Some(words))
            }
            (Outcome::Cancelled, Some(Cause::Deadline)) => {
                (Outcome::Failed(Failure::deadline()), over.result, Some("stopped at the task's deadline".to_owned()))
            }
            (Outcome::Cancelled, None) => {
                let words = "the executor was told to stop by somebody else than its worker".to_owned();
                (Outcome::Lost(Loss::Stopped), over.result, Some(words))
            }
            (outcome, _) => (outcome, over.result, None),
        };
    }
    let has_code = matches!(&ended.status, Status::Told(status) if status.code().is_some());
    let (outcome, words) = match (protocol.nonsense, ended.cause) {
        (_, Some(Cause::Stop)) => (Outcome::Cancelled, format!("stopped on request; the executor {}", end(ended))),
        (_, Some(Cause::Deadline)) => {
            let words = format!("stopped at the task's deadline; the executor {}", end(ended));
            (Outcome::Failed(Failure::deadline()), words)
        }
        (_, Some(Cause::TimeLimit(limit))) => {
            let failure = too_long("the task", limit);
            let words = format!("{}; the executor {}", failure.message(), end(ended));
            (Outcome::Failed(failure), words)
        }
        // another program than this one, or one that the system's loader cannot start
        (Some(nonsense), None) if protocol.begun == Begun::No => (unfit(&nonsense), nonsense),
        (None, None) if protocol.begun == Begun::No && has_code => {
            let words = format!("the executor {} before it began", end(ended));
            (unfit(&words), words)
        }
        (Some(nonsense), None) => (Outcome::Failed(Failure::new(Fault::Program, &nonsense)), nonsense),
        (None, None) => (Outcome::Lost(Loss::Crashed), format!("the executor {} without a result", end(ended))),
    };
    (outcome, TaskResult::default(), Some(words))
}

fn unfit(words: &str) -> Outcome {
    Outcome::Lost(Loss::Unfit(Unfit::new(Lack::Executor, words)))
}

fn command(ended: &Ended, words: Words) -> (Outcome, TaskResult, Option<String>) {
    let name = &words.name;
    let outcome = match (ended.cause, &ended.status) {
        (Some(Cause::Stop), _) => Outcome::Cancelled,
        (Some(Cause::Deadline), _) => Outcome::Failed(Failure::deadline()),
        (Some(Cause::TimeLimit(limit)), _) => Outcome::Failed(too_long(&format!("command {name}"), limit)),
        (None, Status::Told(status)) if status.success() => {
            let document = words.stdout.whole().and_then(document);
            return (Outcome::Succeeded, TaskResult { document, ..TaskResult::default() }, None);
        }
        (None, _) => {
            let said = words.stderr.beginning().unwrap_or_else(|| "it wrote nothing on stderr".to_owned());
            Outcome::Failed(Failure::new(Fault::Program, &format!("command {name} {}: {said}", end(ended))))
        }
    };
    (outcome, TaskResult::default(), Some(format!("the command {}", end(ended))))
}

fn too_long(what: &str, limit: std::time::Duration) -> Failure {
    let message = format!("{what} ran longer than its limit of {} s and was stopped", limit.as_secs_f64());
    Failure::new(Fault::Program, &message)
}

/// A line that is a JSON object.
fn document(line: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(line).ok()?;
    serde_json::from_str::<Map<String, Value>>(&text).ok()?;
    Some(text)
}

/// `ended with exit code 3`, `was killed by SIGSEGV`.
fn end(ended: &Ended) -> String {
    match &ended.status {
        Status::Told(status) => exit(*status).to_string(),
        Status::Untold(error) => format!("ended, nobody knows how ({error})"),
        Status::Remains => "was killed and does not end: the system holds it, as a driver that hangs does".to_owned(),
    }
}
