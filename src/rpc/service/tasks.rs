//! The service for flows and people.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::endpoints::dead_sessions;
use super::{caller, invalid, refusal};
use crate::controller::{Controller, Submission, Watched, Watcher};
use crate::ids::TaskId;
use crate::rpc::convert::{named, optional, task};
use crate::rpc::wire::{self, tasks_server};
use crate::runtime::tasks::spawn;
use crate::store::{Page, Store, TaskFilter};

/// Tasks of a page that asks for no number.
const USUAL_PAGE: u32 = 100;

/// Tasks that wait for a watcher that reads slowly; then the watcher waits for it.
const WATCHED: usize = 64;

/// The service.
pub(super) struct TaskService<S> {
    pub(super) controller: Arc<Controller<S>>,
    pub(super) stopping: CancellationToken,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<S: Store> tasks_server::Tasks for TaskService<S> {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::Task, Status>> + Send>>;

    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Answer<wire::SubmitResponse> {
        let caller = caller(&request)?;
        let order = Submission::try_from(request.into_inner()).map_err(invalid)?;
        let receipt = self.controller.submit(&caller, order).await.map_err(refusal)?;
        Ok(Response::new(receipt.into()))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Answer<wire::GetResponse> {
        let caller = caller(&request)?;
        let wire::GetRequest { ids } = request.into_inner();
        let tasks = self.controller.get(&caller, task::task_ids(ids).map_err(invalid)?).await.map_err(refusal)?;
        Ok(Response::new(wire::GetResponse { tasks: shown(tasks) }))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListResponse> {
        let caller = caller(&request)?;
        let wire::ListRequest { filter, most, page } = request.into_inner();
        let before: Option<TaskId> = optional("page", page).map_err(invalid)?;
        let most = if most == 0 { USUAL_PAGE } else { most };
        let tasks = self.controller.list(&caller, checked(filter)?, Page { before, most }).await.map_err(refusal)?;
        let full = tasks.len() >= most as usize;
        let next = tasks.last().filter(|_| full).map(|last| last.record.task.id.to_string()).unwrap_or_default();
        Ok(Response::new(wire::ListResponse { tasks: shown(tasks), next }))
    }

    async fn count(&self, request: Request<wire::ListRequest>) -> Answer<wire::CountResponse> {
        let caller = caller(&request)?;
        let wire::ListRequest { filter, most: _, page: _ } = request.into_inner();
        let counts = self.controller.count(&caller, checked(filter)?).await.map_err(refusal)?;
        let counts = counts
            .into_iter()
            .map(|(state, tasks)| wire::count_response::Count { state: wire::State::from(state).into(), tasks });
        Ok(Response::new(wire::CountResponse { counts: counts.collect() }))
    }

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Answer<Self::WatchStream> {
        let caller = caller(&request)?;
        let wire::WatchRequest { filter } = request.into_inner();
        let mut watcher = self.controller.watch(&caller, checked(filter)?).map_err(refusal)?;
        let (send, receive) = mpsc::channel(WATCHED);
        let (controller, stopping) = (Arc::clone(&self.controller), self.stopping.clone());
        // ends when nobody reads, or when the controller stops
        spawn("watch", async move {
            let told = send.clone();
            let denied = tokio::select! {
                // what was not told comes again with the next watch
                () = tell(&mut watcher, &controller, told, &stopping) => return,
                denied = controller.until_denied(&caller) => denied,
            };
            // a reader that is slow hears the end without the reason
            let _slow = send.try_send(Err(refusal(denied)));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn cancel(&self, request: Request<wire::CancelRequest>) -> Answer<wire::CancelResponse> {
        let caller = caller(&request)?;
        let wire::CancelRequest { ids } = request.into_inner();
        let tasks = self.controller.cancel(&caller, task::task_ids(ids).map_err(invalid)?).await.map_err(refusal)?;
        Ok(Response::new(wire::CancelResponse { tasks: shown(tasks) }))
    }

    async fn get_actions(&self, request: Request<wire::GetActionsRequest>) -> Answer<wire::GetActionsResponse> {
        let caller = caller(&request)?;
        let wire::GetActionsRequest { ids } = request.into_inner();
        let ids = task::action_ids(ids).map_err(invalid)?;
        let actions = self.controller.actions(&caller, ids).await.map_err(refusal)?;
        Ok(Response::new(wire::GetActionsResponse { actions: actions.into_iter().map(Into::into).collect() }))
    }

    async fn timeline(&self, request: Request<wire::TimelineRequest>) -> Answer<wire::TimelineResponse> {
        let caller = caller(&request)?;
        let wire::TimelineRequest { task } = request.into_inner();
        let events = self.controller.timeline(&caller, named("task", task).map_err(invalid)?).await.map_err(refusal)?;
        Ok(Response::new(wire::TimelineResponse { events: events.into_iter().map(Into::into).collect() }))
    }

    async fn list_endpoints(
        &self,
        request: Request<wire::ListEndpointsRequest>,
    ) -> Answer<wire::ListEndpointsResponse> {
        let caller = caller(&request)?;
        let now = self.controller.now();
        let endpoints = self.controller.endpoints(&caller).await.map_err(refusal)?;
        let endpoints = endpoints.into_iter().map(|record| task::endpoint(record, now)).collect();
        Ok(Response::new(wire::ListEndpointsResponse { endpoints }))
    }

    async fn forget_endpoint(
        &self,
        request: Request<wire::ForgetEndpointRequest>,
    ) -> Answer<wire::ForgetEndpointResponse> {
        let caller = caller(&request)?;
        let wire::ForgetEndpointRequest { endpoint, dead } = request.into_inner();
        let dead = dead_sessions("dead", dead).map_err(invalid)?;
        let forgotten = self.controller.forget_endpoint(&caller, &endpoint, dead).await.map_err(refusal)?;
        Ok(Response::new(wire::ForgetEndpointResponse { endpoint: forgotten.to_string() }))
    }
}

/// Tells changes until nobody reads, the controller stops or its store fails.
async fn tell<S: Store>(
    watcher: &mut Watcher,
    controller: &Controller<S>,
    send: mpsc::Sender<Result<wire::Task, Status>>,
    stopping: &CancellationToken,
) {
    loop {
        let changes = tokio::select! {
            // changes that were not read come again with the next watch
            changes = watcher.next(controller) => changes,
            // tokens may be awaited again
            () = stopping.cancelled() => return,
            // the reader is gone
            () = send.closed() => return,
        };
        let answers = match changes {
            Ok(tasks) => shown(tasks).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(refusal(error))],
        };
        for answer in answers {
            let last = answer.is_err();
            if send.send(answer).await.is_err() || last {
                return;
            }
        }
    }
}

fn shown(tasks: Vec<Watched>) -> Vec<wire::Task> {
    tasks.into_iter().map(Into::into).collect()
}

fn checked(filter: Option<wire::Filter>) -> Result<TaskFilter, Status> {
    filter.unwrap_or_default().try_into().map_err(invalid)
}
