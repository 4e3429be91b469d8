//! Holds the paths of a task's work against the roots of its endpoint, on the computer that will open them, and what they
//! lead to once it is open. Blocks on the file system; opens nothing.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::assignment::Work;
use crate::compute::fault;
pub use crate::config::roots::NodeRoots;
use crate::config::roots::{AllowedPath, RootError, Roots};
use crate::dataset::opener::ReadGate;
use crate::task::correlate::CorrelateSpec;
use crate::task::failure::{Failure, Fault, Lack, Loss, Unfit, chain};
use crate::task::life::Outcome;
use crate::task::spec::{BatchSetupSpec, CommandSpec, TaskPath, TaskSpec};
use crate::task::template::{Access, RenderError, Template, Templates};

/// Work that may not be done here.
#[derive(Debug, Error)]
pub enum PathError {
    /// The endpoint's roots cannot be used: nobody can work on this node.
    #[error("the endpoint's roots cannot be used on this node")]
    Roots(#[source] RootError),
    /// A path of the task.
    #[error("{what}")]
    Path {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: RootError,
    },
    /// A path of the task leads to one that cannot be told to others.
    #[error("{what} leads to {}, which is not UTF-8; rename it", path.display())]
    NotText {
        /// Which.
        what: String,
        /// Where it leads.
        path: PathBuf,
    },
    /// The command's values do not fit it.
    #[error(transparent)]
    Render(#[from] RenderError),
}

impl PathError {
    /// How it ends an attempt.
    pub fn outcome(&self) -> Outcome {
        let fault = match self {
            Self::Roots(_) | Self::Path { source: RootError::Absent { .. }, .. } => {
                return Outcome::Lost(Loss::Unfit(Unfit::new(Lack::Root, &chain(self))));
            }
            Self::Path { source: RootError::Look { source, .. } | RootError::Make { source, .. }, .. } => {
                fault::of_system(source)
            }
            Self::Path { .. } | Self::NotText { .. } | Self::Render(_) => Fault::Input,
        };
        Outcome::Failed(Failure::of(fault, self))
    }
}

/// Looks at the roots.
///
/// # Errors
/// [`PathError::Roots`].
pub fn opened(roots: &NodeRoots) -> Result<Roots, PathError> {
    roots.open().map_err(PathError::Roots)
}

impl ReadGate for Roots {
    fn admits(&self, place: &Path) -> bool {
        self.has(place)
    }

    fn admits_name(&self, name: &Path) -> bool {
        self.check(name, Access::Read).is_ok()
    }
}

/// The work of a task at an endpoint: a command has its paths resolved; a computation's are looked at by its executor.
///
/// # Errors
/// See [`PathError`].
pub fn work_of(spec: TaskSpec, roots: &NodeRoots, templates: &Templates) -> Result<Work, PathError> {
    let spec = match spec {
        TaskSpec::Command(spec) => TaskSpec::Command(command(spec, roots, templates)?),
        other @ (TaskSpec::Correlate(_) | TaskSpec::BatchSetup(_) | TaskSpec::Nothing) => other,
    };
    Ok(Work::of(spec, templates)?)
}

/// Whether [`work_of`] looks at the file system: for a command that has paths.
pub fn blocks(spec: &TaskSpec, templates: &Templates) -> bool {
    match spec {
        TaskSpec::Command(command) => with_paths(command, templates).is_some(),
        TaskSpec::Correlate(_) | TaskSpec::BatchSetup(_) | TaskSpec::Nothing => false,
    }
}

/// Holds a correlation's paths against the roots, and makes its output directory.
///
/// # Errors
/// See [`PathError`].
pub fn correlation_allowed(spec: &CorrelateSpec, roots: &Roots) -> Result<(), PathError> {
    // before anything is made
    make(roots, held(&spec.paths(), roots)?)
}

/// Makes directories, all of them allowed before the first is made.
///
/// # Errors
/// See [`PathError`].
pub fn make_directories(spec: &BatchSetupSpec, roots: &Roots) -> Result<(), PathError> {
    make(roots, held(&spec.paths(), roots)?)
}

/// Holds all paths against the roots; returns the directories that are to be written.
fn held(paths: &[TaskPath<'_>], roots: &Roots) -> Result<Vec<(&'static str, AllowedPath)>, PathError> {
    let mut written = Vec::new();
    for TaskPath { what, path, access } in paths {
        let allowed = check(roots, what, path, *access)?;
        text(what, allowed.as_path())?;
        match access {
            Access::Read => {}
            Access::Write => written.push((*what, allowed)),
        }
    }
    Ok(written)
}

fn make(roots: &Roots, directories: Vec<(&'static str, AllowedPath)>) -> Result<(), PathError> {
    directories.into_iter().try_for_each(|(what, directory)| {
        roots.make_directory(&directory).map_err(|source| PathError::Path { what: what.to_owned(), source })
    })
}

fn command(spec: CommandSpec, roots: &NodeRoots, templates: &Templates) -> Result<CommandSpec, PathError> {
    let Some(template) = with_paths(&spec, templates) else { return Ok(spec) };
    let roots = opened(roots)?;
    let mut values = spec.values.clone();
    for (name, access) in template.paths() {
        // a value that is missing is the rendering's to complain about
        let Some(value) = values.get_mut(name) else { continue };
        let what = || format!("command {}: value {name}", spec.template);
        let path = roots
            .check(Path::new(value.as_str()), *access)
            .map_err(|source| PathError::Path { what: what(), source })?;
        *value = text(&what(), path.as_path())?;
    }
    Ok(CommandSpec { values, ..spec })
}

/// What a path is, as text: it came from text, but links lead anywhere.
fn text(what: &str, path: &Path) -> Result<String, PathError> {
    let not_text = || PathError::NotText { what: what.to_owned(), path: path.to_owned() };
    path.to_str().map(str::to_owned).ok_or_else(not_text)
}

/// A command's template, if it has paths.
fn with_paths<'t>(spec: &CommandSpec, templates: &'t Templates) -> Option<&'t Template> {
    templates.get(&spec.template).filter(|template| !template.paths().is_empty())
}

fn check(roots: &Roots, what: &str, path: &Path, access: Access) -> Result<AllowedPath, PathError> {
    roots.check(path, access).map_err(|source| PathError::Path { what: what.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;
    use crate::config::endpoint::Site;
    use crate::config::roots::RawRoots;
    use crate::task::template::RawTemplate;

    struct Place {
        dir: tempfile::TempDir,
        roots: NodeRoots,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let at = |name: &str| dir.path().join(name);
            for name in ["data", "out", "secret"] {
                std::fs::create_dir(at(name)).expect("made");
            }
            std::fs::write(at("secret/raw.hdf"), "").expect("written");
            symlink(at("secret"), at("data/way")).expect("a link");
            let raw = RawRoots { read: vec![at("data")], write: vec![at("out")] };
            Self { dir, roots: NodeRoots { raw, mounts: None } }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn refused(&self, allowed: Result<(), PathError>) -> String {
            let error = allowed.expect_err("refused");
            assert!(matches!(error.outcome(), Outcome::Failed(Failure { fault: Fault::Input, .. })), "{error:?}");
            chain(&error)
        }

        fn opened(&self) -> Roots {
            opened(&self.roots).expect("are there")
        }
    }

    #[test]
    fn each_path_of_a_correlation_is_held_against_the_roots() {
        let place = Place::new();
        let spec = CorrelateSpec::new(place.at("data/raw.hdf"), place.at("data/q.hdf"), place.at("out/new"));
        let spec = CorrelateSpec { metadata: Some(place.at("data/meta.hdf")), ..spec };
        let with = |change: &dyn Fn(&mut CorrelateSpec)| {
            let mut spec = spec.clone();
            change(&mut spec);
            correlation_allowed(&spec, &place.opened())
        };
        with(&|_| {}).expect("allowed");
        assert!(place.at("out/new").is_dir(), "its output directory is made");
        for (change, words) in [
            (&(|spec: &mut CorrelateSpec| spec.raw = place.at("data/way/raw.hdf")) as &dyn Fn(&mut _), "raw data: "),
            (&|spec: &mut CorrelateSpec| spec.qmap = place.at("data/../secret/q.hdf"), "qmap: "),
            (&|spec: &mut CorrelateSpec| spec.output = place.at("data"), "output: "),
            (&|spec: &mut CorrelateSpec| spec.metadata = Some("/etc/passwd".into()), "metadata: "),
        ] {
            let error = place.refused(with(change));
            assert!(error.starts_with(words) && error.contains("lies outside"), "{error}");
        }
        let spec = |directories: &[PathBuf]| BatchSetupSpec { directories: directories.to_vec() };
        let setup = |directories: &[PathBuf]| make_directories(&spec(directories), &place.opened());
        assert!(place.refused(setup(&[place.at("out/first"), place.at("data/new")])).starts_with("directory: "));
        assert!(!place.at("out/first").exists(), "all or none");
        setup(&[place.at("out/a/b")]).expect("allowed");
        assert!(place.at("out/a/b").is_dir());
        std::fs::write(place.at("out/file"), "").expect("written");
        assert!(place.refused(setup(&[place.at("out/file")])).contains("out/file"));
    }

    #[test]
    fn a_root_that_is_gone_is_the_nodes_fault() {
        let place = Place::new();
        let roots = place.opened();
        std::fs::remove_dir_all(place.at("out")).expect("ours");
        let spec = CorrelateSpec::new(place.at("data/raw.hdf"), place.at("data/q.hdf"), place.at("out/new"));
        let spec = CorrelateSpec { metadata: Some(place.at("data/meta.hdf")), ..spec };
        for error in [
            correlation_allowed(&spec, &roots).expect_err("no root"),
            make_directories(&BatchSetupSpec { directories: vec![place.at("out/a")] }, &roots).expect_err("no root"),
            opened(&place.roots).expect_err("no root"),
        ] {
            let Outcome::Lost(Loss::Unfit(unfit)) = error.outcome() else { panic!("{error:?}") };
            assert_eq!(unfit.lack, Lack::Root);
            assert!(unfit.message().contains("is not there"), "{}", unfit.message());
        }
        assert!(!place.at("out").exists());
    }

    #[test]
    fn values_of_commands_that_are_paths_become_what_they_lead_to() {
        let place = Place::new();
        let raw = RawTemplate {
            program: "/usr/bin/plot".into(),
            arguments: vec!["{file}".into(), "{title}".into()],
            time_limit_s: 1,
            environment: BTreeMap::new(),
            allow_dash: false,
            paths: [("file".to_owned(), Access::Read)].into(),
        };
        let commands = [("plot".parse().expect("a name"), raw)].into();
        let site = Site { roots: place.roots.raw.clone(), commands };
        let templates = site.templates().expect("templates");
        let text = |path: PathBuf| path.to_str().expect("text").to_owned();
        let work = |file: PathBuf| {
            let values = [("file".to_owned(), text(file)), ("title".to_owned(), "/etc/passwd".to_owned())].into();
            let spec = CommandSpec { template: "plot".parse().expect("a name"), values, time_limit: None };
            work_of(TaskSpec::Command(spec), &place.roots, &templates)
        };
        let Work::Command(command) = work(place.at("data/./x")).expect("allowed") else { panic!("no command") };
        let resolved = text(place.at("data").canonicalize().expect("exists").join("x"));
        assert_eq!(command.arguments, [resolved, "/etc/passwd".to_owned()]);
        let error = chain(&work(place.at("data/way/raw.hdf")).expect_err("refused"));
        assert!(error.starts_with("command plot: value file: ") && error.contains("lies outside"), "{error}");
    }
}
