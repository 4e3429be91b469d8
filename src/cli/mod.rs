//! The command line: what the user types to calls of the layers below, and their answers to the terminal.
//!
//! The only part that prints, and that knows exit codes. Errors of every depth arrive here once and are printed
//! as one line.

// A number of the service is never cut in silence: a cast that can is checked, or argued for.
#![warn(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use exit::{Exit, Failure};

use crate::runtime::process::close_inherited;

mod argv;
mod corr;
mod executor;
mod exit;
mod hdf5_reader;
mod info;
mod interrupt;
mod logging;
mod output;
mod progress;
mod service;
mod simulate;
mod worker;

/// X-ray Photon Correlation Spectroscopy: from raw detector data to correlations
#[derive(Debug, Parser)]
#[command(name = "speckled", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Correlate raw data: multi-tau and two-time, with boost_corr's options
    #[command(infer_long_args = true, args_override_self = true, display_name = "speckled")]
    Corr(Box<corr::CorrArgs>),
    /// Describe a raw, qmap, metadata or result file
    Info(info::InfoArgs),
    /// Make raw data with a known answer, with qmap and metadata
    Simulate(Box<simulate::SimulateArgs>),
    /// Keep tasks and lease them to endpoints
    #[command(subcommand)]
    Controller(service::controller::ControllerCommand),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(service::token::TokenCommand),
    /// Make, run, list and end endpoints, which compute tasks
    #[command(subcommand)]
    Endpoint(service::endpoint::EndpointCommand),
    /// Have an endpoint correlate raw data
    Submit(Box<service::submit::SubmitArgs>),
    /// Show the status of all endpoints: workers, slots, queues
    Status(service::status::StatusArgs),
    /// Follow tasks as they change
    Watch(service::watch::WatchArgs),
    /// Tell why a task is not running yet
    Explain(service::explain::ExplainArgs),
    /// List, show, follow, cancel and repeat tasks
    #[command(subcommand)]
    Task(service::task::TaskCommand),
    /// Measure how many tasks a second this program dispatches
    #[command(subcommand)]
    Bench(service::bench::BenchCommand),
    /// Run attempts of tasks for an endpoint
    #[command(hide = true)]
    Worker(Box<worker::WorkerArgs>),
    /// Run one attempt of a task for a worker
    #[command(hide = true)]
    Executor,
    /// Read the structure of HDF5 files for another process of this program
    #[command(hide = true)]
    Hdf5Reader,
    /// Print the script that completes these commands in a shell
    Completions {
        /// bash, zsh, fish, ...
        shell: Shell,
    },
}

/// Runs the program with the arguments of the process, its own name first.
pub fn main(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(argv::normalise(argv)) {
        Ok(cli) => cli,
        Err(told) => {
            // Help and version come this way too; a reader that has left has read enough.
            let _ = told.print();
            let code = if told.use_stderr() { Exit::Usage } else { Exit::Success };
            return ExitCode::from(code.code());
        }
    };
    if cli.command.is_lasting() {
        // SAFETY: nothing has been opened by this program yet; the arguments were read from memory.
        unsafe { close_inherited() };
    }
    let exit = run(cli.command).unwrap_or_else(|failure| {
        output::error(&failure);
        failure.exit()
    });
    ExitCode::from(exit.code())
}

impl Command {
    /// Whether it runs on when whoever started it has gone, or starts what does.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Controller(command) => command.is_lasting(),
            Self::Endpoint(command) => command.is_lasting(),
            Self::Worker(_) | Self::Executor | Self::Hdf5Reader => true,
            Self::Corr(_)
            | Self::Info(_)
            | Self::Simulate(_)
            | Self::Token(_)
            | Self::Submit(_)
            | Self::Status(_)
            | Self::Watch(_)
            | Self::Explain(_)
            | Self::Task(_)
            | Self::Bench(_)
            | Self::Completions { .. } => false,
        }
    }
}

fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Corr(args) => corr::run(*args),
        Command::Info(args) => info::run(&args),
        Command::Simulate(args) => simulated(&args),
        Command::Controller(command) => service::controller::run(&command),
        Command::Token(command) => service::token::run(command),
        Command::Endpoint(command) => service::endpoint::run(command),
        Command::Submit(args) => service::submit::run(*args),
        Command::Status(args) => service::status::run(args),
        Command::Watch(args) => service::watch::run(args),
        Command::Explain(args) => service::explain::run(args),
        Command::Task(command) => service::task::run(command),
        Command::Bench(command) => service::bench::run(&command),
        Command::Worker(args) => worker::run(*args),
        Command::Executor => executor::run(),
        Command::Hdf5Reader => hdf5_reader::run(),
        Command::Completions { shell } => completions(shell),
    }
}

fn simulated(args: &simulate::SimulateArgs) -> Result<Exit, Failure> {
    for file in simulate::run(args)? {
        output::stdout(file.display())?;
    }
    Ok(Exit::Success)
}

fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "speckled", &mut script);
    output::stdout(String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Cli::command().debug_assert();
    }
}
