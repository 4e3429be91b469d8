//! The worker's loop with an endpoint that the test plays, on a clock that stands still.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::config::endpoint::{GpuUse, Site};
use crate::config::roots::RawRoots;
use crate::protocol::session::Reported;
use crate::protocol::worker::Handout;
use crate::task::spec::TaskSpec;
use crate::worker::executor::Setup;
use crate::worker::gpus::Choice;

/// By the clock of the test: longer than anything takes.
const LONG: Duration = Duration::from_secs(600);

/// An endpoint that takes one connection.
struct Endpoint(Mutex<Option<EndpointConnection>>);

impl DialEndpoint for Endpoint {
    async fn dial(&self, _: Joining) -> Result<EndpointConnection, EndpointLinkError> {
        let line = self.0.lock().expect("no panic").take();
        line.ok_or_else(|| EndpointLinkError::Refused("once".into()))
    }
}

/// The test's ends of the connection.
struct Ends {
    tell: mpsc::Sender<ToWorker>,
    hear: mpsc::Receiver<FromWorker>,
}

impl Ends {
    async fn tell(&self, said: ToWorker) {
        self.tell.send(said).await.expect("it listens");
    }

    /// The next report; what else it says is answered.
    async fn report(&mut self) -> Vec<Reported> {
        loop {
            match self.hear.recv().await.expect("it speaks") {
                FromWorker::Reports(reports) => return reports,
                FromWorker::Beat { number } => {
                    self.tell(ToWorker::Lease { number, lasts: Duration::from_secs(100) }).await;
                }
                FromWorker::Started(_)
                | FromWorker::Progress(_)
                | FromWorker::Naming { .. }
                | FromWorker::Facts(_)
                | FromWorker::Leaving => {}
            }
        }
    }
}

/// A worker with so many slots, and its endpoint.
fn worker(slots: u32, directory: &std::path::Path) -> (impl Future<Output = Result<(), WorkerError>>, Ends) {
    let worker = WorkerId::new(uuid::Uuid::from_u128(1));
    let setup = Setup {
        program: "/bin/false".into(),
        logs: directory.join("logs"),
        scratch: directory.join("scratch"),
        grace: Duration::from_secs(10),
        worker,
    };
    let executors = Executors::start(setup).expect("executors");
    let choice =
        Choice { gpus: GpuUse::None, slots, slots_per_gpu: std::num::NonZeroU32::MIN, quiet: Duration::from_secs(300) };
    let gpus = Gpus::start(choice, || {}).expect("no threads");
    let slot = Slot { threads: std::num::NonZeroUsize::MIN, memory: 1 << 30, gpu: None };
    let block = BlockId::new(uuid::Uuid::from_u128(2));
    let settings = WorkerSettings { worker, block, host: "nid1".into(), slots, login_slots: 1, slot };
    let ((say, hear), (tell, told)) = (mpsc::channel(64), mpsc::channel(64));
    let site = Site { roots: RawRoots { read: Vec::new(), write: Vec::new() }, commands: BTreeMap::new() };
    let line = EndpointConnection { site, say, hear: told };
    let dial = Endpoint(Mutex::new(Some(line)));
    let run = run(settings, gpus, Arc::new(Notify::new()), executors, dial, CancellationToken::new());
    (run, Ends { tell, hear })
}

fn handout(task: u128) -> Handout {
    let attempt = AttemptId { task: TaskId::new(uuid::Uuid::from_u128(task)), number: AttemptNumber::FIRST };
    Handout { attempt, spec: TaskSpec::Nothing, earlier: None, time_left: None }
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_given_back_when_it_is_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let (worker, mut ends) = worker(0, directory.path());
    let (waits, unknown) = (handout(1), handout(2));
    let asking = async {
        ends.tell(ToWorker::Work(vec![waits.clone()])).await;
        ends.tell(ToWorker::Return(vec![waits.attempt, unknown.attempt])).await;
        let [Reported { attempt, outcome, .. }] = ends.report().await.try_into().expect("one");
        assert_eq!((attempt, outcome), (waits.attempt, Outcome::Lost(Loss::Returned)));
        ends.tell(ToWorker::Recorded(vec![waits.attempt])).await;
        ends.tell(ToWorker::Leave).await;
        let mut last = None;
        while let Some(said) = ends.hear.recv().await {
            last = Some(said);
        }
        assert_eq!(last, Some(FromWorker::Leaving), "and the connection ends");
    };
    let done = async { tokio::join!(worker, asking) };
    let (ended, ()) = tokio::time::timeout(LONG, done).await.expect("it is given back");
    ended.expect("leaves");
}
