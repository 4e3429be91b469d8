//! `speckled endpoint doctor`: looks for what keeps an endpoint from working, before it is started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::process::{self, NoProcess};
use super::{StateDirArgs, StateDirFailure};
use crate::cli::exit::{Exit, Failure, chain};
use crate::cli::output;
use crate::cli::service::{FormArg, OutputForm, single};
use crate::compute::memory::MOST_UNASKED;
use crate::config::endpoint::EndpointConfig;
use crate::config::size::Bytes;
use crate::dataset::result::host_name;
use crate::endpoint::block_files;
use crate::endpoint::journal;
use crate::endpoint::state_dir::StateDir;
use crate::rpc::client::{Client, Target};
use crate::rpc::service::link::advertised;
use crate::runtime::contain;
use crate::runtime::node;
use crate::runtime::sandbox::{self, ConfinementLevel};

/// Until a controller that does not answer is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Room that a journal and logs need.
const ROOM: u64 = 100 << 20;

#[derive(Debug, Args)]
pub(in crate::cli) struct DoctorArgs {
    #[command(flatten)]
    state_dir: StateDirArgs,
    #[command(flatten)]
    form: FormArg,
}

/// What was looked at, and what was found: fine and how, or wrong and why.
type Finding = (&'static str, Result<String, String>);

/// Looks.
pub(super) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let state_dir = args.state_dir.state_dir()?;
    // what else is wrong is found below
    if let Err(absent @ NoProcess::NotConfigured { .. }) = process::holder(&args.state_dir, &state_dir) {
        return Err(StateDirFailure::Process(absent).into());
    }
    let findings = single(async { Ok::<_, Failure>(look(&args.state_dir, &state_dir).await) })?;
    let failed = findings.iter().filter(|(_, found)| found.is_err()).count();
    match args.form.output {
        OutputForm::Json => {
            let document: Vec<_> = findings
                .iter()
                .map(|(what, found)| match found {
                    Ok(words) => json!({ "check": what, "well": true, "found": words }),
                    Err(words) => json!({ "check": what, "well": false, "found": words }),
                })
                .collect();
            output::json(&json!(document))?;
        }
        OutputForm::Quiet => {}
        OutputForm::Human => findings.iter().try_for_each(|(what, found)| match found {
            Ok(words) => output::stdout(format_args!("ok     {what:<14} {words}")),
            Err(words) => output::stdout(format_args!("WRONG  {what:<14} {words}")),
        })?,
    }
    if failed > 0 {
        return Err(StateDirFailure::Unwell { failed, checks: findings.len() }.into());
    }
    Ok(Exit::Success)
}

async fn look(args: &StateDirArgs, state_dir: &StateDir) -> Vec<Finding> {
    let mut findings = vec![("directory", directory(state_dir)), ("process", process(args, state_dir).await)];
    let config = match EndpointConfig::read(state_dir.directory()) {
        Ok(config) => config,
        Err(error) => {
            findings.push(("configuration", Err(chain(&error))));
            return findings;
        }
    };
    let local = config.local;
    let node = node::measure();
    let (threads, memory) = local.share(node.cpus, node.free.unwrap_or(MOST_UNASKED));
    let slots = format!("{} slots of {threads} threads and {} on this computer", local.slots, Bytes(memory));
    findings.push(("configuration", Ok(slots)));
    findings.push(("roots", roots(&config)));
    findings.push(("confinement", confinement()));
    findings.push(("containment", Ok(format!("what tasks start is held {}", contain::means()))));
    findings.push(("commands", commands(&config)));
    findings.push(("token", token(&config.controller.token_file)));
    findings.push(("journal", recovered(state_dir)));
    findings.push(("socket", state_dir.socket().map(|path| path.display().to_string()).map_err(|error| chain(&error))));
    findings.push(("worker link", worker_link(state_dir, &config).await));
    findings.push(("controller", controller(&config).await));
    findings
}

/// One that does not run is well, unless it has left work behind.
async fn process(args: &StateDirArgs, state_dir: &StateDir) -> Result<String, String> {
    match process::look(args, state_dir).await {
        Ok((_, status)) => Ok(format!("process {} answers", status.pid)),
        Err(dead @ NoProcess::Dead { .. }) => match journal::read(state_dir.directory()) {
            Ok((book, _)) if !book.is_empty() => {
                Err(format!("it has died with {} tasks, which are not lost; {}", book.len(), chain(&dead)))
            }
            Ok(_) | Err(_) => Ok(chain(&dead)),
        },
        Err(reason) => Err(chain(&reason)),
    }
}

