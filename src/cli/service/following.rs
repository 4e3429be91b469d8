//! Follows tasks for a command, whatever becomes of the controller meanwhile: connects again when the connection breaks,
//! says so once, shows what changed in between, and nothing twice. Prints no task.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::{RemoteArgs, ServiceError};
use crate::cli::exit::chain;
use crate::cli::output;
use crate::ids::TaskId;
use crate::rpc::client::{Changes, Client};
use crate::rpc::view::{ProgressView, TaskView};
use crate::runtime::pause::pause;
use crate::store::{StateName, TaskFilter};
use crate::task::time::Moment;

/// The most tasks that are followed, or looked at after a break.
pub(super) const MOST: usize = 100_000;

/// Tasks that changed so long before the last one that was shown may have been on their way when the connection broke.
const ON_THEIR_WAY: Duration = Duration::from_secs(10);

/// How long, and how often, a controller that is gone is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The pause before the second try; doubled with each further one.
    first: Duration,
    /// The longest: somebody waits at a terminal.
    longest: Duration,
    /// After that it is given up: a controller's computer has restarted by then.
    whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_millis(200), longest: Duration::from_secs(10), whole: Duration::from_secs(600) }
    }
}

/// What is followed.
pub(super) struct Following {
    remote: RemoteArgs,
    filter: TaskFilter,
    patience: Patience,
    client: Client,
    /// None while the connection is broken.
    changes: Option<Changes>,
    /// Changed while the connection was broken, and not shown yet.
    missed: VecDeque<TaskView>,
    shown: Shown,
}

/// What was shown of each task last.
#[derive(Debug, Default)]
struct Shown {
    tasks: BTreeMap<TaskId, Seen>,
    /// The newest change.
    newest: Option<Moment>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    state: StateName,
    attempt: u32,
    changed: Moment,
    progress: Option<ProgressView>,
}

impl Following {
    /// Connects, and listens from now on.
    pub(super) async fn start(remote: RemoteArgs, filter: TaskFilter) -> Result<Self, ServiceError> {
        let client = remote.connect().await?;
        Self::over(client, remote, filter).await
    }

    /// Listens from now on to a controller that has answered before.
    pub(super) async fn over(mut client: Client, remote: RemoteArgs, filter: TaskFilter) -> Result<Self, ServiceError> {
        let begun = client.watch(&filter).await;
        let (missed, shown) = (VecDeque::new(), Shown::default());
        let mut following =
            Self { remote, filter, patience: Patience::default(), client, changes: None, missed, shown };
        match begun {
            Ok(changes) => following.changes = Some(changes),
            Err(error) => following.come_back(error.into()).await?,
        }
        Ok(following)
    }

    /// For further questions.
    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The next task that changed.
    pub(super) async fn next(&mut self) -> Result<TaskView, ServiceError> {
        loop {
            let heard = match (self.missed.pop_front(), &mut self.changes) {
                (Some(task), _) => Ok(Some(task)),
                (None, Some(changes)) => changes.next().await,
                (None, None) => Ok(None),
            };
            let task = match heard {
                Ok(Some(task)) => task,
                Ok(None) => {
                    self.come_back(ServiceError::Ended).await?;
                    continue;
                }
                Err(error) => {
                    self.come_back(error.into()).await?;
                    continue;
                }
            };
            if self.shown.is_news(&task) {
                return Ok(task);
            }
        }
    }

