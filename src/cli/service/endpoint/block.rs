//! `speckled endpoint block open|end`: blocks whose workers somebody starts by hand, or in a batch job of his own.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{StateDirArgs, StateDirFailure};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::cli::service::{FormArg, OutputForm, ServiceError, single};
use crate::ids::BlockId;
use crate::rpc::endpoint_link::EndpointControl;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BlockCommand {
    /// Open a block: prints the file with which its workers are started on other computers
    Open(OpenArgs),
    /// End a block: its workers leave, and its file is removed
    End(EndArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OpenArgs {
    #[command(flatten)]
    state_dir: StateDirArgs,
    #[command(flatten)]
    form: FormArg,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct EndArgs {
    #[command(flatten)]
    state_dir: StateDirArgs,
    /// The block, as `speckled endpoint status` shows it
    block: BlockId,
}

/// Runs the command.
pub(super) fn run(command: BlockCommand) -> Result<Exit, Failure> {
    match command {
        BlockCommand::Open(args) => single(open(args)),
        BlockCommand::End(args) => single(end(args)),
    }
}

async fn open(OpenArgs { state_dir, form }: OpenArgs) -> Result<Exit, Failure> {
    let (block, file) = connect(&state_dir).await?.open_block().await.map_err(ServiceError::Client)?;
    match form.output {
        OutputForm::Json => output::json(&json!({ "block": block, "file": file }))?,
        OutputForm::Quiet => output::stdout(block)?,
        OutputForm::Human => {
            output::note(format_args!("on each node: speckled worker --block-file {}", file.display()));
            output::stdout(file.display())?;
        }
    }
    Ok(Exit::Success)
}

async fn end(EndArgs { state_dir, block }: EndArgs) -> Result<Exit, Failure> {
    connect(&state_dir).await?.end_block(block).await.map_err(ServiceError::Client)?;
    output::note(format_args!("block {block} has ended"));
    Ok(Exit::Success)
}

async fn connect(args: &StateDirArgs) -> Result<EndpointControl, StateDirFailure> {
    super::control::connect(args, &args.state_dir()?).await
}
