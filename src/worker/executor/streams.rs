//! Reads what a process writes: an executor's lines or a command's words, and the log. Ends nothing itself.

use std::future::pending;
use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

use super::log::Log;
use crate::ids::AttemptId;
use crate::protocol::session::Progress;
use crate::task::names::TemplateName;
use crate::task::result::{LARGEST_DOCUMENT, NamedResult};
use crate::worker::assignment::{Conclusion, ExecutorLine, LONGEST_LINE};

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// The longest last line of stderr that a failure quotes.
const LONGEST_QUOTE: usize = 1 << 10;

/// Characters of a line of no known form that are shown.
const SHOWN: usize = 80;

/// What has been heard of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing that ends it.
    Nothing,
    /// That it is over: the process is to end by itself now.
    Conclusion,
    /// What no executor says: the process is to be ended.
    Nonsense,
}

/// The output of a process.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) form: Form,
    pub(super) log: Log,
}

/// What is on stdout.
#[derive(Debug)]
pub(super) enum Form {
    /// An executor's lines.
    Protocol(Protocol),
    /// A command's words.
    Command(Words),
}

/// What an executor has said.
#[derive(Debug)]
pub(super) struct Protocol {
    attempt: AttemptId,
    progress: watch::Sender<Option<Progress>>,
    naming: watch::Sender<Option<NamedResult>>,
    line: Vec<u8>,
    pub(super) begun: Begun,
    pub(super) over: Option<Conclusion>,
    /// Why it was no executor's output.
    pub(super) nonsense: Option<String>,
}

/// Whether an executor has said that it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    No,
    Yes,
}

/// What a command has said.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) name: TemplateName,
    pub(super) stdout: LastLine,
    pub(super) stderr: LastLine,
}

/// The last line of a stream that is not empty.
#[derive(Debug)]
pub(super) struct LastLine {
    longest: usize,
    current: Line,
    last: Option<Line>,
}

#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
    /// It is longer than allowed; `bytes` is its beginning.
    cut: bool,
}

impl Form {
    /// An executor's.
    pub(super) fn protocol(
        attempt: AttemptId,
        progress: watch::Sender<Option<Progress>>,
        naming: watch::Sender<Option<NamedResult>>,
    ) -> Self {
        let (line, begun, over, nonsense) = (Vec::new(), Begun::No, None, None);
        Self::Protocol(Protocol { attempt, progress, naming, line, begun, over, nonsense })
    }

    /// A command's.
    pub(super) fn command(name: &TemplateName) -> Self {
        let (stdout, stderr) = (LastLine::new(LARGEST_DOCUMENT), LastLine::new(LONGEST_QUOTE));
        Self::Command(Words { name: name.clone(), stdout, stderr })
    }
}

impl Streams {
    /// Nothing is read yet.
    pub(super) fn new(form: Form, log: Log) -> Self {
        Self { form, log }
    }

    /// Reads until both streams end, and tells what ends the process.
    pub(super) async fn read(&mut self, output: Option<(Receiver, Receiver)>, tell: watch::Sender<Heard>) {
        let (mut stdout, mut stderr) = output.unzip();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while stdout.is_some() || stderr.is_some() {
            // Dropping either loses nothing: what was read is in its buffer, which is emptied before the next round.
            tokio::select! {
                read = next(stdout.as_mut(), &mut out) => if ended(&read) { stdout = None },
                read = next(stderr.as_mut(), &mut err) => if ended(&read) { stderr = None },
            }
            match &mut self.form {
                Form::Protocol(protocol) => {
                    let heard = protocol.take(&out);
                    if heard != Heard::Nothing {
                        tell.send_replace(heard);
                    }
                }
                Form::Command(words) => {
                    words.stdout.take(&out);
                    words.stderr.take(&err);
                    self.log.write(&out).await;
                }
            }
            self.log.write(&err).await;
            out.clear();
            err.clear();
        }
    }
}

/// Reads what is there; never ready for a stream that has ended.
async fn next(stream: Option<&mut Receiver>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    match stream {
        Some(stream) => {
            // most processes write nothing: memory is there only when there is something to read
            stream.readable().await?;
            buffer.reserve(CHUNK);
            stream.read_buf(buffer).await
        }
        None => pending().await,
    }
}

/// A pipe that fails has no more to say.
fn ended(read: &io::Result<usize>) -> bool {
    matches!(read, Ok(0) | Err(_))
}

