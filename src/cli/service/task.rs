//! `speckled task`: what became of tasks.

use clap::{Args, Subcommand};
use serde_json::json;

use super::following::Following;
use super::{FormArg, OutputForm, RemoteArgs, ServiceError, wait};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::controller::{Submission, SubmissionTask};
use crate::ids::{ActionId, EndpointId, TaskId};
use crate::rpc::client::Client;
use crate::rpc::view::{EventView, ProgressView, TaskView};
use crate::store::{StateName, TaskFilter};

/// What became of tasks
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TaskCommand {
    /// List tasks, newest first
    List(ListArgs),
    /// Show all that is known of a task
    Show(TasksArgs),
    /// Cancel tasks
    Cancel(TasksArgs),
    /// Wait until tasks are over; fails unless all succeeded
    Wait(TasksArgs),
    /// Show what a task's last attempt wrote
    Logs(LogsArgs),
    /// Submit tasks again that failed or were cancelled; prints the new ones
    Retry(TasksArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Of this group of tasks
    #[arg(long, value_name = "ID")]
    action: Option<ActionId>,
    /// Of this endpoint
    #[arg(long, value_name = "ID")]
    endpoint: Option<EndpointId>,
    /// In one of these states: queued, leased, running, succeeded, failed, cancelled
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state)]
    state: Vec<StateName>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    most: usize,
    #[command(flatten)]
    form: FormArg,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TasksArgs {
    /// Ids of tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<TaskId>,
    #[command(flatten)]
    form: FormArg,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    /// The task
    task: TaskId,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Runs the command.
pub(in crate::cli) fn run(command: TaskCommand) -> Result<Exit, Failure> {
    match command {
        TaskCommand::List(args) => wait(list(args)),
        TaskCommand::Show(args) => wait(show(args)),
        TaskCommand::Cancel(args) => wait(cancel(args)),
        TaskCommand::Wait(args) => wait(follow(args)),
        TaskCommand::Logs(args) => wait(logs(args)),
        TaskCommand::Retry(args) => wait(retry(args)),
    }
}

async fn list(args: ListArgs) -> Result<Exit, Failure> {
    let ListArgs { action, endpoint, state, most, form, remote } = args;
    let filter = TaskFilter { action, endpoint, states: state, ..TaskFilter::default() };
    let tasks = remote.connect().await?.list(&filter, most).await.map_err(ServiceError::Client)?;
    print(&tasks, form.output)?;
    Ok(Exit::Success)
}

async fn show(TasksArgs { tasks, form, remote }: TasksArgs) -> Result<Exit, Failure> {
    let mut client = remote.connect().await?;
    let found = all(&mut client, &tasks).await?;
    if form.output == OutputForm::Quiet {
        print(&found, form.output)?;
        return Ok(Exit::Success);
    }
    let mut shown = Vec::with_capacity(found.len());
    for task in &found {
        let events = client.timeline(task.id).await.map_err(ServiceError::Client)?;
        match form.output {
            OutputForm::Human => {
                output::stdout(described(task))?;
                events.iter().try_for_each(|event| output::stdout(happened(task, event)))?;
            }
            OutputForm::Json | OutputForm::Quiet => shown.push(json!({ "task": task, "events": events })),
        }
    }
    if form.output == OutputForm::Json {
        output::json(&json!(shown))?;
    }
    Ok(Exit::Success)
}

/// An event of a task on one line: how long after its submission, and what.
fn happened(task: &TaskView, event: &EventView) -> String {
    let after = event.time.since(task.submitted).as_secs_f64();
    let attempt = event.event.attempt().map(|attempt| format!(" (attempt {attempt})")).unwrap_or_default();
    format!("  {after:>10.3} s  {}{attempt}", event.event)
}

async fn cancel(TasksArgs { tasks, form, remote }: TasksArgs) -> Result<Exit, Failure> {
    let mut client = remote.connect().await?;
    all(&mut client, &tasks).await?;
    let now = client.cancel(&tasks).await.map_err(ServiceError::Client)?;
    print(&now, form.output)?;
    Ok(Exit::Success)
}

async fn follow(TasksArgs { tasks, form, remote }: TasksArgs) -> Result<Exit, Failure> {
    let mut client = remote.connect().await?;
    let action = one_action(&all(&mut client, &tasks).await?);
    let filter = TaskFilter { action, states: StateName::ENDS.into(), ..TaskFilter::default() };
    // first listen, then look: a change in between is heard
    let mut following = Following::over(client, remote, filter).await?;
    loop {
        let now = match all(following.client(), &tasks).await {
            Ok(now) => now,
            Err(error) => {
                following.come_back(error).await?;
                continue;
            }
        };
        if now.iter().all(|task| task.state.is_over()) {
            print(&now, form.output)?;
            let well = now.iter().all(|task| task.state == StateName::Succeeded);
            return Ok(if well { Exit::Success } else { Exit::Processing });
        }
        loop {
            let changed = following.next().await?;
            if tasks.contains(&changed.id) {
                break;
            }
        }
    }
}

/// The end, which came with the result: what an endpoint names is not opened here, where it is another file.
async fn logs(LogsArgs { task, remote }: LogsArgs) -> Result<Exit, Failure> {
    let found = all(&mut remote.connect().await?, &[task]).await?;
    let log = found.into_iter().next().and_then(|task| task.result?.log).ok_or(ServiceError::NoLog(task))?;
    output::note(format_args!("the end of {} on the endpoint's file system:", log.file.display()));
    log.lines.lines().try_for_each(output::stdout)?;
    Ok(Exit::Success)
}

async fn retry(TasksArgs { tasks, form, remote }: TasksArgs) -> Result<Exit, Failure> {
    let mut client = remote.connect().await?;
    let found = all(&mut client, &tasks).await?;
    if let Some(open) = found.iter().find(|task| !task.state.is_over()) {
        return Err(ServiceError::NotOver(open.id).into());
    }
    let mut ids = Vec::new();
    for task in found {
        let TaskView { action, endpoint, group, label, pool, spec, priority, retries, deadline, submitted, .. } = task;
        let deadline = deadline.map(|deadline| deadline.since(submitted));
        let again = SubmissionTask { label, spec, priority, deadline, retries };
        let order =
            Submission { action: Some(action), group, pool, ..Submission::new(endpoint.to_string(), vec![again]) };
        let receipt = match client.submit(order.clone()).await {
            // the action of somebody else of the group: a new one
            Err(error) if error.is_denied() => client.submit(Submission { action: None, ..order }).await,
            answer => answer,
        };
        let receipt = receipt.map_err(ServiceError::Client)?;
        ids.extend(receipt.tasks.into_iter().map(|(id, _)| id));
    }
    print(&all(&mut client, &ids).await?, form.output)?;
    Ok(Exit::Success)
}

/// The action that all belong to, if it is one: fewer changes are to be heard then.
fn one_action(tasks: &[TaskView]) -> Option<ActionId> {
    let first = tasks.first()?.action;
    tasks.iter().all(|task| task.action == first).then_some(first)
}

/// The tasks, each of which must be there.
async fn all(client: &mut Client, tasks: &[TaskId]) -> Result<Vec<TaskView>, ServiceError> {
    let found = client.get(tasks).await?;
    match tasks.iter().find(|id| found.iter().all(|task| task.id != **id)) {
        Some(missing) => Err(ServiceError::NoTask(missing.to_string())),
        None => Ok(found),
    }
}

fn print(tasks: &[TaskView], form: OutputForm) -> Result<(), Failure> {
    match form {
        OutputForm::Json => output::json(&json!(tasks)),
        OutputForm::Quiet => tasks.iter().try_for_each(|task| output::stdout(task.id)),
        OutputForm::Human => tasks.iter().try_for_each(|task| output::stdout(line(task))),
    }
}

/// A task on one line.
pub(super) fn line(task: &TaskView) -> String {
    let label = task.label.as_ref().map(ToString::to_string).unwrap_or_default();
    let failure = task.failure.as_ref().map(|failure| failure.message().to_owned());
    let progress = task.progress.as_ref().and_then(ProgressView::words);
    let stopping = task.stopping.map(|stopping| stopping.words().to_owned());
    let note = failure.or(stopping).or(progress).unwrap_or_default();
    format!("{}  {:<9} {:<11} {label:<20} {note}", task.id, task.state.name(), task.spec.kind().name())
        .trim_end()
        .to_owned()
}

/// All that is known of a task, a line each.
fn described(task: &TaskView) -> String {
    let TaskView { action, endpoint, owner, attempt, result, .. } = task;
    let mut lines =
        vec![line(task), format!("  action {action}, endpoint {endpoint}, owner {owner}, attempt {attempt}")];
    if let Some(result) = result {
        lines.extend(result.files.iter().map(|file| format!("  {}", file.display())));
        lines.extend(result.document.iter().map(|document| format!("  {document}")));
        lines.extend(
            result.gpu_energy_mj.map(|energy| {
                format!("  its GPU used {:.1} J meanwhile, for whatever ran there", energy as f64 / 1000.0)
            }),
        );
        if let Some(log) = &result.log {
            lines.push(format!("  output in {}, its end:", log.file.display()));
            lines.extend(log.lines.lines().map(|line| format!("    {line}")));
        }
    }
    lines.join("\n")
}

fn state(text: &str) -> Result<StateName, String> {
    let named = StateName::ALL.into_iter().find(|state| state.name() == text);
    named.ok_or_else(|| format!("the states are {}", StateName::ALL.map(StateName::name).join(", ")))
}
