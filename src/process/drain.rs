//! How a process ends.
//!
//! Invariant: the first signal lets what runs finish until a deadline, the second (or the deadline) ends it; nothing
//! that was spawned through a [`Drain`] outlives it unnoticed.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The end of a process, shared by all its tasks. Clones are the same drain.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    draining: CancellationToken,
    aborted: CancellationToken,
    tasks: TaskTracker,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Every task ended by itself.
    Clean,
    /// A second signal came, with this many tasks still running.
    Aborted(usize),
    /// The deadline passed, with this many tasks still running.
    TimedOut(usize),
}

impl Drain {
    /// A drain that nothing has started yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when draining starts: stop accepting, finish what runs.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled when patience has ended: drop everything.
    pub fn aborted(&self) -> &CancellationToken {
        &self.aborted
    }

    /// Runs a task that the drain waits for, and that is dropped at its next await once patience has ended.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
        // A token of its own: polling one that all tasks share would have them wait for one another's lock.
        let aborted = self.aborted.child_token();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = aborted.cancelled() => {}
            }
        });
    }

    /// Runs a task that the drain waits for on another runtime than the caller's: it ends with that runtime, which is
    /// to be ended once patience has.
    pub fn spawn_on<F: Future<Output = ()> + Send + 'static>(&self, task: F, runtime: &Handle) {
        self.tasks.spawn_on(task, runtime);
    }

    /// Starts draining.
    pub fn start(&self) {
        self.draining.cancel();
    }

    /// Ends patience; also starts draining.
    pub fn abort(&self) {
        self.draining.cancel();
        self.aborted.cancel();
    }

    /// Lets SIGTERM and SIGINT drive this drain from now on: the first starts it, the second aborts.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = self.clone();
        tokio::spawn(async move {
            for step in [Drain::start, Drain::abort] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                step(&drain);
            }
        });
        Ok(())
    }

    /// Waits until draining starts, then until all tasks have ended, patience ends, or `deadline` passes.
    pub async fn finish(&self, deadline: Duration) -> Finish {
        self.draining.cancelled().await;
        self.tasks.close();
        let finish = tokio::select! {
            biased;
            () = self.tasks.wait() => Finish::Clean,
            () = self.aborted.cancelled() => Finish::Aborted(self.tasks.len()),
            () = tokio::time::sleep(deadline) => Finish::TimedOut(self.tasks.len()),
        };
        self.aborted.cancel();
        finish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_heeds_the_drain_ends_it_cleanly() {
        let drain = Drain::new();
        let token = drain.draining().clone();
        drain.spawn(async move { token.cancelled().await });
        drain.start();
        assert_eq!(drain.finish(Duration::from_secs(60)).await, Finish::Clean);
    }

    #[tokio::test]
    async fn a_second_signal_ends_what_does_not_heed_it() {
        let drain = Drain::new();
        drain.spawn(std::future::pending());
        drain.start();
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finish(Duration::from_secs(60)).await }
        });
        drain.abort();
        let finish = waiting.await.unwrap();
        assert!(matches!(finish, Finish::Aborted(_) | Finish::Clean), "{finish:?}");
        drain.tasks.wait().await;
    }

    #[tokio::test]
    async fn the_deadline_ends_what_hangs() {
        let drain = Drain::new();
        drain.spawn(std::future::pending());
        drain.start();
        assert_eq!(drain.finish(Duration::from_millis(1)).await, Finish::TimedOut(1));
        drain.tasks.wait().await;
    }
}
