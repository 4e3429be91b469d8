//! Holds the paths of a task's work against the roots of its endpoint, on the computer that will open them. Blocks on
//! the file system; opens nothing.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::assignment::{Computation, Work};
use crate::config::endpoint::Site;
use crate::config::roots::{RawRoots, RootError, Roots};
use crate::dataset::{DatasetError, metadata};
use crate::task::correlate::CorrelateSpec;
use crate::task::failure::Fault;
use crate::task::spec::{CommandSpec, TaskSpec};
use crate::task::template::{Access, RenderError, Template, Templates};

/// Work that may not be done here.
#[derive(Debug, Error)]
pub enum PathError {
    /// The endpoint's roots are not there: nobody can work on this computer.
    #[error("the endpoint's roots cannot be used on this computer")]
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
    /// The metadata that goes with the raw data is looked for, and cannot be found.
    #[error("finding the metadata failed")]
    Metadata(#[source] DatasetError),
    /// The command's values do not fit it.
    #[error(transparent)]
    Render(#[from] RenderError),
}

impl PathError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Roots(_) => Fault::Program,
            Self::Path { source: RootError::Look { source, .. }, .. } => crate::compute::fault::of_system(source),
            Self::Path { .. } | Self::Metadata(_) | Self::Render(_) => Fault::Input,
        }
    }
}

/// The work of a task at an endpoint: a command has its paths resolved; a computation's are looked at by its executor.
///
/// # Errors
/// See [`PathError`].
pub fn work_of(spec: TaskSpec, site: &Site, templates: &Templates) -> Result<Work, PathError> {
    let spec = match spec {
        TaskSpec::Command(spec) => TaskSpec::Command(command(spec, site, templates)?),
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

/// Whether a computation's paths may be used.
///
/// # Errors
/// See [`PathError`].
pub fn allowed(work: &Computation, roots: &RawRoots) -> Result<(), PathError> {
    match work {
        Computation::SelfTest | Computation::Nothing => Ok(()),
        Computation::BatchSetup(spec) => {
            let roots = Roots::new(roots).map_err(PathError::Roots)?;
            spec.directories.iter().try_for_each(|directory| check(&roots, "directory", directory, Access::Write))
        }
        Computation::Correlate(spec) => {
            let roots = Roots::new(roots).map_err(PathError::Roots)?;
            check(&roots, "raw data", &spec.raw, Access::Read)?;
            check(&roots, "qmap", &spec.qmap, Access::Read)?;
            check(&roots, "output", &spec.output, Access::Write)?;
            match &spec.metadata {
                Some(metadata) => check(&roots, "metadata", metadata, Access::Read),
                None => found_metadata(&roots, spec),
            }
        }
    }
}

fn command(spec: CommandSpec, site: &Site, templates: &Templates) -> Result<CommandSpec, PathError> {
    let Some(template) = with_paths(&spec, templates) else { return Ok(spec) };
    let roots = Roots::new(&site.roots).map_err(PathError::Roots)?;
    let mut values = spec.values.clone();
    for (name, access) in template.paths() {
        // a value that is missing is the rendering's to complain about
        let Some(value) = values.get_mut(name) else { continue };
        let what = || format!("command {}: value {name}", spec.template);
        let path = roots
            .check(Path::new(value.as_str()), *access)
            .map_err(|source| PathError::Path { what: what(), source })?;
        // from text, through links whose targets may be none
        *value = path.as_path().to_string_lossy().into_owned();
    }
    Ok(CommandSpec { values, ..spec })
}

/// A command's template, if it has paths.
fn with_paths<'t>(spec: &CommandSpec, templates: &'t Templates) -> Option<&'t Template> {
    templates.get(&spec.template).filter(|template| !template.paths().is_empty())
}

fn check(roots: &Roots, what: &str, path: &Path, access: Access) -> Result<(), PathError> {
    roots.check(path, access).map(|_| ()).map_err(|source| PathError::Path { what: what.to_owned(), source })
}

/// Metadata that is found beside the raw data may be a link: it is looked for here only where a link leads outside.
fn found_metadata(roots: &Roots, spec: &CorrelateSpec) -> Result<(), PathError> {
    let directory = spec.raw.parent().unwrap_or(Path::new("/"));
    let links = std::fs::read_dir(directory).map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()));
    // a directory that cannot be listed fails when the metadata is looked for
    let Ok(mut links) = links else { return Ok(()) };
    let leads_outside = |path: &PathBuf| path.is_symlink() && roots.check(path, Access::Read).is_err();
    if !links.any(|path| leads_outside(&path)) {
        return Ok(());
    }
    let found = metadata::find(&spec.raw, None).map_err(PathError::Metadata)?;
    check(roots, "metadata", &found.path, Access::Read)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::task::failure::chain;
    use crate::task::spec::BatchSetupSpec;
    use crate::task::template::RawTemplate;

    struct Place {
        dir: tempfile::TempDir,
        roots: RawRoots,
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
            let roots = RawRoots { read: vec![at("data")], write: vec![at("out")] };
            Self { dir, roots }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn refused(&self, work: Computation) -> String {
            let error = allowed(&work, &self.roots).expect_err("refused");
            assert_eq!(error.fault(), Fault::Input);
            chain(&error)
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
            Computation::Correlate(Box::new(spec))
        };
        allowed(&with(&|_| {}), &place.roots).expect("allowed");
        for (change, words) in [
            (&(|spec: &mut CorrelateSpec| spec.raw = place.at("data/way/raw.hdf")) as &dyn Fn(&mut _), "raw data: "),
            (&|spec: &mut CorrelateSpec| spec.qmap = place.at("data/../secret/q.hdf"), "qmap: "),
            (&|spec: &mut CorrelateSpec| spec.output = place.at("data"), "output: "),
            (&|spec: &mut CorrelateSpec| spec.metadata = Some("/etc/passwd".into()), "metadata: "),
        ] {
            let error = place.refused(with(change));
            assert!(error.starts_with(words) && error.contains("lies outside"), "{error}");
        }
        let setup = |directory| Computation::BatchSetup(BatchSetupSpec { directories: vec![directory] });
        assert!(place.refused(setup(place.at("data/new"))).starts_with("directory: "));
        allowed(&setup(place.at("out/a/b")), &place.roots).expect("allowed");
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
        let site = Site { roots: place.roots.clone(), commands: [("plot".parse().expect("a name"), raw)].into() };
        let templates = site.templates().expect("templates");
        let text = |path: PathBuf| path.to_str().expect("text").to_owned();
        let work = |file: PathBuf| {
            let values = [("file".to_owned(), text(file)), ("title".to_owned(), "/etc/passwd".to_owned())].into();
            let spec = CommandSpec { template: "plot".parse().expect("a name"), values, time_limit: None };
            work_of(TaskSpec::Command(spec), &site, &templates)
        };
        let Work::Command(command) = work(place.at("data/./x")).expect("allowed") else { panic!("no command") };
        let resolved = text(place.at("data").canonicalize().expect("exists").join("x"));
        assert_eq!(command.arguments, [resolved, "/etc/passwd".to_owned()]);
        let error = chain(&work(place.at("data/way/raw.hdf")).expect_err("refused"));
        assert!(error.starts_with("command plot: value file: ") && error.contains("lies outside"), "{error}");
    }
}
