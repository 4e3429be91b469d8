//! Enforces the architecture: who may import whom, which crate lives where, what no file may contain.
//!
//! It reads source text, not the compiler's view: comments and literals are stripped, paths are followed through
//! `use` trees, `super` and inline modules. Each rule is shown to fail on a sample below.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The layers, bottom first. A module imports from lower layers, and from its own layer only what `PEERS` lists.
const LAYERS: [(&str, &[&str]); 5] = [
    ("pure", &["ids", "correlate", "simulate", "task", "protocol", "scaling"]),
    ("ports", &["config", "dataset", "engine", "gpu", "provider", "store", "render", "runtime"]),
    ("roles", &["compute", "worker", "controller", "endpoint"]),
    ("edges", &["rpc", "web", "cli"]),
    ("tests", &["testkit"]),
];

/// Imports inside a layer: (module, what it may import).
const PEERS: [(&str, &str); 15] = [
    ("correlate", "ids"),
    ("simulate", "correlate"),
    ("task", "ids"),
    ("task", "correlate"),
    ("protocol", "ids"),
    ("protocol", "task"),
    ("scaling", "ids"),
    ("scaling", "task"),
    ("engine", "dataset"),
    ("store", "runtime"),
    ("provider", "config"),
    ("provider", "runtime"),
    ("worker", "compute"),
    ("cli", "rpc"),
    ("cli", "web"),
];

/// Crates with one home: (crate, the folders that may name it).
const HOMES: [(&str, &[&str]); 28] = [
    ("hdf5", &["src/dataset"]),
    ("hdf5_sys", &["src/dataset"]),
    ("lz4_sys", &["src/dataset"]),
    ("lzf_sys", &["src/dataset"]),
    ("zstd", &["src/dataset"]),
    ("flate2", &["src/dataset", "src/engine/cuda"]),
    ("blosc_src", &["src/dataset"]),
    ("clap", &["src/cli"]),
    ("clap_complete", &["src/cli"]),
    ("indicatif", &["src/cli"]),
    ("tracing_subscriber", &["src/cli", "src/runtime"]),
    ("libloading", &["src/engine/cuda"]),
    ("nvml_wrapper", &["src/gpu"]),
    ("sqlx", &["src/store"]),
    ("tonic", &["src/rpc"]),
    ("tonic_prost", &["src/rpc"]),
    ("prost", &["src/rpc"]),
    ("http_body", &["src/rpc"]),
    ("hyper_util", &["src/rpc"]),
    ("rustls", &["src/rpc"]),
    ("rcgen", &["src/rpc"]),
    ("if_addrs", &["src/runtime"]),
    ("landlock", &["src/runtime"]),
    ("axum", &["src/web"]),
    ("plotters", &["src/render"]),
    ("minijinja", &["src/provider"]),
    ("rusqlite", &["src/store"]),
    ("serde_saphyr", &["src/config"]),
];

/// What the pure layer never names: IO, threads, the environment, the clock, async.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
    "rustix",
];

/// The most lines of a file.
const MAX_LINES: usize = 800;

#[test]
fn every_file_keeps_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "fuzz"] {
        rust_files(root, &root.join(folder), &mut files);
    }
    assert!(files.iter().any(|(path, _)| path == "src/lib.rs"), "no sources found below {}", root.display());
    let violations: Vec<String> = files.iter().flat_map(|(path, text)| check(path, text)).collect();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
}

/// Public types are known by their names alone, in talk and in search: each has one of its own.
#[test]
fn no_two_public_types_share_a_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(root, &root.join("src"), &mut files);
    let found = shared_names(&files);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn shared_names(files: &[(String, String)]) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (path, text) in files {
        for window in tokenize(text).windows(3) {
            let [visibility, kind, name] = [0, 1, 2].map(|index| window[index].text.as_str());
            let is_type = matches!(kind, "struct" | "enum" | "trait" | "type" | "union");
            // not the `$name` of a macro
            if visibility == "pub" && is_type && name.starts_with(char::is_uppercase) {
                places.entry(name.to_owned()).or_default().push(path);
            }
        }
    }
    let shared = places.into_iter().filter(|(_, places)| places.len() > 1);
    shared.map(|(name, places)| format!("{name} means different things in {}", places.join(", "))).collect()
}

