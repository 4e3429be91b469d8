//! `speckled endpoint start`: runs an endpoint, here or in the background.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;

use super::{StateDirArgs, StateDirFailure, process};
use crate::cli::exit::{Exit, Failure};
use crate::cli::logging;
use crate::cli::output::{self, Form};
use crate::cli::service::{ServiceError, file, single, until_signalled};
use crate::config::endpoint::EndpointConfig;
use crate::dataset::result::host_name;
use crate::endpoint::daemon::Endpoint;
use crate::endpoint::state_dir::StateDir;
use crate::rpc::controller_link::{ControllerDial, ControllerSource};
use crate::rpc::service::link::LinkListener;
use crate::rpc::service::workers::{listen, serve};
use crate::runtime::memory::give_back_what_is_free;
use crate::runtime::process::own_session;
use crate::runtime::tasks::Tasks;

/// Bytes of a log beyond which it is set aside when the endpoint starts.
const LARGE_LOG: u64 = 10 << 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct StartArgs {
    #[command(flatten)]
    state_dir: StateDirArgs,
    /// Run in the background: returns when the endpoint is ready, or says why it is not
    #[arg(long)]
    detach: bool,
}

/// Runs it.
pub(super) fn run(args: StartArgs) -> Result<Exit, Failure> {
    if args.detach {
        return detach(&args.state_dir);
    }
    logging::init_daemon(Form::Human);
    give_back_what_is_free();
    single(start(args.state_dir))
}

async fn start(args: StateDirArgs) -> Result<Exit, Failure> {
    let state_dir = args.state_dir()?;
    let config = EndpointConfig::read(state_dir.directory()).map_err(StateDirFailure::Config)?;
    let dial = ControllerDial { controller: ControllerSource::Files(config.controller.clone()) };
    // one that cannot even be asked is a mistake of the configuration
    dial.controller.target().map_err(ServiceError::Target)?;
    let socket = state_dir.socket().map_err(StateDirFailure::StateDir)?;
    let (name, configured, worker) = (config.name.clone(), config.worker_link.clone(), config.local);
    let endpoint = Endpoint::open(state_dir.clone(), config, host_name()).map_err(StateDirFailure::Endpoint)?;
    state_dir.claim().map_err(StateDirFailure::StateDir)?;
    let tasks = Tasks::default();
    let asked = tasks.stopping();
    tasks.spawn("signals", {
        let asked = asked.clone();
        async move { until_signalled("endpoint", &asked).await }
    });
    // the lock on the journal is ours: nobody listens at the socket any more
    let listener = listen(&socket).map_err(|error| file("listen at", &socket, error))?;
    let link = match &configured {
        Some(configured) => Some(LinkListener::open(&state_dir, configured, worker, &host_name()).await),
        None => None,
    };
    let link = link.transpose().map_err(StateDirFailure::Link)?;
    let line = endpoint.introduce(&dial).await.map_err(StateDirFailure::Endpoint)?;
    let services = Tasks::default();
    services.spawn("services", {
        let (inbox, link, stopping) = (endpoint.inbox(), link.as_ref().map(LinkListener::link), services.stopping());
        async move {
            if let Err(error) = serve(listener, inbox, link, stopping).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "workers and commands cannot connect any more"
                );
            }
        }
    });
    if let Some(link) = link {
        let (inbox, stopping) = (endpoint.inbox(), services.stopping());
        services.spawn("worker link", async move {
            if let Err(error) = link.serve(inbox, stopping).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "workers of other computers cannot connect any more"
                );
            }
        });
    }
    let without = if line.is_none() { ", without a session: its log says why" } else { "" };
    output::stdout(format_args!("endpoint {name} is ready, process {}{without}", std::process::id()))?;
    let ended = endpoint.run(dial, line, asked).await;
    services.stop();
    services.join().await;
    tasks.stop();
    tasks.join().await;
    // the socket's file stays: the endpoint's next process, which may be there already, has put its own in its place
    ended.map_err(StateDirFailure::Endpoint)?;
    Ok(Exit::Success)
}

/// Starts it in a session of its own, and waits until it is ready.
pub(super) fn detach(args: &StateDirArgs) -> Result<Exit, Failure> {
    let state_dir = args.state_dir()?;
    // nothing is made for one that there is not
    process::holder(args, &state_dir).map_err(StateDirFailure::Process)?;
    EndpointConfig::read(state_dir.directory()).map_err(StateDirFailure::Config)?;
    let log = state_dir.log();
    state_dir.make().map_err(StateDirFailure::StateDir)?;
    set_aside(&log);
    let unopened = |error| file("open", &log, error);
    let errors = OpenOptions::new().create(true).append(true).open(&log).map_err(unopened)?;
    let from = errors.metadata().map_err(unopened)?.len();
    let program = std::env::current_exe().map_err(ServiceError::Runtime)?;
    let mut command = Command::new(program);
    command.args(["endpoint", "start", args.name.as_str(), "--directory"]).arg(state_dir.directory());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    own_session(&mut command);
    let mut child = command.spawn().map_err(ServiceError::Runtime)?;
    let mut ready = String::new();
    if let Some(out) = child.stdout.take() {
        // an endpoint that ends without a word leaves it empty
        let _ = BufReader::new(out).read_line(&mut ready);
    }
    if ready.is_empty() {
        // it has ended, or will: its output is closed
        let code = child.wait().ok().and_then(|status| status.code());
        return Err(not_started(args, &state_dir, from, code).into());
    }
    output::stdout(ready.trim())?;
    Ok(Exit::Success)
}

/// What it wrote last.
fn not_started(args: &StateDirArgs, state_dir: &StateDir, from: u64, code: Option<i32>) -> StateDirFailure {
    let written = fs::read(state_dir.log()).unwrap_or_default();
    let written = usize::try_from(from).ok().and_then(|from| written.get(from..)).unwrap_or_default();
    let said = String::from_utf8_lossy(written);
    // the log may be shared with a process that runs
    let error = said.lines().rev().find_map(|line| line.strip_prefix("speckled: error: "));
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    let reason = error.or(last).unwrap_or("it said nothing").to_owned();
    StateDirFailure::NotStarted { name: args.name.clone(), reason, exit: code.and_then(Exit::of_code) }
}

/// One older log is kept.
fn set_aside(log: &Path) {
    if fs::metadata(log).is_ok_and(|file| file.len() > LARGE_LOG) {
        // a log that cannot be renamed is appended to
        let _ = fs::rename(log, log.with_extension("log.1"));
    }
}
