//! `speckled status`: all endpoints, their workers and their queues, as the controller knows them.

use clap::Args;
use serde_json::{Value, json};

use super::gpu::gpu_line;
use super::{FormArg, OutputForm, RemoteArgs, ServiceError, single};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::endpoint::status::EndpointStatus;
use crate::rpc::view::EndpointView;
use crate::runtime::clock::Clock;
use crate::store::{StateName, TaskFilter};
use crate::task::names::printable;
use crate::task::time::Moment;

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    form: FormArg,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// An endpoint, and how many of its tasks are in each state.
type Row = (EndpointView, Vec<(StateName, u64)>);

/// Tells how all are.
pub(in crate::cli) fn run(args: StatusArgs) -> Result<Exit, Failure> {
    let StatusArgs { form: FormArg { output: form }, remote } = args;
    let rows = single(async {
        let mut client = remote.connect().await?;
        let mut rows: Vec<Row> = Vec::new();
        for endpoint in client.list_endpoints().await.map_err(ServiceError::Client)? {
            let filter = TaskFilter { endpoint: Some(endpoint.id), ..TaskFilter::default() };
            let counts = client.count(&filter).await.map_err(ServiceError::Client)?;
            rows.push((endpoint, counts));
        }
        Ok::<_, Failure>(rows)
    })?;
    let now = Clock::start().now();
    match form {
        OutputForm::Json => output::json(&json!(rows.iter().map(document).collect::<Vec<_>>()))?,
        OutputForm::Quiet => rows.iter().try_for_each(|(endpoint, _)| {
            output::stdout(format_args!("{} {}", endpoint.name, if endpoint.online { "online" } else { "offline" }))
        })?,
        OutputForm::Human => {
            if rows.is_empty() {
                output::note("the controller knows no endpoint that you may see");
            }
            rows.iter().flat_map(|row| lines(row, now)).try_for_each(output::stdout)?;
        }
    }
    Ok(Exit::Success)
}

fn document((endpoint, counts): &Row) -> Value {
    let counts: serde_json::Map<String, Value> =
        counts.iter().map(|(state, tasks)| (state.name().to_owned(), json!(tasks))).collect();
    json!({ "source": "controller", "endpoint": endpoint, "tasks": counts })
}

fn lines((endpoint, counts): &Row, now: Moment) -> Vec<String> {
    let EndpointView { name, host, online, seen, .. } = endpoint;
    let heard = now.since(*seen).as_secs();
    let state = if *online { format!("online on {host}") } else { "offline".to_owned() };
    let mut lines = vec![format!("{name}: {state}, last heard of {heard} s ago (controller)")];
    let tasks: Vec<String> = counts.iter().map(|(state, tasks)| format!("{tasks} {}", state.name())).collect();
    lines.push(format!(
        "  tasks    {} (controller)",
        if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") }
    ));
    let Ok(status) = serde_json::from_value::<EndpointStatus>(endpoint.status.clone()) else {
        lines.push("  it has not said how it is".to_owned());
        return lines;
    };
    if !online {
        // what it had when it was last heard of is over
        return lines;
    }
    let open = |state: &StateName| !matches!(state, StateName::Queued) && !state.is_over();
    let held: u64 = counts.iter().filter(|(state, _)| open(state)).map(|(_, tasks)| tasks).sum();
    let busy: u64 =
        status.workers.iter().map(|worker| u64::from(worker.slots.1) + u64::from(worker.login_slots.1)).sum();
    // its latest reports came after it said this
    let since = if busy > held { ", before its latest reports" } else { "" };
    let said = format!("(endpoint, {heard} s ago{since})");
    for worker in &status.workers {
        let connected = if worker.connected { "" } else { ", not connected" };
        let (all, busy) = worker.slots;
        let host = printable(&worker.host, 255);
        lines.push(format!("  worker   on {host}{connected}: {busy} of {all} slots busy {said}"));
        lines.extend(worker.gpus.iter().map(|gpu| format!("  gpu      {} {said}", gpu_line(gpu))));
        lines.extend(worker.trouble.iter().map(|why| format!("  warning  {host}: {} {said}", printable(why, 500))));
    }
    lines.extend(status.trouble.iter().map(|trouble| format!("  warning  {} {said}", printable(trouble, 500))));
    let journal = status.journal.error.iter();
    lines.extend(journal.map(|error| format!("  warning  journal: {} {said}", printable(error, 500))));
    lines
}
