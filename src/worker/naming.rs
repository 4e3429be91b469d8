//! Settles the name of an executor's result with its worker: a line out, a line back. Decides nothing.

use std::cell::RefCell;
use std::io::{BufRead, Read, Write};
use std::path::Path;

use super::assignment::{ExecutorLine, ExecutorOrder};
use super::executor::NOTE;
use super::reporter::say;
use crate::dataset::result::{NamingAnswer, ResultNaming};
use crate::task::result::{EarlierResult, NamedResult};

/// Bytes of an answer.
const LONGEST_ORDER: u64 = 64;

/// The pipes between an executor and its worker.
#[derive(Debug)]
pub struct WorkerNaming<R, W> {
    earlier: Option<EarlierResult>,
    pipes: RefCell<(R, W)>,
}

impl<R: BufRead, W: Write> WorkerNaming<R, W> {
    /// Answers come from `input`, lines go to `output`.
    pub fn new(earlier: Option<EarlierResult>, input: R, output: W) -> Self {
        Self { earlier, pipes: RefCell::new((input, output)) }
    }
}

impl<R: BufRead, W: Write> ResultNaming for WorkerNaming<R, W> {
    fn earlier(&self) -> Option<&EarlierResult> {
        self.earlier.as_ref()
    }

    fn note(&self) -> Option<&Path> {
        Some(Path::new(NOTE))
    }

    fn settle(&self, result: &NamedResult) -> NamingAnswer {
        let (input, output) = &mut *self.pipes.borrow_mut();
        let mut line = Vec::new();
        let asked = say(output, &ExecutorLine::Naming(result.clone()));
        let answered = asked.and_then(|()| input.by_ref().take(LONGEST_ORDER).read_until(b'\n', &mut line));
        match (answered, serde_json::from_slice(&line)) {
            (Ok(_), Ok(ExecutorOrder::Publish)) => NamingAnswer::Settled,
            // the pipe is closed when the attempt is to stop
            (Ok(_) | Err(_), Ok(ExecutorOrder::Publish) | Err(_)) => NamingAnswer::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::result::FileMark;

    #[test]
    fn only_an_answer_settles_a_name() {
        let result = NamedResult { path: "/r".into(), file: FileMark { inode: 1, bytes: 2, modified_ns: 3 } };
        for (answer, expected) in [
            ("\"publish\"\nmore", NamingAnswer::Settled),
            ("", NamingAnswer::Stopped),
            ("publish\n", NamingAnswer::Stopped),
            ("{}\n", NamingAnswer::Stopped),
        ] {
            let mut said = Vec::new();
            let naming = WorkerNaming::new(None, answer.as_bytes(), &mut said);
            assert_eq!(naming.settle(&result), expected, "{answer:?}");
            let line = serde_json::from_slice::<ExecutorLine>(&said).expect("a line");
            assert_eq!(line, ExecutorLine::Naming(result.clone()));
        }
    }
}
