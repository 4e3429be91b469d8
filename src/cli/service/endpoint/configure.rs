//! `speckled endpoint configure`: makes an endpoint's directory with a configuration that explains itself.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{StateDirArgs, StateDirFailure};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::cli::service::{RemoteArgs, file};
use crate::config::endpoint::{EndpointConfig, FILE};
use crate::task::names::Group;

#[derive(Debug, Args)]
pub(in crate::cli) struct ConfigureArgs {
    #[command(flatten)]
    state_dir: StateDirArgs,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Group that may see it and submit to it
    #[arg(long)]
    group: Option<Group>,
    /// Directory below which tasks may read; may be given again
    #[arg(long, value_name = "DIR")]
    read: Vec<PathBuf>,
    /// Directory below which tasks may read and write; may be given again
    #[arg(long, value_name = "DIR")]
    write: Vec<PathBuf>,
    /// Correlations at once on this computer [default: 1]
    #[arg(long)]
    slots: Option<u32>,
}

/// Makes it.
pub(super) fn run(args: &ConfigureArgs) -> Result<Exit, Failure> {
    let state_dir = args.state_dir.state_dir()?;
    let path = state_dir.directory().join(FILE);
    if path.exists() {
        return Err(StateDirFailure::Configured { path }.into());
    }
    let files = [args.remote.ca(), args.remote.token_file()];
    let shown = args.remote.identity().into_iter().flat_map(|(certificate, key)| [certificate, key]);
    let mut paths = args.read.iter().chain(&args.write).cloned().chain(files.into_iter().flatten()).chain(shown);
    if let Some(path) = paths.find(|path| path.to_str().is_none()) {
        return Err(StateDirFailure::NotText { path }.into());
    }
    let text = text(args);
    // nothing is left behind of a configuration that cannot be used
    EndpointConfig::parse(&text, &path).map_err(StateDirFailure::Config)?;
    state_dir.make().map_err(StateDirFailure::StateDir)?;
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    written().map_err(|error| file("write", &path, error))?;
    if args.remote.token_file().is_none() {
        output::note(format_args!(
            "put a token with the role endpoint into {}",
            state_dir.directory().join("token").display()
        ));
    }
    if args.read.is_empty() && args.write.is_empty() {
        output::note("it has no roots yet: tasks can read and write nothing until there are some");
    }
    output::note(format_args!(
        "look at {}, then start it with `speckled endpoint start {}`",
        path.display(),
        args.state_dir
    ));
    output::stdout(state_dir.directory().display())?;
    Ok(Exit::Success)
}

/// The configuration, each key explained.
fn text(args: &ConfigureArgs) -> String {
    let ca = match args.remote.ca() {
        Some(ca) => format!("  ca: {}\n", quoted(&absolute(&ca))),
        None => "  # ca: ca.pem\n".to_owned(),
    };
    let token = args.remote.token_file();
    let token = token.map_or_else(|| "token".to_owned(), |token| quoted(&absolute(&token)));
    let shown = match args.remote.identity() {
        Some((certificate, key)) => {
            let [certificate, key] = [certificate, key].map(|path| quoted(&absolute(&path)));
            format!("  identity: {{certificate: {certificate}, key: {key}}}\n")
        }
        None => "  # identity: {certificate: polaris.pem, key: polaris.key}\n".to_owned(),
    };
    let group = match &args.group {
        Some(group) => format!("group: {}\n", json(group.as_str())),
        None => "# group: 8-id\n".to_owned(),
    };
    let list = |paths: &[PathBuf]| paths.iter().map(|path| quoted(&absolute(path))).collect::<Vec<_>>().join(", ");
    let slots = args.slots.unwrap_or(1);
    format!(
        "# An endpoint of speckled. Paths that do not begin with / are relative to this file's directory.\n\
         name: {name}\n\
         # Who else may see this endpoint and submit to it:\n\
         {group}\
         \n\
         controller:\n\
         \x20 url: {url}\n\
         \x20 # The CA of its certificate, ca.pem of the controller's directory:\n\
         {ca}\
         \x20 # A token with the role endpoint:\n\
         \x20 token_file: {token}\n\
         \x20 # What it shows to a controller that asks for a certificate, made by `speckled controller certify`:\n\
         {shown}\
         \n\
         # Tasks may read below the first directories, and read and write below the second. Links and .. are followed\n\
         # before that is looked at.\n\
         roots:\n\
         \x20 read: [{read}]\n\
         \x20 write: [{write}]\n\
         \n\
         # Workers, on this computer and on others:\n\
         workers:\n\
         \x20 # Correlations at once on each.\n\
         \x20 slots: {slots}\n\
         \x20 # Small tasks at once on this computer that compute nothing, such as making directories.\n\
         \x20 # login_slots: 4\n\
         \x20 # Threads and memory of each; without these, a worker shares the processors and four fifths of the\n\
         \x20 # free memory of its own computer.\n\
         \x20 # threads: 4\n\
         \x20 # memory: 16 GiB\n\
         \x20 # GPUs that are there (CUDA_VISIBLE_DEVICES restricts them) are used: each has a slot of its own, and `slots`\n\
         \x20 # is for computers without. gpus: none leaves them alone.\n\
         \x20 # gpus: auto\n\
         \x20 # slots_per_gpu: 1\n\
         \x20 # A GPU that was faulty must have been well for so many seconds before it is tested again.\n\
         \x20 # gpu_quiet_s: 300\n\
         \n\
         # Where workers of other computers connect, by TCP with TLS; without this they cannot. Port 0 takes a free one.\n\
         # They try the names and addresses under advertise one after the other: without it, all that this computer has.\n\
         # worker_link:\n\
         #   listen: 0.0.0.0:0\n\
         #   advertise: [login1.example.org]\n\
         \n\
         # 0: the worker is started when tasks wait, and ends after idle_s seconds without tasks.\n\
         # blocks:\n\
         #   min_blocks: 1\n\
         #   idle_s: 120\n\
         \n\
         # Logs of tasks are kept for this number of days:\n\
         # keep_logs_days: 30\n\
         \n\
         # Commands that tasks may run, by name. No shell sees them: each value of a task becomes one argument, or part\n\
         # of one. Values under paths are held against the roots.\n\
         # commands:\n\
         #   plot:\n\
         #     program: /usr/local/bin/plot\n\
         #     arguments: ['--in={{file}}']\n\
         #     paths: {{file: read}}\n\
         #     time_limit_s: 600\n",
        name = json(args.state_dir.name.as_str()),
        url = json(&args.remote.url()),
        read = list(&args.read),
        write = list(&args.write),
    )
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn quoted(path: &Path) -> String {
    json(&path.to_string_lossy())
}

/// A text as JSON has it, which YAML reads too.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