    /// Connects again after a failure, if that may pass.
    pub(super) async fn come_back(&mut self, error: ServiceError) -> Result<(), ServiceError> {
        if !error.is_passing() {
            return Err(error);
        }
        let Patience { first, longest, whole } = self.patience;
        let words = chain(&error);
        output::note_below(format_args!("{words}; connecting again, for up to {} s", whole.as_secs()));
        let begun = Instant::now();
        for failed in 0.. {
            match self.try_again().await {
                Ok(()) => break,
                Err(error) if !error.is_passing() => return Err(error),
                Err(error) => {
                    let pause = pause(first, failed, longest);
                    if begun.elapsed() + pause > whole {
                        let waited_s = begun.elapsed().as_secs();
                        return Err(ServiceError::Lost { waited_s, source: Box::new(error) });
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
        output::note_below("connected again");
        Ok(())
    }

    async fn try_again(&mut self) -> Result<(), ServiceError> {
        let mut client = self.remote.connect().await?;
        // first listen, then look: a change in between is heard
        let changes = client.watch(&self.filter).await?;
        let now = client.list(&self.filter, MOST).await?;
        let missed = now.into_iter().rev().filter(|task| self.shown.may_have_missed(task));
        self.missed.extend(missed);
        (self.client, self.changes) = (client, Some(changes));
        Ok(())
    }
}

impl Shown {
    /// Whether the task is not as it was shown; it is shown now.
    fn is_news(&mut self, task: &TaskView) -> bool {
        let TaskView { id, state, attempt, changed, .. } = *task;
        let seen = Seen { state, attempt, changed, progress: task.progress.clone() };
        let is_news = self.tasks.get(&id).is_none_or(|before| seen.is_news_after(before));
        self.newest = self.newest.max(Some(changed));
        self.tasks.insert(id, seen);
        if self.tasks.len() > MOST {
            // ids ascend: the oldest task
            self.tasks.pop_first();
        }
        is_news
    }

    /// Whether a task that is looked at after a break has to be shown: it is not as it was, or is new.
    fn may_have_missed(&self, task: &TaskView) -> bool {
        match self.tasks.get(&task.id) {
            Some(_) => true,
            None => self.newest.is_none_or(|newest| task.changed.after(ON_THEIR_WAY) >= newest),
        }
    }
}

impl Seen {
    fn is_news_after(&self, before: &Self) -> bool {
        let Self { state, attempt, changed, progress } = self;
        // a controller that was restarted does not know yet how far a task is
        let is_further = progress.is_some() && *progress != before.progress;
        (*state, *attempt, *changed) != (before.state, before.attempt, before.changed) || is_further
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::controller::bus::LocalBus;
    use crate::controller::{Controller, Policy};
    use crate::rpc::service::Services;
    use crate::runtime::clock::Clock;
    use crate::runtime::tasks::spawn;
    use crate::store::{Role, open_sqlite};

    fn task(number: u128, state: StateName, changed: u64) -> TaskView {
        TaskView::testing(number, state, changed)
    }

    #[test]
    fn what_was_shown_is_not_shown_again_and_what_was_not_is() {
        let mut shown = Shown::default();
        let progress = |done| Some(ProgressView { step: "reading".into(), done, total: 9 });
        let running = TaskView { progress: progress(1), ..task(1, StateName::Running, 100_000) };
        assert!(shown.may_have_missed(&running), "nothing was shown yet");
        assert!(shown.is_news(&running) && !shown.is_news(&running));
        let forgotten = TaskView { progress: None, ..running.clone() };
        assert!(!shown.is_news(&forgotten), "the controller has forgotten how far it is");
        assert!(shown.is_news(&TaskView { progress: progress(2), ..running.clone() }));
        assert!(shown.is_news(&TaskView { attempt: 2, ..running }), "a later attempt");
        assert!(shown.is_news(&task(1, StateName::Succeeded, 100_001)));
        // after a break
        assert!(shown.may_have_missed(&task(1, StateName::Succeeded, 100_001)), "looked at again");
        assert!(shown.may_have_missed(&task(2, StateName::Queued, 100_002)), "it came meanwhile");
        assert!(shown.may_have_missed(&task(3, StateName::Queued, 95_000)), "it may have been on its way");
        assert!(!shown.may_have_missed(&task(4, StateName::Queued, 50_000)), "it was old when others were shown");
    }

    #[test]
    fn what_was_shown_takes_bounded_memory() {
        let mut shown = Shown::default();
        for number in 0..MOST as u128 + 10 {
            shown.is_news(&task(number, StateName::Queued, 1));
        }
        assert_eq!(shown.tasks.len(), MOST);
        assert!(!shown.is_news(&task(MOST as u128, StateName::Queued, 1)), "the newest are remembered");
    }

    #[tokio::test]
    async fn a_controller_that_does_not_come_back_is_given_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open_sqlite(&dir.path().join("controller.db"), Clock::start()).await.expect("a store");
        let made =
            crate::cli::service::token::make(&store, "ada".parse().expect("a subject"), vec![Role::View], vec![], None);
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, made.await.expect("made").1.reveal()).expect("written");
        let controller = Controller::start(store, Arc::new(LocalBus::default()), Policy::default()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let stopping = CancellationToken::new();
        let services = Services::new(None).expect("nothing can be wrong");
        let served = services.serve(Arc::new(controller.expect("starts")), listener, stopping.clone());
        let served = spawn("server", served);
        let remote =
            RemoteArgs { controller: Some(url), ca: None, token_file: Some(token_file), certificate: None, key: None };
        let mut following = Following::start(remote, TaskFilter::default()).await.expect("may");
        let [first, longest] = [Duration::from_millis(50); 2];
        following.patience = Patience { first, longest, whole: Duration::from_secs(1) };
        stopping.cancel();
        served.await.expect("does not panic").expect("serves to the end");
        let begun = Instant::now();
        let error = following.next().await.expect_err("it has gone");
        assert!(matches!(error, ServiceError::Lost { .. }) && chain(&error).contains("nobody listens"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
