//! What a task is to do: one variant a kind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::correlate::CorrelateSpec;
use super::names::TemplateName;
use super::template::Access;
use crate::ids::FunctionId;

/// What a task is to do. Paths are as they were asked for: an endpoint holds them against its roots before it uses
/// them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum TaskSpec {
    /// Correlates a dataset.
    Correlate(Box<CorrelateSpec>),
    /// Makes directories ready for a batch of datasets.
    BatchSetup(BatchSetupSpec),
    /// Runs a command that the endpoint's configuration has under a name.
    Command(CommandSpec),
    /// Does nothing: to measure and to test what happens around tasks.
    Nothing,
}

/// A kind of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// See [`TaskSpec::Correlate`].
    Correlate,
    /// See [`TaskSpec::BatchSetup`].
    BatchSetup,
    /// See [`TaskSpec::Command`].
    Command,
    /// See [`TaskSpec::Nothing`].
    Nothing,
}

/// Where a task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a slot of a worker.
    Slot,
    /// On the endpoint's own node: it computes nothing.
    Login,
}

/// A number for each place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByPlace<N> {
    /// Of tasks that run in slots of workers.
    pub slots: N,
    /// Of tasks that run on the endpoint's own node.
    pub login: N,
}

impl<N: Copy> ByPlace<N> {
    /// The number of a place.
    pub fn get(self, place: Place) -> N {
        match place {
            Place::Slot => self.slots,
            Place::Login => self.login,
        }
    }

    /// The number of a place, to be changed.
    pub fn at(&mut self, place: Place) -> &mut N {
        match place {
            Place::Slot => &mut self.slots,
            Place::Login => &mut self.login,
        }
    }
}

/// Directories that the datasets of a batch need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSetupSpec {
    /// Made with their parents; those that exist already are left alone.
    pub directories: Vec<PathBuf>,
}

/// A site's own command. There is no shell: the configuration has the argument list, the task its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// Its name in the endpoint's configuration.
    pub template: TemplateName,
    /// Values of the template's parameters, by name; each becomes one argument.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// The longest that it may take; None = the configuration's.
    #[serde(default)]
    pub time_limit: Option<Duration>,
}

impl TaskSpec {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Correlate(_) => Kind::Correlate,
            Self::BatchSetup(_) => Kind::BatchSetup,
            Self::Command(_) => Kind::Command,
            Self::Nothing => Kind::Nothing,
        }
    }
}

/// What runs a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: there is nothing to be done.
    Nothing,
    /// A process of this program.
    Executor,
    /// A program of the site.
    SiteProgram,
}

/// A path of a task, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskPath<'a> {
    /// What it is, for people.
    pub what: &'static str,
    /// The path.
    pub path: &'a Path,
    /// What is done with it; a path that is written is a directory, and is made.
    pub access: Access,
}

impl TaskSpec {
    /// What it correlates, if it does.
    pub fn correlation(&self) -> Option<&CorrelateSpec> {
        match self {
            Self::Correlate(spec) => Some(spec),
            Self::BatchSetup(_) | Self::Command(_) | Self::Nothing => None,
        }
    }

    /// What runs it.
    pub fn needs(&self) -> Needs {
        match self {
            Self::Correlate(_) | Self::BatchSetup(_) => Needs::Executor,
            Self::Command(_) => Needs::SiteProgram,
            Self::Nothing => Needs::Nothing,
        }
    }

    /// Its paths. Those of a command are among its values: the site's configuration tells which.
    pub fn paths(&self) -> Vec<TaskPath<'_>> {
        match self {
            Self::Correlate(spec) => spec.paths(),
            Self::BatchSetup(spec) => spec.paths(),
            Self::Command(_) | Self::Nothing => Vec::new(),
        }
    }
}

impl BatchSetupSpec {
    /// Its directories.
    pub fn paths(&self) -> Vec<TaskPath<'_>> {
        let path = |directory| TaskPath { what: "directory", path: directory, access: Access::Write };
        self.directories.iter().map(PathBuf::as_path).map(path).collect()
    }
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Correlate, Self::BatchSetup, Self::Command, Self::Nothing];

    /// Its name in messages, stores and flows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Correlate => "correlate",
            Self::BatchSetup => "batch_setup",
            Self::Command => "command",
            Self::Nothing => "nothing",
        }
    }

    /// What flows call it.
    pub fn function(self) -> FunctionId {
        FunctionId::named(self.name())
    }

    /// Where it runs.
    pub fn place(self) -> Place {
        match self {
            Self::Correlate | Self::Command | Self::Nothing => Place::Slot,
            Self::BatchSetup => Place::Login,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_its_text_form() {
        let command = CommandSpec {
            template: "plot".parse().expect("a name"),
            values: [("file".to_owned(), "a b; rm -rf /".to_owned())].into(),
            time_limit: Some(Duration::from_secs(60)),
        };
        let setup = BatchSetupSpec { directories: vec!["/data/a".into()] };
        for spec in [TaskSpec::Command(command), TaskSpec::BatchSetup(setup), TaskSpec::Nothing] {
            let text = serde_json::to_string(&spec).expect("json");
            assert_eq!(serde_json::from_str::<TaskSpec>(&text).expect("a spec"), spec, "{text}");
            assert!(text.contains(&format!("\"kind\":\"{}\"", spec.kind().name())), "{text}");
        }
    }

    #[test]
    fn unknown_keys_and_kinds_are_refused() {
        for text in [
            r#"{"kind":"command","template":"plot","shell":"rm"}"#,
            r#"{"kind":"shell"}"#,
            r#"{"kind":"command","template":"../plot"}"#,
        ] {
            assert!(serde_json::from_str::<TaskSpec>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn kinds_have_ids_of_their_own() {
        let ids: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.function()).collect();
        assert_eq!(ids.len(), Kind::ALL.len());
    }
}
