//! The output of one attempt in one bounded file: its beginning and its end, and how much went between them.
//!
//! The beginning is written as it comes; the end is kept in memory until the attempt is over. No output, no file.

use std::collections::VecDeque;
use std::path::PathBuf;

use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::task::result::LogTail;

/// Bytes of the beginning that are kept.
const HEAD: usize = 1 << 20;

/// Bytes of the end that are kept.
const END: usize = 1 << 20;

/// Bytes and lines of the end that go with the result.
const TAIL_BYTES: usize = 64 << 10;
const TAIL_LINES: usize = 40;

/// The log of an attempt.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: Sink,
    /// Bytes that the beginning has.
    head: usize,
    /// Bytes that came after the beginning.
    beyond: u64,
    /// The last bytes of all.
    end: VecDeque<u8>,
}

#[derive(Debug)]
enum Sink {
    Unopened,
    Open(File),
    /// It cannot be written, which was told once.
    Broken,
}

impl Log {
    /// Nothing is written yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: Sink::Unopened, head: 0, beyond: 0, end: VecDeque::new() }
    }

    /// Takes output.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        let (head, beyond) = bytes.split_at(bytes.len().min(HEAD - self.head));
        self.head += head.len();
        self.beyond += beyond.len() as u64;
        self.end.extend(bytes);
        self.end.drain(..self.end.len().saturating_sub(END));
        self.append(head).await;
    }

    /// Adds a line of the worker's own.
    pub(super) async fn say(&mut self, words: &str) {
        let begin = if self.end.back().is_none_or(|&last| last == b'\n') { "" } else { "\n" };
        self.write(format!("{begin}speckled: {words}\n").as_bytes()).await;
    }

    /// Writes the end, and says what goes with the result; None if there was no output.
    pub(super) async fn end(mut self) -> Option<LogTail> {
        if self.end.is_empty() {
            return None;
        }
        let rest = self.rest();
        self.append(&rest).await;
        let lines = last_lines(self.end.make_contiguous());
        Some(LogTail { file: self.path, lines })
    }

    /// What the file lacks: whole lines of the end, after one that says how much is left out.
    fn rest(&mut self) -> Vec<u8> {
        let end = self.end.make_contiguous();
        let beyond = usize::try_from(self.beyond).unwrap_or(usize::MAX);
        if beyond <= end.len() {
            return end[end.len() - beyond..].to_vec();
        }
        let cut = end.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let left_out = self.beyond - (end.len() - cut) as u64;
        let mut rest = format!("\nspeckled: {left_out} bytes of output were left out here\n").into_bytes();
        rest.extend_from_slice(&end[cut..]);
        rest
    }

    async fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if matches!(self.file, Sink::Unopened) {
            match File::create(&self.path).await {
                Ok(file) => self.file = Sink::Open(file),
                Err(error) => self.broken(&error),
            }
        }
        let Sink::Open(file) = &mut self.file else { return };
        let written = match file.write_all(bytes).await {
            Ok(()) => file.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.broken(&error);
        }
    }

    /// A log that cannot be written is no reason to fail the task; its tail goes with the result all the same.
    fn broken(&mut self, error: &std::io::Error) {
        tracing::warn!(file = %self.path.display(), %error, "the log of an attempt cannot be written");
        self.file = Sink::Broken;
    }
}

fn last_lines(end: &[u8]) -> String {
    let end = &end[end.len().saturating_sub(TAIL_BYTES)..];
    let text = String::from_utf8_lossy(end);
    let lines: Vec<&str> = text.lines().collect();
    let mut kept = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    // broken characters grow when they are replaced
    while kept.len() > TAIL_BYTES {
        kept.remove(0);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn logged(pieces: &[&[u8]]) -> (Vec<u8>, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.log");
        let mut log = Log::new(path.clone());
        for piece in pieces {
            log.write(piece).await;
        }
        let tail = log.end().await.expect("output");
        assert_eq!(tail.file, path);
        (std::fs::read(&path).expect("a file"), tail.lines)
    }

    #[tokio::test]
    async fn little_output_is_kept_whole() {
        assert_eq!(logged(&[b"a\n", b"b"]).await, (b"a\nb".to_vec(), "a\nb".to_owned()));
        let long = vec![b'x'; HEAD + END];
        assert_eq!(logged(&[&long[..10], &long[10..]]).await.0, long);
    }

    #[tokio::test]
    async fn of_much_output_the_middle_goes() {
        let lines: Vec<u8> = (0..1_000_000).flat_map(|n| format!("{n:07}\n").into_bytes()).collect();
        let (file, tail) = logged(&lines.chunks(8191).collect::<Vec<_>>()).await;
        assert!(file.len() <= HEAD + END + 100, "{}", file.len());
        let text = String::from_utf8(file).expect("ASCII");
        let notice = text.lines().find(|line| line.starts_with("speckled")).expect("a notice");
        let left_out: usize = notice.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number");
        assert_eq!(text.len() - notice.len() - 2 + left_out, lines.len());
        assert!(text.starts_with("0000000\n") && text.ends_with("0999999\n"));
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("0999999"));
    }

    #[tokio::test]
    async fn without_output_there_is_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::new(dir.path().join("a.log"));
        assert_eq!(log.end().await, None);
        assert!(!dir.path().join("a.log").exists());
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_still_has_its_tail() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = Log::new(dir.path().join("missing/a.log"));
        log.write(b"unfinished").await;
        log.say("killed").await;
        assert_eq!(log.end().await.expect("a tail").lines, "unfinished\nspeckled: killed");
    }

    #[test]
    fn a_tail_is_bounded() {
        assert!(last_lines(&[0xff; TAIL_BYTES]).len() <= TAIL_BYTES);
    }
}