#[test]
fn a_name_of_two_public_types_is_found() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let one = file("src/a.rs", "pub struct Event;\nstruct Line;\npub(super) enum Desk {}");
    let other = file("src/b.rs", "pub enum Event {}\npub struct Line;\npub(crate) struct Desk;");
    assert_eq!(shared_names(&[one, other]), ["Event means different things in src/a.rs, src/b.rs"]);
}

fn rust_files(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a folder of the checkout lists").path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("the walk started at root").to_string_lossy().into_owned();
            files.push((name, fs::read_to_string(&path).expect("a source file reads")));
        }
    }
}

/// All violations of one file, as `path:line: what`.
fn check(path: &str, text: &str) -> Vec<String> {
    let tokens = tokenize(text);
    let paths = resolve(path, &tokens);
    let mut found = check_layers(path, &paths);
    found.extend(check_homes(path, &paths));
    found.extend(check_purity(path, &paths));
    found.extend(check_contents(path, &tokens, &paths));
    found.extend(check_form(text));
    found.into_iter().map(|(line, what)| format!("{path}:{line}: {what}")).collect()
}

type Found = Vec<(usize, String)>;

fn check_layers(path: &str, paths: &[NamedPath]) -> Found {
    let Some(own) = top_module(path) else { return Vec::new() };
    let Some(own_layer) = layer_of(own) else {
        return vec![(1, format!("module {own} has no layer: give it one in tests/layering.rs"))];
    };
    let mut found = Vec::new();
    for named in paths {
        let [first, imported, ..] = named.segments.as_slice() else { continue };
        if first != "crate" || imported == own || imported == "*" {
            continue;
        }
        // Names without a layer are macros or items of lib.rs, not modules.
        let Some(layer) = layer_of(imported) else { continue };
        let allowed = layer < own_layer || PEERS.contains(&(own, imported.as_str()));
        if !allowed {
            let (own_layer, layer) = (LAYERS[own_layer].0, LAYERS[layer].0);
            found.push((named.line, format!("{own} ({own_layer}) must not import {imported} ({layer})")));
        }
    }
    found
}

fn check_homes(path: &str, paths: &[NamedPath]) -> Found {
    if !path.starts_with("src/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for named in paths {
        let home = HOMES.iter().find(|(name, _)| named.segments.len() > 1 && named.segments[0] == *name);
        if let Some((name, homes)) = home
            && !homes.iter().any(|home| is_below(path, home))
        {
            found.push((named.line, format!("crate {name} lives in {} alone", homes.join(" or "))));
        }
    }
    found
}

fn check_purity(path: &str, paths: &[NamedPath]) -> Found {
    if top_module(path).and_then(layer_of) != Some(0) {
        return Vec::new();
    }
    let impure = |named: &NamedPath| {
        let joined = named.segments.join("::");
        IMPURE.iter().any(|name| joined == *name || joined.starts_with(&format!("{name}::")))
    };
    let is_clock = |named: &NamedPath| named.segments.iter().any(|s| s == "Instant" || s == "SystemTime");
    paths
        .iter()
        .filter(|named| impure(named) || is_clock(named))
        .map(|named| (named.line, format!("the pure layer must not use {}", named.segments.join("::"))))
        .collect()
}

fn check_contents(path: &str, tokens: &[Token], paths: &[NamedPath]) -> Found {
    let mut found = Vec::new();
    for (at, window) in tokens.windows(2).enumerate() {
        let [token, next] = window else { continue };
        let in_attribute = at > 0 && matches!(tokens[at - 1].text.as_str(), "[" | ",");
        match (token.text.as_str(), next.text.as_str()) {
            ("allow", "(") if in_attribute => {
                found.push((token.line, "allow: use #[expect(lint, reason = \"...\")]".into()));
            }
            ("expect", "(") if in_attribute && tokens[at - 1].text == "[" && !attribute_has_reason(&tokens[at..]) => {
                found.push((token.line, "#[expect] without a reason".into()));
            }
            ("ignore", "]" | "=") if in_attribute => found.push((token.line, "a test that never runs".into())),
            ("todo" | "unimplemented", "!") => found.push((token.line, "unfinished code".into())),
            _ => {}
        }
    }
    for named in paths {
        let test_only = !path.starts_with("src/") || path.starts_with("src/testkit/");
        let sleeps = named.segments.ends_with(&["thread".into(), "sleep".into()])
            || test_only && named.segments.len() > 1 && named.segments.ends_with(&["sleep".into()]);
        if sleeps {
            found.push((named.line, "sleeping: wait for the event instead".into()));
        }
    }
    found
}

