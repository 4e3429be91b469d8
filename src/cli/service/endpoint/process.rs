//! How an endpoint's process is, by its true name: it answers, hangs, runs elsewhere, or is not there. Looks at its
//! directory, its lock, its socket and the system's word for it; changes nothing.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::StateDirArgs;
use crate::cli::exit::Exit;
use crate::dataset::result::host_name;
use crate::endpoint::journal;
use crate::endpoint::state_dir::StateDir;
use crate::endpoint::status::EndpointStatus;
use crate::rpc::endpoint_link::EndpointControl;
use crate::runtime::process::{Activity, activity};

/// Until a process that does not answer is said to hang: one that is busy answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// An endpoint's process that does not answer.
#[derive(Debug, Error)]
pub(in crate::cli) enum NoProcess {
    /// There is no such endpoint.
    #[error("there is no endpoint {}: {} is missing; `speckled endpoint configure {at}` makes it", at.name, path.display())]
    NotConfigured { at: StateDirArgs, path: PathBuf },
    /// Its directory is somebody else's.
    #[error("you may not look into {}, which belongs to user {owner}; run this as that user", path.display())]
    Forbidden { path: PathBuf, owner: String },
    /// Its directory cannot be looked at.
    #[error("cannot look at {}", path.display())]
    Unseen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Nobody holds its lock.
    #[error("endpoint {} does not run on this computer; `speckled endpoint start {at}` starts it", at.name)]
    Dead { at: StateDirArgs },
    /// It runs on another computer.
    #[error("endpoint {} runs elsewhere, as process {holder}; ask there", at.name)]
    Elsewhere { at: StateDirArgs, holder: String },
    /// A signal stopped it.
    #[error(
        "endpoint {} (process {pid}) was stopped by a signal; `kill -CONT {pid}` lets it go on, `kill -9 {pid}` ends it \
         and loses nothing",
        at.name
    )]
    Stopped { at: StateDirArgs, pid: u32 },
    /// It waits for a disk or the like.
    #[error("endpoint {} (process {pid}) waits in the kernel, most often for a file system that does not answer", at.name)]
    Waits { at: StateDirArgs, pid: u32 },
    /// It runs and says nothing.
    #[error(
        "endpoint {} (process {pid}) has not answered for {} s; see `speckled endpoint logs {at}`, `kill -9 {pid}` \
         ends it and loses nothing",
        at.name,
        PATIENCE.as_secs()
    )]
    Silent { at: StateDirArgs, pid: u32 },
}

impl NoProcess {
    /// Its state in one word.
    pub(super) fn state(&self) -> &'static str {
        match self {
            Self::NotConfigured { .. } => "not_configured",
            Self::Forbidden { .. } => "forbidden",
            Self::Unseen { .. } => "unseen",
            Self::Dead { .. } => "dead",
            Self::Elsewhere { .. } => "elsewhere",
            Self::Stopped { .. } => "stopped",
            Self::Waits { .. } => "waits",
            Self::Silent { .. } => "silent",
        }
    }

    /// The exit code.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::NotConfigured { .. } => Exit::Configuration,
            Self::Forbidden { .. } => Exit::Refused,
            Self::Unseen { .. } => Exit::Saving,
            Self::Dead { .. }
            | Self::Elsewhere { .. }
            | Self::Stopped { .. }
            | Self::Waits { .. }
            | Self::Silent { .. } => Exit::Unavailable,
        }
    }
}

/// Asks an endpoint's process how it is; returns it for further questions.
pub(super) async fn look(
    args: &StateDirArgs,
    state_dir: &StateDir,
) -> Result<(EndpointControl, EndpointStatus), NoProcess> {
    let at = || args.clone();
    let holder = holder(args, state_dir)?;
    let Some(holder) = holder else { return Err(NoProcess::Dead { at: at() }) };
    let asked = async {
        let mut control = EndpointControl::connect(&state_dir.socket().ok()?).await.ok()?;
        let status = control.status().await.ok()?;
        Some((control, status))
    };
    if let Ok(Some(answer)) = tokio::time::timeout(PATIENCE, asked).await {
        return Ok(answer);
    }
    let here = holder.split_once(" on ").filter(|(_, host)| *host == host_name());
    let Some(pid) = here.and_then(|(pid, _)| pid.parse().ok()) else {
        return Err(NoProcess::Elsewhere { at: at(), holder });
    };
    Err(match activity(pid) {
        Some(Activity::Stopped) => NoProcess::Stopped { at: at(), pid },
        Some(Activity::Waits) => NoProcess::Waits { at: at(), pid },
        Some(Activity::Lives) => NoProcess::Silent { at: at(), pid },
        // it has ended since
        None => NoProcess::Dead { at: at() },
    })
}

/// The process that has the endpoint's lock.
pub(super) fn holder(args: &StateDirArgs, state_dir: &StateDir) -> Result<Option<String>, NoProcess> {
    let directory = state_dir.directory();
    let of = |path: &Path, source: io::Error| {
        let path = path.to_owned();
        if source.kind() == ErrorKind::NotFound {
            NoProcess::NotConfigured { at: args.clone(), path }
        } else if source.kind() == ErrorKind::PermissionDenied {
            NoProcess::Forbidden { path: directory.to_owned(), owner: owner(directory) }
        } else {
            NoProcess::Unseen { path, source }
        }
    };
    let config = directory.join("config.yaml");
    fs::metadata(&config).map_err(|error| of(&config, error))?;
    journal::held_by(directory).map_err(|error| of(directory, error))
}

/// Whose a directory is, as far as that can be seen.
fn owner(directory: &Path) -> String {
    let seen = directory.ancestors().find_map(|path| fs::metadata(path).ok());
    seen.map_or_else(|| "unknown".to_owned(), |found| found.uid().to_string())
}
