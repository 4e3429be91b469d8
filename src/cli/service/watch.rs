//! `speckled watch`: follows tasks as they change; those of one action with a bar, to their end.

use std::collections::HashMap;
use std::io::IsTerminal;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::following::{Following, MOST};
use super::task::line;
use super::{FormArg, OutputForm, RemoteArgs, ServiceError, single};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::ids::{ActionId, EndpointId, TaskId};
use crate::rpc::client::Client;
use crate::rpc::view::{ProgressView, TaskView};
use crate::store::{StateName, TaskFilter};

#[derive(Debug, Args)]
pub(in crate::cli) struct WatchArgs {
    /// Tasks of this group, until all are over; fails unless all succeeded
    #[arg(long, value_name = "ID")]
    action: Option<ActionId>,
    /// Tasks of this endpoint
    #[arg(long, value_name = "ID")]
    endpoint: Option<EndpointId>,
    #[command(flatten)]
    form: FormArg,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Follows.
pub(in crate::cli) fn run(args: WatchArgs) -> Result<Exit, Failure> {
    single(follow(args))
}

async fn follow(args: WatchArgs) -> Result<Exit, Failure> {
    let WatchArgs { action, endpoint, form: FormArg { output: form }, remote } = args;
    let filter = TaskFilter { action, endpoint, ..TaskFilter::default() };
    // first listen, then look: a change in between is heard
    let mut following = Following::start(remote, filter).await?;
    let mut open = match action {
        Some(action) => Some(Open::look(following.client(), action, form).await?),
        None => None,
    };
    while open.as_ref().is_none_or(|open| !open.is_over()) {
        let task = following.next().await?;
        let shown = open.as_mut().is_none_or(|open| open.changed(&task));
        match form {
            OutputForm::Json => output::stdout(json!(task))?,
            OutputForm::Human if shown => output::stdout(line(&task))?,
            OutputForm::Quiet if task.state.is_over() => output::stdout(task.id)?,
            OutputForm::Human | OutputForm::Quiet => {}
        }
    }
    let well = open.is_none_or(|open| open.finish());
    Ok(if well { Exit::Success } else { Exit::Processing })
}

/// Tasks of an action, and a bar of those that are over.
struct Open {
    states: HashMap<TaskId, StateName>,
    bar: ProgressBar,
}

impl Open {
    async fn look(client: &mut Client, action: ActionId, form: OutputForm) -> Result<Self, ServiceError> {
        let filter = TaskFilter { action: Some(action), ..TaskFilter::default() };
        let tasks = client.list(&filter, MOST).await?;
        if tasks.is_empty() {
            return Err(ServiceError::NoAction(action));
        }
        let states: HashMap<TaskId, StateName> = tasks.iter().map(|task| (task.id, task.state)).collect();
        let bar = match form == OutputForm::Human && std::io::stderr().is_terminal() {
            true => ProgressBar::new(states.len() as u64).with_style(style()),
            false => ProgressBar::hidden(),
        };
        let open = Self { states, bar };
        open.show("");
        Ok(open)
    }

    /// Whether the change is worth a line of its own.
    fn changed(&mut self, task: &TaskView) -> bool {
        let before = self.states.insert(task.id, task.state);
        let progress = task.progress.as_ref().and_then(ProgressView::words);
        self.show(&progress.unwrap_or_default());
        before != Some(task.state) && task.state.is_over()
    }

    fn show(&self, words: &str) {
        let ended = self.states.values().filter(|state| state.is_over()).count();
        let running = self.states.values().filter(|state| **state == StateName::Running).count();
        self.bar.set_message(format!("{running} running {words}"));
        self.bar.set_position(ended as u64);
    }

    fn is_over(&self) -> bool {
        self.states.values().all(|state| state.is_over())
    }

    /// Whether all succeeded.
    fn finish(&self) -> bool {
        self.bar.finish_and_clear();
        self.states.values().all(|state| *state == StateName::Succeeded)
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}