fn attribute_has_reason(from_name: &[Token]) -> bool {
    from_name.iter().take_while(|token| token.text != "]").any(|token| token.text == "reason")
}

fn check_form(text: &str) -> Found {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push((1, "a file opens with //! what it is responsible for".to_owned()));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push((lines, format!("{lines} lines: split it ({MAX_LINES} at most)")));
    }
    found
}

/// `correlate` of `src/correlate/bins.rs` and of `src/correlate.rs`; None for the crate's roots and for tests.
fn top_module(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let first = inside.split('/').next()?;
    (!matches!(first, "lib" | "main" | "bin")).then_some(first)
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, modules)| modules.contains(&module))
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

/// A word, `::` or one other character outside comments and literals.
struct Token {
    text: String,
    line: usize,
}

/// A path as written in the source, `super` and `self` resolved to `crate::...`.
struct NamedPath {
    segments: Vec<String>,
    line: usize,
}

fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let skipped = skip_literal(&chars[at..]);
        if skipped > 0 {
            line += chars[at..at + skipped].iter().filter(|c| **c == '\n').count();
            at += skipped;
        } else if chars[at].is_alphanumeric() || chars[at] == '_' {
            let length = chars[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
            tokens.push(Token { text: chars[at..at + length].iter().collect(), line });
            at += length;
        } else {
            let length = if chars[at..].starts_with(&[':', ':']) { 2 } else { 1 };
            line += usize::from(chars[at] == '\n');
            if !chars[at].is_whitespace() {
                tokens.push(Token { text: chars[at..at + length].iter().collect(), line });
            }
            at += length;
        }
    }
    tokens
}

