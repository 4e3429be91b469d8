//! `speckled explain`: why a task is not running yet, from what the controller and its endpoint say.

use clap::Args;
use serde_json::json;

use super::{FormArg, OutputForm, RemoteArgs, ServiceError, single};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::endpoint::status::{EndpointStatus, ServiceStatus};
use crate::ids::TaskId;
use crate::rpc::view::{EndpointView, ProgressView, TaskView};
use crate::runtime::clock::Clock;
use crate::store::{StateName, TaskFilter};
use crate::task::names::printable;
use crate::task::spec::Place;
use crate::task::time::Moment;

/// Queued tasks that are looked at to see how many go before: more are "at least so many".
const LOOKED_AT: usize = 10_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExplainArgs {
    /// The task
    task: TaskId,
    #[command(flatten)]
    form: FormArg,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Explains.
pub(in crate::cli) fn run(args: ExplainArgs) -> Result<Exit, Failure> {
    let ExplainArgs { task, form: FormArg { output: form }, remote } = args;
    let (view, reasons) = single(async {
        let mut client = remote.connect().await?;
        let found = client.get(&[task]).await.map_err(ServiceError::Client)?;
        let view = found.into_iter().next().ok_or_else(|| ServiceError::NoTask(task.to_string()))?;
        let endpoints = client.list_endpoints().await.map_err(ServiceError::Client)?;
        let endpoint = endpoints.into_iter().find(|endpoint| endpoint.id == view.endpoint);
        let ahead = match view.state {
            StateName::Queued => {
                let states = vec![StateName::Queued];
                let filter = TaskFilter { endpoint: Some(view.endpoint), states, ..TaskFilter::default() };
                let queued = client.list(&filter, LOOKED_AT).await.map_err(ServiceError::Client)?;
                queued.iter().filter(|other| goes_before(other, &view)).count()
            }
            StateName::Leased
            | StateName::Running
            | StateName::Succeeded
            | StateName::Failed
            | StateName::Cancelled => 0,
        };
        let reasons = reasons(&view, endpoint.as_ref(), ahead, Clock::start().now());
        Ok::<_, Failure>((view, reasons))
    })?;
    match form {
        OutputForm::Json => output::json(&json!({ "task": task, "state": view.state, "reasons": reasons }))?,
        OutputForm::Quiet => output::stdout(view.state.name())?,
        OutputForm::Human => {
            output::stdout(format_args!("{task} is {}", view.state.name()))?;
            reasons.iter().try_for_each(|reason| output::stdout(format_args!("  {reason}")))?;
        }
    }
    Ok(Exit::Success)
}

/// Leases go by priority, then by age; ids ascend with time.
fn goes_before(other: &TaskView, task: &TaskView) -> bool {
    (std::cmp::Reverse(other.priority), other.id) < (std::cmp::Reverse(task.priority), task.id)
}

/// What keeps a task from running, or what became of it; what matters most comes first.
fn reasons(task: &TaskView, endpoint: Option<&EndpointView>, ahead: usize, now: Moment) -> Vec<String> {
    let since = format!("{} s ago", now.since(task.changed).as_secs());
    let Some(endpoint) = endpoint else {
        return vec![format!("its endpoint {} is not one that you may see", task.endpoint)];
    };
    let status: Option<EndpointStatus> = serde_json::from_value(endpoint.status.clone()).ok();
    let mut reasons = match task.state {
        StateName::Succeeded | StateName::Cancelled => return vec![format!("it ended {since}")],
        StateName::Failed => {
            let failure = task.failure.as_ref().map_or("nobody knows why", |failure| failure.message());
            return vec![
                format!("it ended {since}: {failure}"),
                format!("`speckled task logs {}` shows more", task.id),
            ];
        }
        StateName::Running => {
            let progress = task.progress.as_ref().and_then(ProgressView::words);
            let progress = progress.map(|words| format!(": {words}")).unwrap_or_default();
            vec![format!("attempt {} began {since}{progress}", task.attempt)]
        }
        StateName::Leased => vec![format!("endpoint {} has it since {since} and waits for a slot", endpoint.name)],
        StateName::Queued if ahead > 0 => vec![format!("{ahead} tasks of endpoint {} go before it", endpoint.name)],
        StateName::Queued => vec![format!("it is the next that endpoint {} takes", endpoint.name)],
    };
    if task.state == StateName::Queued && task.attempt > 0 {
        let pause = task.not_before.filter(|moment| *moment > now);
        let pause = pause.map(|moment| format!(" in {} s", moment.since(now).as_secs_f64().ceil())).unwrap_or_default();
        let words = format!("attempt {} ended without a result {since}; it is tried again{pause}", task.attempt);
        // nothing else keeps it while it waits for that
        reasons.insert(if pause.is_empty() { reasons.len() } else { 0 }, words);
    }
    if let Some(stopping) = task.stopping {
        reasons.insert(0, stopping.words().to_owned());
    }
    if !endpoint.online {
        let heard = now.since(endpoint.seen).as_secs();
        reasons.insert(0, format!("endpoint {} is offline, last heard of {heard} s ago; start it", endpoint.name));
    } else if let Some(status) = status.filter(|_| task.state != StateName::Running) {
        of_endpoint(&status, task.spec.kind().place(), &mut reasons);
    }
    if let Some(deadline) = task.deadline {
        reasons.push(match deadline > now {
            true => format!("its deadline is in {} s", deadline.since(now).as_secs()),
            false => "its deadline has passed: it ends soon".to_owned(),
        });
    }
    reasons
}

fn of_endpoint(status: &EndpointStatus, place: Place, reasons: &mut Vec<String>) {
    let name = &status.name;
    match status.service {
        ServiceStatus::Open => {}
        ServiceStatus::Drains | ServiceStatus::Leaves => {
            reasons.insert(
                0,
                format!("endpoint {name} is about to end and takes nothing new; it has to be started again"),
            );
        }
    }
    let connected: Vec<_> = status.workers.iter().filter(|worker| worker.connected).collect();
    let slots = connected.iter().map(|worker| match place {
        Place::Slot => worker.slots,
        Place::Login => worker.login_slots,
    });
    let (all, busy) = slots.fold((0, 0), |(all, busy), (more, used)| (all + more, busy + used));
    if connected.is_empty() {
        reasons.insert(0, format!("no worker of endpoint {name} is connected"));
    } else if all == 0 {
        reasons.insert(0, format!("endpoint {name} has no slots for such tasks"));
    } else if busy >= all {
        reasons.push(format!("all {all} slots of endpoint {name} are busy"));
    }
    // an endpoint's words are shown on a terminal
    reasons.extend(status.trouble.iter().map(|trouble| printable(trouble, 500)));
    if let Some(error) = &status.journal.error {
        reasons.insert(0, format!("endpoint {name} cannot write its journal: {}", printable(error, 500)));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::endpoint::status::{ControllerStatus, JournalStatus, TaskCounts, WorkerStatus};
    use crate::ids::{BlockId, EndpointId, SessionId, WorkerId};
    use crate::rpc::view::Stopping;

    fn task(state: StateName) -> TaskView {
        TaskView::testing(5, state, 7_000)
    }

    fn status(busy: u32) -> EndpointStatus {
        let worker = WorkerStatus {
            worker: WorkerId::new(Uuid::from_u128(3)),
            block: BlockId::new(Uuid::from_u128(4)),
            host: "nid1".into(),
            pid: None,
            connected: true,
            since_s: None,
            slots: (2, busy),
            login_slots: (0, 0),
            gpus: Vec::new(),
            trouble: None,
        };
        EndpointStatus {
            endpoint: EndpointId::new(Uuid::from_u128(2)),
            name: "polaris".parse().expect("a name"),
            version: String::new(),
            host: "login1".into(),
            pid: 1,
            session: SessionId::new(Uuid::from_u128(6)),
            uptime_s: 1,
            service: ServiceStatus::Open,
            controller: ControllerStatus {
                url: String::new(),
                connected: true,
                program: None,
                error: None,
                lease_left_s: None,
            },
            journal: JournalStatus { error: None, unwritten: 0, syncs: 0 },
            tasks: TaskCounts::default(),
            blocks: Vec::new(),
            ended_blocks: Vec::new(),
            workers: vec![worker],
            workers_left_out: 0,
            trouble: None,
            link: None,
        }
    }

    fn told(task: &TaskView, online: bool, status: &EndpointStatus, ahead: usize) -> String {
        let endpoint = EndpointView {
            id: task.endpoint,
            name: status.name.clone(),
            owner: task.owner.clone(),
            group: None,
            online,
            host: String::new(),
            seen: Moment::from_millis(4_000),
            status: serde_json::to_value(status).expect("JSON"),
        };
        reasons(task, Some(&endpoint), ahead, Moment::from_millis(9_000)).join("; ")
    }

    #[test]
    fn what_matters_most_comes_first() {
        let queued = task(StateName::Queued);
        assert_eq!(told(&queued, true, &status(1), 0), "it is the next that endpoint polaris takes");
        let busy = "3 tasks of endpoint polaris go before it; all 2 slots of endpoint polaris are busy";
        assert_eq!(told(&queued, true, &status(2), 3), busy);
        let offline = told(&queued, false, &status(2), 0);
        assert!(offline.starts_with("endpoint polaris is offline, last heard of 5 s ago"), "{offline}");
        let alone = EndpointStatus { workers: Vec::new(), ..status(0) };
        assert!(told(&queued, true, &alone, 0).starts_with("no worker of endpoint polaris is connected"));
        let full = JournalStatus { error: Some("no space\x1b[2J".into()), unwritten: 1, syncs: 0 };
        let full = told(&queued, true, &EndpointStatus { journal: full, ..status(0) }, 0);
        assert!(full.starts_with("endpoint polaris cannot write its journal: no space[2J;"), "{full}");
        let again = TaskView { attempt: 2, deadline: Some(Moment::from_millis(19_000)), ..queued };
        let again = told(&again, true, &status(0), 0);
        assert!(again.contains("attempt 2 ended without a result 2 s ago") && again.contains("deadline is in 10 s"));
        let pausing = TaskView { attempt: 2, not_before: Some(Moment::from_millis(12_500)), ..task(StateName::Queued) };
        let pausing = told(&pausing, true, &status(0), 0);
        assert!(pausing.starts_with("attempt 2 ended without a result 2 s ago; it is tried again in 4 s"), "{pausing}");
        let cancelled = TaskView { stopping: Some(Stopping::Cancel), ..task(StateName::Running) };
        assert!(told(&cancelled, true, &status(2), 0).starts_with("cancel requested, "));
        assert_eq!(told(&task(StateName::Running), true, &status(2), 0), "attempt 0 began 2 s ago");
        assert_eq!(told(&task(StateName::Succeeded), true, &status(2), 0), "it ended 2 s ago");
    }

    #[test]
    fn priority_goes_before_age() {
        let (older, newer) =
            (task(StateName::Queued), TaskView { id: TaskId::new(Uuid::from_u128(9)), ..task(StateName::Queued) });
        assert!(goes_before(&older, &newer) && !goes_before(&newer, &older) && !goes_before(&older, &older));
        let urgent = TaskView { priority: 1, ..newer };
        assert!(goes_before(&urgent, &older));
    }
}
