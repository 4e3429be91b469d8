//! Readers that answer as they should, that die in every way, and that say whatever they like.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::dataset::hdf5::open_frames;
use crate::dataset::opener::ReadGate;
use crate::dataset::qmap::Qmap;
use crate::dataset::reader::serve::answer;
use crate::dataset::reader::{LibraryPlace, no_nodes};
use crate::dataset::tree::{Node, PlainArray, PlainValues, TreeKind};
use crate::dataset::{Opener, Scratch, metadata};

/// Longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(60);

const LIMITS: ReaderLimits = ReaderLimits { computing: LONG, wall: LONG };

fn asking(apart: Apart) -> Opener {
    Opener::anywhere().reading_at(LibraryPlace::Apart(Arc::new(apart)))
}

/// One that a shell plays.
fn played(script: &str, limits: ReaderLimits) -> Opener {
    asking(Apart::of("/bin/sh", &["-c", script], limits))
}

/// A process that lives and says nothing itself.
fn silent() -> Child {
    Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts")
}

fn over(socket: UnixStream) -> Apart {
    let running = Mutex::new(Some(Running { process: silent(), socket }));
    Apart { running, ..Apart::of("/no/such/program", &[], LIMITS) }
}

/// A reader that says these bytes to whatever it is asked, and ends; its socket, which takes what it is told.
fn saying(bytes: &[u8]) -> (Opener, UnixStream) {
    let (socket, mut its) = UnixStream::pair().expect("sockets");
    its.set_write_timeout(Some(LONG)).expect("set");
    its.write_all(bytes).expect("there is room");
    its.shutdown(Shutdown::Write).expect("shut");
    (asking(over(socket)), its)
}

/// A reader as it should be, without its limits, on a thread.
fn honest(opener: Opener) -> Opener {
    let (socket, its) = UnixStream::pair().expect("sockets");
    std::thread::spawn(move || answer(&its, |_| Ok(())));
    opener.reading_at(LibraryPlace::Apart(Arc::new(over(socket))))
}

fn message(message: &FromReader) -> Vec<u8> {
    let (one, mut other) = UnixStream::pair().expect("sockets");
    wire::send(&one, message).expect("sent");
    drop(one);
    let mut bytes = Vec::new();
    other.read_to_end(&mut bytes).expect("read");
    bytes
}

fn done(told: Told) -> Vec<u8> {
    message(&FromReader::Done(Box::new(Ok(told))))
}

fn told(question: &Question) -> Told {
    let opener = Opener::anywhere();
    question.read(&Files::new(&opener), &mut no_nodes).expect("reads")
}

/// A file of frames.
fn frames() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.h5");
    let file = hdf5::File::create(&path).expect("created");
    let group = file.create_group("entry/data").expect("created");
    let values: Vec<u16> = (0..4 * 6 * 5).collect();
    let dataset = group.new_dataset::<u16>().chunk([1, 6, 5]).deflate(1).shape([4, 6, 5]).create("data");
    dataset.and_then(|dataset| dataset.write_raw(&values)).expect("written");
    drop(group);
    file.close().expect("closed");
    (dir, path)
}

/// Reads what a source offers, if it offers little.
fn all_frames(opener: &Opener, path: &Path) -> Result<Vec<u8>, DatasetError> {
    const LITTLE: usize = 1 << 20;
    let source = open_frames(opener, path)?;
    let (bytes, frames) = (source.info().shape.pixels() * source.pixel_type().size(), source.info().frames);
    let mut all = Vec::new();
    for frame in 0..if bytes > LITTLE { 0 } else { frames.min(20) } {
        let mut out = vec![0; bytes];
        source.may_have_counts(frame);
        source.read_frames(frame..frame + 1, &mut Scratch::default(), &mut out)?;
        all.extend(out);
    }
    Ok(all)
}

fn words(error: &DatasetError) -> String {
    use std::error::Error;
    format!("{error}|{}", error.source().map(ToString::to_string).unwrap_or_default())
}

/// Admits nothing.
#[derive(Debug)]
struct Closed;

impl ReadGate for Closed {
    fn admits(&self, _: &Path) -> bool {
        false
    }

    fn admits_name(&self, _: &Path) -> bool {
        false
    }
}

#[test]
fn apart_reads_as_here() {
    let (dir, path) = frames();
    let apart = honest(Opener::anywhere());
    let here = all_frames(&Opener::anywhere(), &path).expect("reads");
    assert_eq!(all_frames(&apart, &path).expect("reads"), here);
    assert_eq!(here.len(), 4 * 6 * 5 * 2);
    let linked = dir.path().join("linked.h5");
    let file = hdf5::File::create(&linked).expect("created");
    file.create_group("entry/data")
        .expect("created")
        .link_external("a.h5", "/entry/data/data", "data")
        .expect("linked");
    file.close().expect("closed");
    assert_eq!(all_frames(&apart, &linked).expect("reads"), here);
}