/// Length of the comment, string or character literal at the start of `chars`, 0 if there is none.
fn skip_literal(chars: &[char]) -> usize {
    let starts = |prefix: &str| prefix.chars().enumerate().all(|(i, c)| chars.get(i) == Some(&c));
    if starts("//") {
        return chars.iter().take_while(|c| **c != '\n').count();
    }
    if starts("/*") {
        return skip_block_comment(chars);
    }
    let prefix = chars.iter().take(2).take_while(|c| matches!(c, 'b' | 'r' | 'c')).count();
    let hashes = chars[prefix..].iter().take_while(|c| **c == '#').count();
    let quote = chars.get(prefix + hashes).copied();
    if quote == Some('"') && (hashes == 0 || chars[..prefix].contains(&'r')) {
        let raw = chars[..prefix].contains(&'r');
        return skip_string(chars, prefix + hashes + 1, hashes, raw);
    }
    match chars {
        ['\'', '\\', rest @ ..] => 3 + rest.iter().skip(1).take_while(|c| **c != '\'').count() + 1,
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

fn skip_block_comment(chars: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < chars.len() {
        if chars[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if chars[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn skip_string(chars: &[char], body: usize, hashes: usize, raw: bool) -> usize {
    let mut at = body;
    while at < chars.len() {
        let closes = chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        if closes {
            return at + 1 + hashes;
        }
        at += if chars[at] == '\\' && !raw { 2 } else { 1 };
    }
    chars.len()
}

/// Every path of the file, with `use` groups expanded.
fn resolve(file: &str, tokens: &[Token]) -> Vec<NamedPath> {
    let mut module = module_of(file);
    let mut opened_at: Vec<usize> = Vec::new();
    let (mut depth, mut at, mut found) = (0_usize, 0, Vec::new());
    while at < tokens.len() {
        let text = tokens[at].text.as_str();
        let inline_module = text == "mod" && tokens.get(at + 2).is_some_and(|token| token.text == "{");
        if inline_module {
            depth += 1;
            opened_at.push(depth);
            module.push(tokens[at + 1].text.clone());
            at += 3;
        } else if is_word(text) && !follows_colons(tokens, at) {
            let mut raw = Vec::new();
            at = expand(tokens, at, &mut Vec::new(), &mut raw);
            found.extend(raw.into_iter().map(|path| absolute(path, &module)));
        } else {
            depth += usize::from(text == "{");
            if text == "}" {
                if opened_at.last() == Some(&depth) {
                    opened_at.pop();
                    module.pop();
                }
                depth = depth.saturating_sub(1);
            }
            at += 1;
        }
    }
    found
}

/// Walks the path or `use` tree at `at`; returns where it ends.
fn expand(tokens: &[Token], mut at: usize, prefix: &mut Vec<String>, found: &mut Vec<NamedPath>) -> usize {
    let line = tokens[at].line;
    let kept = prefix.len();
    loop {
        prefix.push(tokens[at].text.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        match tokens.get(at + 1).map(|token| token.text.as_str()) {
            Some("{") => {
                at = expand_group(tokens, at + 2, prefix, found);
                prefix.truncate(kept);
                return at;
            }
            Some(text) if is_word(text) || text == "*" => at += 1,
            _ => {
                at += 1;
                break;
            }
        }
    }
    found.push(NamedPath { segments: prefix.clone(), line });
    prefix.truncate(kept);
    at
}

fn expand_group(tokens: &[Token], mut at: usize, prefix: &mut Vec<String>, found: &mut Vec<NamedPath>) -> usize {
    while at < tokens.len() && tokens[at].text != "}" {
        let text = tokens[at].text.as_str();
        at = if is_word(text) || text == "*" { expand(tokens, at, prefix, found) } else { at + 1 };
    }
    at + 1
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn follows_colons(tokens: &[Token], at: usize) -> bool {
    at > 0 && tokens[at - 1].text == "::"
}

fn module_of(file: &str) -> Vec<String> {
    let inside = file.strip_prefix("src/").unwrap_or("tests").trim_end_matches(".rs").trim_end_matches("/mod");
    let roots = ["lib", "main", "tests"];
    inside.split('/').filter(|part| !roots.contains(part)).map(str::to_owned).collect()
}

fn absolute(path: NamedPath, module: &[String]) -> NamedPath {
    let supers = path.segments.iter().take_while(|segment| *segment == "super").count();
    let skip = match path.segments[0].as_str() {
        "self" => 1,
        "super" => supers,
        "speckled" => return with_root(&[], &path.segments[1..], path.line),
        _ => return path,
    };
    let base = &module[..module.len().saturating_sub(supers)];
    with_root(base, &path.segments[skip..], path.line)
}

fn with_root(base: &[String], rest: &[String], line: usize) -> NamedPath {
    let root = std::iter::once("crate".to_owned());
    NamedPath { segments: root.chain(base.iter().cloned()).chain(rest.iter().cloned()).collect(), line }
}

/// What `check` says of a sample with the module comment that every file needs.
fn said(path: &str, sample: &str) -> String {
    check(path, &format!("//! A sample.\n{sample}\n")).join("\n")
}

#[test]
fn an_import_from_above_is_found_however_it_is_written() {
    for sample in [
        "use crate::engine::Engine;",
        "use crate::{correlate::bins, engine::{self, Engine}};",
        "use super::super::engine::Request;",
        "fn f() -> crate::engine::Request { todo() }",
        "mod inner { use super::super::super::engine::Request; }",
    ] {
        let found = said("src/correlate/bins.rs", sample);
        assert!(found.contains("correlate (pure) must not import engine (ports)"), "{sample}: {found}");
    }
}

#[test]
fn imports_from_below_and_from_the_own_module_pass() {
    for sample in [
        "use crate::correlate::bins::Labels;\nuse crate::dataset::{Source, error::DatasetError};",
        "use super::Request;\nmod tests { use super::*; use super::super::Engine; }",
        "// use crate::cli::Args;\nconst TEXT: &str = \"crate::cli::Args\";\n/* crate::cli */",
    ] {
        assert_eq!(said("src/engine/cpu.rs", sample), "");
    }
}

#[test]
fn a_port_does_not_import_its_peer_in_the_other_direction() {
    assert!(said("src/dataset/mod.rs", "use crate::engine::Request;").contains("must not import engine"));
    assert!(said("src/dataset/mod.rs", "use super::engine::Request;").contains("must not import engine"));
    assert!(said("src/worker/mod.rs", "use crate::cli::Args;").contains("must not import cli"));
}

#[test]
fn a_module_without_a_layer_is_found() {
    assert!(said("src/helpers.rs", "fn f() {}").contains("module helpers has no layer"));
}

#[test]
fn a_crate_outside_its_home_is_found() {
    assert!(said("src/worker/mod.rs", "use hdf5::File;").contains("crate hdf5 lives in src/dataset alone"));
    assert!(said("src/worker/mod.rs", "fn f() { hdf5_sys::h5::H5open(); }").contains("crate hdf5_sys"));
    assert!(said("src/engine/mod.rs", "use libloading::Library;").contains("src/engine/cuda alone"));
    assert!(said("src/worker/mod.rs", "use clap::Parser;").contains("src/cli alone"));
    assert_eq!(said("src/dataset/hdf5/mod.rs", "use hdf5::File;"), "");
}

#[test]
fn io_and_clocks_in_the_pure_layer_are_found() {
    for sample in [
        "use std::fs::File;",
        "use std::{collections::HashMap, fs};",
        "use std::time::{Duration, Instant};",
        "fn f() { std::thread::spawn(g); }",
        "use tokio::task;",
    ] {
        let found = said("src/simulate/mod.rs", sample);
        assert!(found.contains("the pure layer must not use"), "{sample}: {found}");
        assert!(!said("src/dataset/mod.rs", sample).contains("pure layer"));
    }
    assert_eq!(said("src/simulate/mod.rs", "use std::time::Duration;"), "");
}

#[test]
fn silenced_lints_are_found() {
    assert!(said("src/worker/mod.rs", "#[allow(dead_code)]\nfn f() {}").contains(":2: allow"));
    assert!(said("src/worker/mod.rs", "#![allow(unused)]").contains("allow"));
    assert!(said("src/worker/mod.rs", "#[cfg_attr(test, allow(unused))]").contains("allow"));
    assert!(said("src/worker/mod.rs", "#[expect(dead_code)]\nfn f() {}").contains("without a reason"));
    assert_eq!(
        said("src/worker/mod.rs", "#[expect(dead_code, reason = \"used by C\")]\nfn f() { x.expect(\"y\") }"),
        ""
    );
}

#[test]
fn tests_that_do_not_run_or_sleep_are_found() {
    assert!(said("tests/x.rs", "#[test]\n#[ignore]\nfn f() {}").contains("never runs"));
    assert!(said("tests/x.rs", "#[ignore = \"slow\"]").contains("never runs"));
    assert!(said("tests/x.rs", "use std::thread;\nfn f() { thread::sleep(d); }").contains(":3: sleeping"));
    assert!(said("tests/x.rs", "async fn f() { tokio::time::sleep(d).await; }").contains("sleeping"));
    assert!(said("src/worker/mod.rs", "fn f() { std::thread::sleep(d); }").contains("sleeping"));
}

#[test]
fn unfinished_code_is_found() {
    assert!(said("src/worker/mod.rs", "fn f() { todo!() }").contains("unfinished"));
    assert!(said("src/worker/mod.rs", "fn f() { unimplemented!(\"later\") }").contains("unfinished"));
}

#[test]
fn a_file_without_its_purpose_or_too_long_is_found() {
    assert!(check("src/worker/mod.rs", "fn f() {}\n\n").join("").contains("opens with //!"));
    assert!(said("src/worker/mod.rs", &"fn f() {}\n".repeat(MAX_LINES)).contains("split it"));
}

#[test]
fn literals_do_not_confuse_the_reader() {
    let sample = r##"fn f<'a>(x: &'a str) { g('"', '\'', b'"', "\"", r#"a " b"#); /* /* */ " */ hdf5::open(); }"##;
    assert!(said("src/worker/mod.rs", sample).contains("crate hdf5 "));
}
