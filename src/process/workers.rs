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

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The workers of a process. They end, and what they still run is dropped, when this is.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    seats: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
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
        let workers = (0..count.get()).map(|n| Worker::start(n, stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self { workers, stop })
    }

    /// A place at the worker that has the fewest taken.
    pub fn seat(&self) -> Seat {
        let taken = |worker: &&Worker| worker.seats.load(Ordering::Relaxed);
        let worker = self.workers.iter().min_by_key(taken);
        match worker {
            Some(worker) => Seat::at(worker.runtime.clone(), worker.seats.clone()),
            // There is one worker at least; without any, the caller's own runtime serves.
            None => Seat::at(Handle::current(), Arc::default()),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            if thread.join().is_err() {
                tracing::error!("a worker thread had panicked");
            }
        }
    }
}

impl Worker {
    fn start(number: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || runtime.block_on(stop.cancelled()))?;
        Ok(Self { runtime: handle, seats: Arc::default(), thread: Some(thread) })
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
        let (first, second) = (workers.seat(), workers.seat());
        assert_eq!((name(&first).as_str(), name(&second).as_str()), ("worker-0", "worker-1"));
        drop(second);
        assert_eq!(name(&workers.seat()), "worker-1");
        let third = workers.seat();
        assert_eq!(name(&third), "worker-1");
        drop(first);
        assert_eq!(name(&workers.seat()), "worker-0");
    }

    #[test]
    fn what_still_runs_is_dropped_with_the_workers() {
        let workers = Workers::of(NonZero::<usize>::MIN).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        workers.seat().runtime().spawn(async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert_eq!(receiver.recv(), Err(std::sync::mpsc::RecvError));
    }
}
