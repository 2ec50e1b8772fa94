//! One thread per core, each with a runtime of its own, for what serves connections.
//!
//! Invariant: what a worker runs stays on its thread, with everything that it spawns. So the tasks of one call wake one
//! another without a lock or a system call, which a runtime that shares its tasks between threads cannot promise
//! (docs/architecture.md, "Threads"). A worker takes the next connection when it has the fewest.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// How long a worker that ends waits for what it has started and cannot stop, such as the look-up of a name.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// The workers of a process. They end, and what they still run is dropped, when this is.
#[derive(Debug)]
pub struct Workers {
    seats: Seats,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// The workers' places for connections. Clones are the same places.
#[derive(Clone, Debug)]
pub struct Seats {
    first: Worker,
    others: Arc<[Worker]>,
}

#[derive(Clone, Debug)]
struct Worker {
    runtime: Handle,
    taken: Arc<AtomicUsize>,
}

/// A connection's place at a worker, taken for as long as it is held.
#[derive(Debug)]
pub struct Seat {
    runtime: Handle,
    taken: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts one worker per core that this process may use.
    ///
    /// # Errors
    /// If a thread or its runtime cannot be made.
    pub fn start() -> io::Result<Self> {
        Self::of(thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN))
    }

    fn of(count: NonZero<usize>) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (first, thread) = start(0, stop.clone())?;
        let mut threads = vec![thread];
        let mut others = Vec::new();
        for number in 1..count.get() {
            let (worker, thread) = start(number, stop.clone())?;
            others.push(worker);
            threads.push(thread);
        }
        Ok(Self { seats: Seats { first, others: others.into() }, threads, stop })
    }

    /// Their places for connections.
    pub fn seats(&self) -> &Seats {
        &self.seats
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread had panicked");
            }
        }
    }
}

fn start(number: usize, stop: CancellationToken) -> io::Result<(Worker, JoinHandle<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let worker = Worker { runtime: runtime.handle().clone(), taken: Arc::default() };
    let run = move || {
        runtime.block_on(stop.cancelled());
        // Drops its tasks here; a blocking one would otherwise be waited for, however long it takes.
        runtime.shutdown_timeout(LAST_WAIT);
    };
    Ok((worker, thread::Builder::new().name(format!("worker-{number}")).spawn(run)?))
}

impl Seats {
    /// A place at the worker that has the fewest taken.
    pub fn take(&self) -> Seat {
        let taken = |worker: &Worker| worker.taken.load(Ordering::Relaxed);
        let fewer = |best, other| if taken(other) < taken(best) { other } else { best };
        let worker = self.others.iter().fold(&self.first, fewer);
        Seat::at(worker.runtime.clone(), worker.taken.clone())
    }
}

impl Seat {
    fn at(runtime: Handle, taken: Arc<AtomicUsize>) -> Self {
        taken.fetch_add(1, Ordering::Relaxed);
        Self { runtime, taken }
    }

    /// The worker's runtime.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worker_with_the_fewest_seats_taken_is_next_and_each_keeps_to_its_thread() {
        let workers = Workers::of(NonZero::new(2).unwrap()).unwrap();
        let name = |seat: &Seat| {
            let (sender, receiver) = std::sync::mpsc::channel();
            // A task, and one that it spawns: both on the worker's thread.
            seat.runtime().spawn(async move {
                let inner = tokio::spawn(async { thread::current().name().map(str::to_owned) }).await.unwrap();
                assert_eq!(inner.as_deref(), thread::current().name());
                sender.send(inner.unwrap()).unwrap();
            });
            receiver.recv().unwrap()
        };
        let (first, second) = (workers.seats().take(), workers.seats().take());
        assert_eq!((name(&first).as_str(), name(&second).as_str()), ("worker-0", "worker-1"));
        drop(second);
        assert_eq!(name(&workers.seats().take()), "worker-1");
        let third = workers.seats().take();
        assert_eq!(name(&third), "worker-1");
        drop(first);
        assert_eq!(name(&workers.seats().take()), "worker-0");
    }

    #[test]
    fn what_cannot_be_stopped_is_not_waited_for() {
        let workers = Workers::of(NonZero::<usize>::MIN).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = std::sync::mpsc::channel();
        workers.seats().take().runtime().spawn_blocking(move || {
            begun.send(()).unwrap();
            // Until the test is over: nothing is sent.
            receiver.recv().ok();
        });
        has_begun.recv().unwrap();
        drop(workers);
        drop(sender);
    }

    #[test]
    fn what_still_runs_is_dropped_with_the_workers() {
        let workers = Workers::of(NonZero::<usize>::MIN).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        workers.seats().take().runtime().spawn(async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert_eq!(receiver.recv(), Err(std::sync::mpsc::RecvError));
    }
}