#[test]
fn apart_refuses_as_here() {
    let (dir, path) = frames();
    let gone = dir.path().join("gone.h5");
    let damaged = dir.path().join("damaged.h5");
    let bytes = std::fs::read(&path).expect("read");
    std::fs::write(&damaged, &bytes[..bytes.len() / 2]).expect("written");
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"odd\xff.h5"));
    std::fs::write(&odd, "text").expect("written");
    let apart = honest(Opener::anywhere());
    for path in [gone.as_path(), &damaged, &odd, dir.path()] {
        let [one, other] = [&Opener::anywhere(), &apart].map(|opener| {
            let frames = words(&all_frames(opener, path).expect_err("refused"));
            let qmap = words(&Qmap::read(opener, path).expect_err("refused"));
            let metadata = metadata::Metadata::read(opener, path).expect_err("refused");
            let words = words(&metadata);
            let system = if let DatasetError::Io { source, .. } = metadata { Some(source) } else { None };
            (frames, qmap, words, system.map(|error| (error.kind(), error.raw_os_error())))
        });
        assert_eq!(one, other, "{}", path.display());
    }
    for opener in [Opener::behind(Closed), honest(Opener::behind(Closed))] {
        let refused = open_frames(&opener, &path).err().expect("refused");
        assert!(matches!(refused, DatasetError::Outside { .. }), "{refused}");
    }
}

#[test]
fn nodes_come_as_they_are() {
    let (_dir, path) = frames();
    let file = hdf5::File::open_rw(&path).expect("opened");
    let group = file.create_group("xpcs/old").expect("created");
    group.new_dataset::<f64>().create("left").expect("created");
    let entry = file.group("entry").expect("is there");
    entry.new_attr::<f32>().shape([2]).create("list").and_then(|a| a.write_raw(&[1.0_f32, 2.0])).expect("written");
    entry.new_dataset::<i64>().shape(hdf5::Extents::Null).create("none").expect("created");
    entry.link_soft("/entry/data", "soft").expect("linked");
    entry.link_hard("/entry/data/data", "/entry/same").expect("linked");
    entry.new_dataset::<[u8; 3]>().create("odd").expect("created");
    drop((group, entry));
    file.close().expect("closed");
    let question = Question::Tree(TreeKind::Metadata, path);
    let [here, apart] = [Opener::anywhere(), honest(Opener::anywhere())].map(|opener| {
        let mut nodes = Vec::new();
        let mut put = |node| {
            nodes.push(node);
            Ok(())
        };
        super::super::ask(&opener, &question, &mut put, |_, _| Ok(())).expect("reads");
        nodes
    });
    assert_eq!(here, apart);
    let name = |node: &Node| match node {
        Node::Group { name, .. } => format!("group {name}"),
        Node::Dataset { name, array, .. } => format!("dataset {name} {:?}", array.shape),
        Node::SoftLink { name, target } => format!("soft {name} {target}"),
        Node::HardLink { name, target } => format!("hard {name} {target}"),
        Node::LeftOut { name, what } => format!("left {name}: {what}"),
    };
    let names: Vec<_> = here.iter().map(name).collect();
    let wanted = [
        "group ",
        "group /entry",
        "left /xpcs: an earlier result in it, /xpcs, was left out",
        "group /entry/data",
        "dataset /entry/none None",
        "left /entry/odd: /entry/odd is not to be read as numbers or text and was left out",
        "dataset /entry/same Some([4, 6, 5])",
        "soft /entry/soft /entry/data",
        "hard /entry/data/data /entry/same",
    ];
    assert_eq!(names, wanted);
}

/// How a reader ends decides whose fault that is, and what is said.
#[test]
fn every_end_is_told_apart() {
    let (_dir, path) = frames();
    let end = |script: &str| open_frames(&played(script, LIMITS), &path).err().expect("no frames");
    for (script, end_of) in [
        ("kill -SEGV $$", ReaderEnd::Signal(libc::SIGSEGV)),
        ("kill -ABRT $$", ReaderEnd::Signal(libc::SIGABRT)),
        ("kill -XCPU $$", ReaderEnd::Computing(LONG)),
        ("exit 3", ReaderEnd::Code(3)),
        ("head -c 100 /dev/zero >&0", ReaderEnd::Answer("it has another form")),
        ("yes >&0", ReaderEnd::Answer("it has another form")),
    ] {
        let error = end(script);
        let DatasetError::Damaged { path: named, end } = error else { panic!("{script}: {error:?}") };
        assert_eq!((named, end), (path.clone(), end_of), "{script}");
    }
    let line = end("kill -SEGV $$").to_string();
    assert!(
        line.ends_with(
            "a.h5: the HDF5 library died by signal 11 (SIGSEGV) while it read it; the file is damaged; copy it again"
        ),
        "{line}"
    );
    let line = end("kill -XCPU $$").to_string();
    assert!(line.contains("has not come to its end in 60 s of computing; the file is damaged"), "{line}");
}

