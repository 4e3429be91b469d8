//! Inputs that lead to files which a task may not read: every reference that HDF5 knows, and links of the file system. Each
//! is refused, by an executor that Landlock confines and by the same work without it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hdf5::{File, Group};
use speckled::config::roots::{NodeRoots, RawRoots};
use speckled::dataset::Opener;
use speckled::dataset::result::OwnNaming;
use speckled::engine::Unobserved;
use speckled::ids::{AttemptId, AttemptNumber};
use speckled::runtime::ids;
use speckled::task::correlate::CorrelateSpec;
use speckled::task::failure::Fault;
use speckled::task::life::Outcome;
use speckled::worker::assignment::{Assignment, Computation};
use speckled::worker::execute::execute;
use tempfile::TempDir;

use crate::common::{LONG, Site, correlation, simulated, slot};

/// What no result may hold.
const SECRET: &[u8] = b"speckled-secret-token";

/// Where frames are.
const FRAMES: &str = "/entry/data/data";

/// Frames and sides of the images.
const SHAPE: [usize; 3] = [8, 64, 64];

/// Data that may be read, a directory for results, and one that is closed.
struct World {
    dir: TempDir,
    spec: CorrelateSpec,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["data", "out", "secret"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        let spec = simulated(&dir.path().join("data"), 8);
        let spec = CorrelateSpec { output: dir.path().join("out"), ..spec };
        let world = Self { dir, spec };
        fs::copy(&world.spec.raw, world.at("secret/frames.h5")).expect("copied");
        fs::copy(&world.spec.qmap, world.at("secret/qmap.hdf")).expect("copied");
        fs::write(world.at("secret/bytes"), SECRET.repeat(64 * 64)).expect("written");
        symlink(world.at("secret"), world.at("data/way")).expect("a link");
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn metadata(&self) -> PathBuf {
        let entries = fs::read_dir(self.at("data")).expect("lists").map(|entry| entry.expect("an entry").path());
        entries.into_iter().find(|path| path.to_string_lossy().ends_with("_metadata.hdf")).expect("is there")
    }

    fn roots(&self) -> NodeRoots {
        NodeRoots { raw: RawRoots { read: vec![self.at("data")], write: vec![self.at("out")] }, mounts: None }
    }

    /// Without Landlock, in this process.
    fn unconfined(&self) -> Outcome {
        let slot = slot();
        let assignment = Assignment {
            attempt: AttemptId { task: ids::task(), number: AttemptNumber::FIRST },
            work: Computation::Correlate(Box::new(self.spec.clone())),
            roots: self.roots(),
            threads: slot.threads,
            memory: slot.memory,
            gpu: None,
            earlier: None,
        };
        execute(&assignment, Opener::behind, &Unobserved, &OwnNaming).outcome
    }

    /// Nothing of the secret is in any file for results.
    fn is_clean(&self) -> bool {
        let mut waiting = vec![self.at("out")];
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(fs::read_dir(&path).expect("lists").map(|entry| entry.expect("an entry").path()));
            } else if fs::read(&path).expect("reads").windows(SECRET.len()).any(|bytes| bytes == SECRET) {
                return false;
            }
        }
        true
    }

    fn results(&self) -> usize {
        fs::read_dir(self.at("out")).expect("lists").count()
    }
}

/// How files name a secret one: beside, from the top, and through a link that lies in the data.
const WAYS: [&str; 3] = ["../secret", "TOP/secret", "way"];

/// What a reference is made of, in place of a dataset.
#[derive(Debug, Clone, Copy)]
enum Reference {
    Link,
    SoftThenLink,
    Storage,
    Virtual,
}

const REFERENCES: [Reference; 4] = [Reference::Link, Reference::SoftThenLink, Reference::Storage, Reference::Virtual];

impl Reference {
    /// Puts a reference to a file in the secret directory in the place of a dataset.
    fn replace(self, group: &Group, name: &str, shape: &[usize], way: &str, file: &str, object: &str) {
        if group.link_exists(name) {
            group.unlink(name).expect("unlinked");
        }
        let target = format!("{way}/{file}");
        match self {
            Self::Link => group.link_external(&target, object, name).expect("linked"),
            Self::SoftThenLink => {
                group.link_external(&target, object, "elsewhere").expect("linked");
                group.link_soft("elsewhere", name).expect("linked");
            }
            Self::Storage => {
                let bytes = shape.iter().product();
                let builder = group.new_dataset::<u8>().shape(shape).external(&format!("{way}/bytes"), 0, bytes);
                builder.create(name).expect("created");
            }
            Self::Virtual => {
                // of the type that the frames have
                let builder = group.new_dataset::<u16>().shape(shape);
                builder.virtual_map(&target, object, shape, .., shape, ..).create(name).expect("created");
            }
        }
    }
}

/// The input of a task that is spoilt.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spoilt {
    Raw,
    Eiger,
    Qmap,
    Metadata,
}