impl Protocol {
    fn take(&mut self, bytes: &[u8]) -> Heard {
        let before = self.heard();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.heard() != Heard::Nothing {
                // the rest is not looked at
                break;
            }
            let (piece, complete) = piece.strip_suffix(b"\n").map_or((piece, false), |piece| (piece, true));
            if self.line.len() + piece.len() > LONGEST_LINE {
                self.nonsense = Some(format!("the executor wrote a line of more than {LONGEST_LINE} bytes"));
            } else {
                self.line.extend_from_slice(piece);
                if complete {
                    let line = std::mem::take(&mut self.line);
                    self.line(&line);
                }
            }
        }
        if before == Heard::Nothing { self.heard() } else { Heard::Nothing }
    }

    fn line(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(ExecutorLine::Progress(step)) => {
                let progress = Progress { attempt: self.attempt, step: step.step, done: step.done, total: step.total };
                self.progress.send_replace(Some(progress));
            }
            Ok(ExecutorLine::Naming(result)) => {
                self.naming.send_replace(Some(result));
            }
            Ok(ExecutorLine::Ready) => self.begun = Begun::Yes,
            Ok(ExecutorLine::Conclusion(over)) => self.over = Some(over),
            Err(error) => {
                let shown: String = String::from_utf8_lossy(line).chars().take(SHOWN).collect();
                self.nonsense = Some(format!("the executor wrote {shown:?}, which is none of its lines: {error}"));
            }
        }
    }

    fn heard(&self) -> Heard {
        match (&self.nonsense, &self.over) {
            (Some(_), _) => Heard::Nonsense,
            (None, Some(_)) => Heard::Conclusion,
            (None, None) => Heard::Nothing,
        }
    }
}

impl LastLine {
    fn new(longest: usize) -> Self {
        Self { longest, current: Line::default(), last: None }
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (piece, complete) = piece.strip_suffix(b"\n").map_or((piece, false), |piece| (piece, true));
            let room = self.longest - self.current.bytes.len();
            self.current.cut |= piece.len() > room;
            self.current.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
            if complete {
                self.finish();
            }
        }
    }

    fn finish(&mut self) {
        let line = std::mem::take(&mut self.current);
        if line.bytes.iter().any(|byte| !byte.is_ascii_whitespace()) {
            self.last = Some(line);
        }
    }

    /// The line, if it is not longer than allowed.
    pub(super) fn whole(mut self) -> Option<Vec<u8>> {
        self.finish();
        self.last.filter(|line| !line.cut).map(|line| line.bytes)
    }

    /// The line, or its beginning.
    pub(super) fn beginning(mut self) -> Option<String> {
        self.finish();
        self.last.map(|line| String::from_utf8_lossy(&line.bytes).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AttemptNumber, TaskId};
    use crate::task::life::Outcome;

    fn protocol() -> (Protocol, watch::Receiver<Option<Progress>>) {
        let attempt = AttemptId { task: TaskId::new(uuid::Uuid::nil()), number: AttemptNumber::FIRST };
        let (tell, hear) = watch::channel(None);
        match Form::protocol(attempt, tell, watch::channel(None).0) {
            Form::Protocol(protocol) => (protocol, hear),
            Form::Command(_) => panic!("a protocol"),
        }
    }

    #[test]
    fn lines_may_come_in_any_pieces() {
        let text = concat!(
            r#"{"progress":{"step":"correlating","done":1,"total":2}}"#,
            "\n",
            r#"{"conclusion":{"outcome":"succeeded","result":{"files":[],"log":null,"document":null}}}"#,
            "\n",
        );
        for size in [1, 7, 1000] {
            let (mut protocol, progress) = protocol();
            let heard: Vec<_> = text.as_bytes().chunks(size).map(|piece| protocol.take(piece)).collect();
            assert_eq!(heard.iter().filter(|&&heard| heard == Heard::Conclusion).count(), 1);
            assert_eq!(protocol.over.expect("it is over").outcome, Outcome::Succeeded);
            assert_eq!(progress.borrow().as_ref().map(|progress| progress.done), Some(1));
        }
    }

    #[test]
    fn what_no_executor_says_is_told() {
        let (mut speaker, _) = protocol();
        assert_eq!(speaker.take(b"Segmentation fault\n"), Heard::Nonsense);
        assert!(speaker.nonsense.expect("why").contains("\"Segmentation fault\", which is none of its lines"));
        let (mut speaker, _) = protocol();
        let heard: Vec<_> = (0..=LONGEST_LINE / CHUNK).map(|_| speaker.take(&[b'x'; CHUNK])).collect();
        assert_eq!(heard.last(), Some(&Heard::Nonsense));
        assert!(speaker.line.len() <= LONGEST_LINE);
    }

    #[test]
    fn the_last_line_is_found() {
        let line = |pieces: &[&str], longest| {
            let mut last = LastLine::new(longest);
            pieces.iter().for_each(|piece| last.take(piece.as_bytes()));
            last
        };
        assert_eq!(line(&["a\n{", "}\n", " \n"], 10).whole(), Some(b"{}".to_vec()));
        assert_eq!(line(&["a\n", "b"], 10).whole(), Some(b"b".to_vec()));
        assert_eq!(line(&["12345", "6\n"], 5).whole(), None);
        assert_eq!(line(&["12345", "6\n"], 5).beginning().as_deref(), Some("12345"));
        assert_eq!(line(&["123456\n12"], 5).whole(), Some(b"12".to_vec()));
        assert_eq!(line(&[], 5).beginning(), None);
    }
}