/// Neither a kill from outside, nor a file system that stands still, nor a program that is not there is the file's fault.
#[test]
fn what_is_not_the_files_fault_is_not_told_as_one() {
    let (_dir, path) = frames();
    let soon = ReaderLimits { wall: Duration::from_millis(100), ..LIMITS };
    let begun = Instant::now();
    for opener in [
        played("kill -KILL $$", LIMITS),
        played("exec sleep 1000", soon),
        // it talks, and never comes to an answer
        played("trap '' PIPE; exec cat <&0 >/dev/null", soon),
        asking(Apart::of("/no/such/program", &[], LIMITS)),
    ] {
        let error = open_frames(&opener, &path).err().expect("no frames");
        assert!(matches!(error, DatasetError::Reader { .. }), "{error:?}");
    }
    assert!(begun.elapsed() < LONG);
}

#[test]
fn a_reader_that_has_gone_is_followed_by_another() {
    let (_dir, path) = frames();
    let (socket, _its) = UnixStream::pair().expect("sockets");
    let mut process = silent();
    process.kill().and_then(|()| process.wait()).expect("ended");
    let next = Apart::of("/bin/sh", &["-c", "exit 7"], LIMITS);
    let opener = asking(Apart { running: Mutex::new(Some(Running { process, socket })), ..next });
    for _ in 0..2 {
        let error = open_frames(&opener, &path).err().expect("no frames");
        assert!(matches!(error, DatasetError::Damaged { end: ReaderEnd::Code(7), .. }), "{error:?}");
    }
}

#[test]
fn files_that_were_not_opened_and_answers_to_other_questions_are_refused() {
    let (_dir, path) = frames();
    let answer = || told(&Question::Frames(path.clone()));
    let open = message(&FromReader::Open(path.clone()));
    let (opener, _its) = saying(&[open.clone(), done(answer())].concat());
    assert!(open_frames(&opener, &path).is_ok());
    for bytes in [done(answer()), [open, done(Told::Tree)].concat()] {
        let (opener, _its) = saying(&bytes);
        let error = open_frames(&opener, &path).err().expect("refused");
        assert!(matches!(error, DatasetError::Damaged { end: ReaderEnd::Answer(_), .. }), "{error:?}");
    }
    let array = PlainArray { shape: Some(vec![usize::MAX, 2]), values: PlainValues::Texts(vec![String::new(); 4]) };
    let node = Node::Dataset { name: "/a".into(), chunk: None, array, attributes: Vec::new() };
    let (opener, _its) = saying(&message(&FromReader::Part(node)));
    let question = Question::Tree(TreeKind::Metadata, path);
    let mut put = |_| panic!("it has no shape");
    let error = super::super::ask(&opener, &question, &mut put, |_, _| Ok(())).expect_err("refused");
    assert!(matches!(error, DatasetError::Damaged { end: ReaderEnd::Answer(_), .. }), "{error:?}");
}

/// Numbers of the answer that are changed in ways that reading would fall over.
#[test]
fn an_answer_is_held_against_the_file() {
    let (_dir, path) = frames();
    let length = std::fs::metadata(&path).expect("is there").len();
    let bytes = done(told(&Question::Frames(path.clone())));
    let open = message(&FromReader::Open(path.clone()));
    // the first chunk's address, in its place
    let file = hdf5::File::open(&path).expect("opens");
    let mut address = 0;
    let dataset = file.dataset("/entry/data/data").expect("is there");
    dataset.chunks_visit(|chunk| (address = chunk.addr, 1).1).expect("visits");
    let place = bytes.windows(8).position(|window| window == address.to_le_bytes()).expect("is told");
    for far in [length, u64::MAX, u64::MAX - 3] {
        let mut bytes = bytes.clone();
        bytes[place..place + 8].copy_from_slice(&far.to_le_bytes());
        let (opener, _its) = saying(&[open.clone(), bytes].concat());
        let error = open_frames(&opener, &path).err().expect("refused");
        let what = "a chunk is not where one can be";
        assert!(
            matches!(error, DatasetError::Damaged { end: ReaderEnd::Answer(told), .. } if told == what),
            "{error:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2000), short in any::<bool>()) {
        let (_dir, path) = frames();
        let mut bytes = bytes;
        if short && bytes.len() > 8 {
            // a length that is right, so that the rest is looked at
            let length = (bytes.len() - 8) as u64;
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        let (opener, _its) = saying(&bytes);
        prop_assert!(open_frames(&opener, &path).is_err());
    }

    #[test]
    fn a_changed_answer_reads_or_is_an_error(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (_dir, path) = frames();
        let mut bytes = done(told(&Question::Frames(path.clone())));
        for (place, value) in flips {
            // behind the length
            let body = &mut bytes[8..];
            *place.get_mut(body) = value;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        let (opener, _its) = saying(&[message(&FromReader::Open(path.clone())), bytes].concat());
        let _ = all_frames(&opener, &path);
    }
}