fn spoil(world: &mut World, spoilt: Spoilt, reference: Reference, way: &str) {
    let way = way.replace("TOP", &world.dir.path().to_string_lossy());
    match spoilt {
        Spoilt::Raw | Spoilt::Eiger => {
            let name = if spoilt == Spoilt::Raw { "data" } else { "data_000001" };
            let path = world.at("data/hostile.h5");
            let group = File::create(&path).expect("created").create_group("entry/data").expect("made");
            reference.replace(&group, name, &SHAPE, &way, "frames.h5", FRAMES);
            world.spec.raw = path;
            world.spec.metadata = Some(world.metadata());
        }
        Spoilt::Qmap => {
            let group = File::open_rw(&world.spec.qmap).expect("opened").group("qmap").expect("is there");
            reference.replace(&group, "dynamic_roi_map", &SHAPE[1..], &way, "qmap.hdf", "/qmap/dynamic_roi_map");
        }
        Spoilt::Metadata => {
            let group = File::open_rw(world.metadata()).expect("opened").group("entry").expect("is there");
            reference.replace(&group, "notes", &SHAPE[1..], &way, "qmap.hdf", "/qmap/dynamic_roi_map");
        }
    }
}

fn refused(outcome: &Outcome, case: &str) {
    let Outcome::Failed(failure) = outcome else { panic!("{case}: {outcome:?}") };
    let message = failure.message();
    assert_eq!(failure.fault, Fault::Input, "{case}: {message}");
    let words = ["lies outside", "external", "virtual", "another file"];
    assert!(words.iter().any(|word| message.contains(word)), "{case}: {message}");
}

#[tokio::test]
async fn no_reference_of_a_file_leads_out_of_the_roots() {
    let site = Site::new(LONG);
    for spoilt in [Spoilt::Raw, Spoilt::Eiger, Spoilt::Qmap, Spoilt::Metadata] {
        for (reference, way) in REFERENCES.into_iter().flat_map(|one| WAYS.map(|way| (one, way))) {
            let case = format!("{spoilt:?} {reference:?} {way}");
            let mut world = World::new();
            spoil(&mut world, spoilt, reference, way);
            refused(&world.unconfined(), &case);
            let finished = site.run_below(correlation(world.spec.clone()), world.roots()).await;
            refused(&finished.outcome, &case);
            assert!(world.is_clean() && world.results() == 0, "{case}");
        }
    }
}

/// Spoils the input of a task.
type Spoil<'s> = &'s dyn Fn(&mut World);

/// Groups, the files themselves, and siblings.
#[tokio::test]
async fn no_other_link_leads_out_of_the_roots() {
    let site = Site::new(LONG);
    let replaced = |path: &Path, target: &Path| {
        fs::remove_file(path).expect("removed");
        symlink(target, path).expect("a link");
    };
    let cases: [(&str, Spoil<'_>); 5] = [
        ("a linked group of a raw file", &|world| {
            let path = world.at("data/hostile.h5");
            File::create(&path)
                .expect("created")
                .link_external("../secret/frames.h5", "/entry", "entry")
                .expect("linked");
            (world.spec.raw, world.spec.metadata) = (path, Some(world.metadata()));
        }),
        ("a linked group of a qmap", &|world| {
            let file = File::create(&world.spec.qmap).expect("created");
            file.link_external("../secret/qmap.hdf", "/qmap", "qmap").expect("linked");
        }),
        ("a raw file that is a link", &|world| replaced(&world.spec.raw, &world.at("secret/frames.h5"))),
        ("a qmap that is a link", &|world| replaced(&world.spec.qmap, &world.at("secret/qmap.hdf"))),
        ("metadata that is a link", &|world| {
            fs::copy(world.metadata(), world.at("secret/metadata.hdf")).expect("copied");
            replaced(&world.metadata(), &world.at("secret/metadata.hdf"));
        }),
    ];
    for (case, spoil) in cases {
        let mut world = World::new();
        spoil(&mut world);
        refused(&world.unconfined(), case);
        let finished = site.run_below(correlation(world.spec.clone()), world.roots()).await;
        refused(&finished.outcome, case);
        assert!(world.is_clean() && world.results() == 0, "{case}");
    }
}

/// What lies below the roots is read, however it is referred to.
#[tokio::test]
async fn references_below_the_roots_are_followed() {
    let site = Site::new(LONG);
    for reference in [Reference::Link, Reference::SoftThenLink, Reference::Virtual] {
        let mut world = World::new();
        fs::create_dir(world.at("data/more")).expect("made");
        fs::rename(world.at("secret/frames.h5"), world.at("data/more/frames.h5")).expect("moved");
        spoil(&mut world, Spoilt::Raw, reference, "more");
        assert_eq!(world.unconfined(), Outcome::Succeeded, "{reference:?}");
        let finished = site.run_below(correlation(world.spec.clone()), world.roots()).await;
        assert_eq!(finished.outcome, Outcome::Succeeded, "{reference:?}: {finished:?}");
    }
}
