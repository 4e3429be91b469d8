//! `speckled submit`: correlations for an endpoint, with the options of `corr`.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{RemoteArgs, ServiceError, wait};
use crate::cli::corr::{self, AskedJobs, CorrArgs};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, Form};
use crate::controller::{Known, Submission, SubmissionTask};
use crate::ids::ActionId;
use crate::task::correlate::CorrelateSpec;
use crate::task::names::{Group, Label, RequestId};
use crate::task::pool::Pool;
use crate::task::spec::TaskSpec;

#[derive(Debug, Args)]
#[command(after_help = "One task for each raw file. Paths are of the endpoint's file system.")]
pub(in crate::cli) struct SubmitArgs {
    /// Id or name of the endpoint
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: String,
    /// The group of tasks that these belong to [default: a new one]
    #[arg(long, value_name = "ID")]
    action: Option<ActionId>,
    /// Who else may see them
    #[arg(long, value_name = "GROUP")]
    group: Option<Group>,
    /// What people call them
    #[arg(long, value_name = "TEXT")]
    label: Option<Label>,
    /// Submit nothing if the same was submitted with this request id before: show its tasks
    #[arg(long, value_name = "TEXT")]
    request_id: Option<RequestId>,
    /// Ask this of the block that the tasks run on: a JSON object for the endpoint's template
    #[arg(long, value_name = "JSON", default_value = "{}", hide_default_value = true)]
    user_endpoint_config: Pool,
    /// Higher ones first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Fail the task if it has not finished within SECONDS
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<u64>,
    /// Further attempts after failures of the program [default: the controller's]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    corr: CorrArgs,
}

/// Runs the command.
pub(in crate::cli) fn run(args: SubmitArgs) -> Result<Exit, Failure> {
    let SubmitArgs {
        endpoint,
        action,
        group,
        label,
        request_id,
        user_endpoint_config,
        priority,
        deadline,
        retries,
        remote,
        corr,
    } = args;
    let deadline = deadline.map(Duration::from_secs);
    let (specs, form) = match corr::specs(corr)? {
        AskedJobs::Run(specs, form) => (specs, form),
        AskedJobs::Show(parameters) => {
            output::json(&parameters)?;
            return Ok(Exit::Success);
        }
    };
    specs.iter().try_for_each(absolute)?;
    let tasks = specs.into_iter().map(|spec| {
        let spec = TaskSpec::Correlate(Box::new(spec));
        SubmissionTask { label: label.clone(), spec, priority, deadline, retries }
    });
    let order = Submission {
        request: request_id,
        action,
        group,
        label: label.clone(),
        pool: user_endpoint_config,
        ..Submission::new(endpoint, tasks.collect())
    };
    let receipt = wait(async { Ok(remote.connect().await?.submit(order).await.map_err(ServiceError::Client)?) })?;
    match form {
        Form::Json => {
            let tasks = receipt.tasks.iter().map(|(id, known)| json!({ "id": id, "known": *known == Known::Before }));
            output::json(&json!({ "action": receipt.action, "tasks": tasks.collect::<Vec<_>>() }))?;
        }
        Form::Human | Form::Quiet => {
            if form == Form::Human {
                output::note(format_args!("action {}", receipt.action));
            }
            receipt.tasks.iter().try_for_each(|(id, _)| output::stdout(id))?;
        }
    }
    Ok(Exit::Success)
}

/// A relative path means another file in the endpoint's directory.
fn absolute(spec: &CorrelateSpec) -> Result<(), ServiceError> {
    let relative = |option, path: &Path| match path.is_absolute() {
        true => Ok(()),
        false => Err(ServiceError::Relative { option, path: path.to_owned() }),
    };
    relative("--raw", &spec.raw)?;
    relative("--qmap", &spec.qmap)?;
    relative("--output", &spec.output)?;
    spec.metadata.as_deref().map_or(Ok(()), |path| relative("--meta-fname", path))
}