fn directory(state_dir: &StateDir) -> Result<String, String> {
    let path = state_dir.directory();
    let found = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{} is open to others (mode {mode:o}); chmod 700 it", path.display()));
    }
    let space = rustix::fs::statvfs(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < ROOM {
        return Err(format!("{} has {} left; journal and logs need {}", path.display(), Bytes(free), Bytes(ROOM)));
    }
    Ok(format!("{}, {} free", path.display(), Bytes(free)))
}

/// Those that are there and can be read; the configuration's check has resolved them.
fn roots(config: &EndpointConfig) -> Result<String, String> {
    let roots = &config.site.roots;
    if roots.read.is_empty() && roots.write.is_empty() {
        return Err("no roots are configured: every task with a path is refused".to_owned());
    }
    for root in roots.read.iter().chain(&roots.write) {
        fs::read_dir(root).map_err(|error| format!("{}: {error}", root.display()))?;
    }
    for root in &roots.write {
        // a file that goes with its descriptor: nothing is left behind
        tempfile::tempfile_in(root).map_err(|error| format!("{} cannot be written: {error}", root.display()))?;
    }
    Ok(format!("{} to read, {} to write", roots.read.len(), roots.write.len()))
}

/// How far the kernel confines executors. Without it a file is still held against the roots once it is open.
fn confinement() -> Result<String, String> {
    match sandbox::level() {
        level @ ConfinementLevel::Full => Ok(format!("executors are {level}")),
        level @ (ConfinementLevel::Partial | ConfinementLevel::None) => {
            Ok(format!("executors are {level}; files are held against the roots all the same"))
        }
    }
}

fn commands(config: &EndpointConfig) -> Result<String, String> {
    for (name, command) in &config.site.commands {
        let found = fs::metadata(&command.program);
        let found = found.map_err(|error| format!("{name}: {}: {error}", command.program.display()))?;
        if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
            return Err(format!("{name}: {} is no program", command.program.display()));
        }
    }
    Ok(format!("{}", config.site.commands.len()))
}

fn token(path: &Path) -> Result<String, String> {
    let found = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{} can be read by others (mode {mode:o}); chmod 600 it", path.display()));
    }
    Ok(path.display().to_string())
}

fn recovered(state_dir: &StateDir) -> Result<String, String> {
    if !state_dir.directory().join("journal").exists() {
        return Ok("none yet".to_owned());
    }
    let (book, _) = journal::read(state_dir.directory()).map_err(|error| chain(&error))?;
    let running = match journal::held_by(state_dir.directory()) {
        Ok(Some(holder)) => format!("; the endpoint runs, process {holder}"),
        Ok(None) => String::new(),
        Err(error) => return Err(error.to_string()),
    };
    Ok(format!("{} tasks{running}", book.len()))
}

/// Whether workers of other computers can connect.
async fn worker_link(state_dir: &StateDir, config: &EndpointConfig) -> Result<String, String> {
    let Some(configured) = &config.worker_link else {
        return Ok("not configured: workers of this computer only".to_owned());
    };
    let [_, key] = state_dir.link_ca();
    if key.exists() {
        token(&key)?;
    }
    let open = block_files::remembered(state_dir).map_err(|error| chain(&error))?;
    let listen = configured.listen;
    let hosts = advertised(configured, listen.ip(), &host_name()).map_err(|error| chain(&error))?;
    for host in &hosts {
        let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host(format!("{}:0", host.in_url()))).await;
        let late = |_| format!("{host} is not found in {} s; correct worker_link.advertise", PATIENCE.as_secs());
        if let Err(error) = found.map_err(late)? {
            return Err(format!("{host} is not found ({error}); correct worker_link.advertise"));
        }
    }
    let is_running = matches!(journal::held_by(state_dir.directory()), Ok(Some(_)));
    if !is_running {
        let listener = tokio::net::TcpListener::bind(listen).await;
        listener.map_err(|error| format!("cannot listen at {listen}: {error}; correct worker_link.listen"))?;
    }
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    Ok(format!("{listen}, found as {}; {} blocks are open", hosts.join(", "), open.len()))
}

async fn controller(config: &EndpointConfig) -> Result<String, String> {
    let target = Target::read(&config.controller).map_err(|error| chain(&error))?;
    let asked = async {
        let mut client = Client::connect(&target).await?;
        client.list_endpoints().await
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(_)) => Ok(format!("{} answers", target.url)),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("{} does not answer in {} s", target.url, PATIENCE.as_secs())),
    }
}
