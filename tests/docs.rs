//! Keeps the documents true: runs their commands with the built binary and looks their messages and links up.
//!
//! In a ```` ```console ```` block a line that starts with `$ ` is a command, `> ` goes on with it, and every other
//! line must occur in what the command prints; `…` stands for anything. A document's commands share a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Data that the documents' commands find, so that each stays short.
const SETUP: &str = "speckled simulate --format rigaku --name rigaku --frames 300 --counts 0.01 --tau 50";

struct Example {
    command: String,
    expected: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let listed = |folder: PathBuf| {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.expect("a folder of the checkout lists").path()).collect::<Vec<_>>()
    };
    let mut found = [listed(root().to_owned()), listed(root().join("docs"))].concat();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn examples(text: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside {
            match (line.strip_prefix("$ "), line.strip_prefix("> "), found.last_mut()) {
                (Some(command), _, _) => found.push(Example { command: command.to_owned(), expected: Vec::new() }),
                (_, Some(more), Some(last)) => last.command += &format!("\n{more}"),
                (_, _, Some(last)) => last.expected.push(line.to_owned()),
                (_, _, None) => panic!("console output before any command: {line}"),
            }
        }
    }
    found
}

/// Whether the pieces of `pattern` between `…` occur in one line of `output`, in their order.
fn occurs(pattern: &str, output: &str) -> bool {
    output.lines().any(|line| {
        let mut rest = line;
        pattern.split('…').map(str::trim).all(|piece| match rest.find(piece) {
            Some(at) => {
                rest = &rest[at + piece.len()..];
                true
            }
            None => false,
        })
    })
}

/// Runs a command of a document; its output, stdout and stderr together, or why it is wrong.
fn run(command: &str, folder: &Path) -> Result<String, String> {
    let binaries = Path::new(env!("CARGO_BIN_EXE_speckled")).parent().expect("a file has a folder");
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").expect("PATH is set"));
    let script = format!("exec 2>&1; set -euo pipefail; {command}");
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder).env("PATH", path).output();
    let output = output.map_err(|error| format!("bash: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(text) } else { Err(format!("$ {command}\n{text}{}", output.status)) }
}

#[test]
fn commands_run_and_print_what_the_documents_show() {
    let mut failures = Vec::new();
    let mut ran = 0;
    for document in documents() {
        let examples = examples(&read(&document));
        if examples.is_empty() {
            continue;
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        if let Err(why) = run(SETUP, folder.path()) {
            panic!("{why}");
        }
        for example in examples {
            ran += 1;
            match run(&example.command, folder.path()) {
                Err(why) => failures.push(format!("{}: {why}", document.display())),
                Ok(output) => {
                    failures.extend(example.expected.iter().filter(|line| !occurs(line, &output)).map(|line| {
                        format!("{}: $ {}\ndoes not print: {line}\n{output}", document.display(), example.command)
                    }))
                }
            }
        }
    }
    assert!(ran > 0, "no commands in the documents");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn messages_in_the_troubleshooting_page_are_those_of_the_program() {
    let mut sources = String::new();
    read_sources(&root().join("src"), &mut sources);
    let page = read(&root().join("docs/troubleshooting.md"));
    let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    assert!(!headings.is_empty(), "no messages in the page");
    for heading in headings {
        let missing: Vec<&str> = pieces(heading).filter(|piece| !sources.contains(piece)).collect();
        assert!(missing.is_empty(), "no source says {missing:?} of `{heading}`");
    }
}

/// The literal pieces of a message.
fn pieces(message: &str) -> impl Iterator<Item = &str> {
    message.split('…').map(str::trim).filter(|piece| !piece.is_empty())
}

/// Appends all Rust sources, with string literals that run over several lines joined.
fn read_sources(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of the checkout lists") {
        let path = entry.expect("a folder of the checkout lists").path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for line in read(&path).lines() {
                match line.strip_suffix('\\') {
                    Some(continued) => sources.push_str(continued.trim_start()),
                    None => sources.extend([line.trim_start(), "\n"]),
                }
            }
        }
    }
}

#[test]
fn links_and_named_files_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        let folder = document.parent().expect("a document has a folder");
        for target in link_targets(&read(&document)) {
            if !folder.join(&target).exists() {
                missing.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Targets of `[text](target)` that are files: no addresses, no anchors.
fn link_targets(text: &str) -> Vec<String> {
    let ends = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
    ends.filter(|target| !target.is_empty() && !target.contains("://")).map(str::to_owned).collect()
}

#[test]
fn a_command_that_fails_or_prints_something_else_is_found() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    assert!(run("false", folder.path()).is_err());
    assert!(run("speckled no-such-command", folder.path()).is_err());
    let output = run("printf 'wrote a file\\nin 3 s\\n'", folder.path()).unwrap();
    assert!(occurs("wrote … file", &output) && occurs("in … s", &output));
    assert!(!occurs("wrote in", &output) && !occurs("file … wrote", &output));
}

#[test]
fn console_blocks_are_read_as_written() {
    let found = examples("```sh\n$ no\n```\n```console\n$ cat <<E\n> a\n> E\na\n$ true\n```\n$ no\n");
    let commands: Vec<&str> = found.iter().map(|example| example.command.as_str()).collect();
    assert_eq!(commands, ["cat <<E\na\nE", "true"]);
    assert_eq!(found[0].expected, ["a"]);
}

#[test]
fn link_targets_are_files_only() {
    let text = "[a](docs/a.md) [b](https://example.org) [c](#here) ![d](d.png \"t\") [e](e.md#f)";
    assert_eq!(link_targets(text), ["docs/a.md", "d.png", "e.md"]);
}
