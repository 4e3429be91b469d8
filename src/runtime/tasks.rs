//! Tasks of the async runtime, each with a name and all joined at the end; the one place that spawns them.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The tasks of a role: told to stop together, and waited for.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Starts a task. One that panics has all the others stopped: a role that lost a part is not to go on as if it
    /// had not.
    pub fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        let running = spawn(name, work);
        self.tracker.spawn(async move {
            if let Err(error) = running.await {
                tracing::error!(task = name, %error, "a part of the program failed, the others are stopped");
                stop.cancel();
            }
        });
    }

    /// Says when it is time to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Has all tasks stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until all have ended.
    pub async fn join(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Starts a task whose end the caller sees to.
pub fn spawn<F>(name: &'static str, work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    let task = tokio::spawn(work.instrument(tracing::debug_span!("part", name)));
    task
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_are_told_and_joined() {
        let tasks = Tasks::default();
        let (said, mut heard) = tokio::sync::mpsc::channel(2);
        for _ in 0..2 {
            let (said, stopping) = (said.clone(), tasks.stopping());
            tasks.spawn("waits", async move {
                stopping.cancelled().await;
                said.send(()).await.expect("the test listens");
            });
        }
        drop(said);
        tasks.stop();
        tasks.join().await;
        assert_eq!((heard.recv().await, heard.recv().await, heard.recv().await), (Some(()), Some(()), None));
    }

    #[tokio::test]
    async fn one_that_panics_stops_the_others() {
        let tasks = Tasks::default();
        let stopping = tasks.stopping();
        tasks.spawn("waits", async move { stopping.cancelled().await });
        tasks.spawn("fails", async { panic!("on purpose") });
        tasks.join().await;
        assert!(tasks.stopping().is_cancelled());
    }
}
