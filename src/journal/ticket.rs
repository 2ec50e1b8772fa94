//! Who waits for a sync, and how they hear of it.
//!
//! Invariant: everyone who waits is told, whoever leaves meanwhile. Of each thread only the first to wait is woken by
//! the writer, and wakes the others when it looks: waking a task from another thread costs a system call, from its own
//! thread nothing.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::{self, Thread, ThreadId};

use super::{JournalError, lock};

const PENDING: u8 = 0;
const COMMITTED: u8 = 1;
const LOST: u8 = 2;

/// The shared fate of the records that one sync covers.
#[derive(Debug, Default)]
pub(super) struct Batch {
    state: AtomicU8,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    error: Option<JournalError>,
    /// Empty where somebody left or has been woken by another of its thread.
    waiting: Vec<Option<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    thread: ThreadId,
    waker: Waker,
}

impl Waiters {
    /// The first waiter of each thread. It stays where it is: the others are woken by whoever looks first.
    fn first_of_each_thread(&self) -> Vec<Waker> {
        let mut firsts: Vec<&Waiter> = Vec::new();
        for waiter in self.waiting.iter().flatten() {
            if firsts.iter().all(|first| first.thread != waiter.thread) {
                firsts.push(waiter);
            }
        }
        firsts.into_iter().map(|first| first.waker.clone()).collect()
    }

    /// Everyone who waits on the thread of the one in `slot`, itself first; nobody if that one has been woken.
    fn take_thread_of(&mut self, slot: usize) -> Vec<Waiter> {
        let Some(this) = self.waiting.get_mut(slot).and_then(Option::take) else { return Vec::new() };
        let thread = this.thread;
        let others = self.waiting.iter_mut().filter_map(|slot| slot.take_if(|waiter| waiter.thread == thread));
        std::iter::once(this).chain(others).collect()
    }
}

impl Batch {
    /// Tells everyone who waits, after `count`ing them. The first word holds: nothing happens if they were told before.
    pub(super) fn complete(&self, result: Result<(), JournalError>, count: impl FnOnce()) {
        let mut waiters = lock(&self.waiters);
        if self.state.load(Ordering::Acquire) != PENDING {
            return;
        }
        count();
        let state = if result.is_ok() { COMMITTED } else { LOST };
        waiters.error = result.err();
        self.state.store(state, Ordering::Release);
        let firsts = waiters.first_of_each_thread();
        drop(waiters);
        firsts.into_iter().for_each(Waker::wake);
    }
}

/// The promise of one record: answers when its batch is on disk, or why it will not be. Dropping it stops the wait and
/// not the record.
#[derive(Debug)]
#[must_use = "a record is on disk only when its ticket says so"]
pub struct Ticket {
    batch: Arc<Batch>,
    slot: Option<usize>,
}

impl Ticket {
    pub(super) fn of(batch: Arc<Batch>) -> Self {
        Self { batch, slot: None }
    }

    /// Waits on the calling thread: for starts and ends, never for calls.
    pub fn wait(mut self) -> Result<(), JournalError> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(result) = Pin::new(&mut self).poll(&mut context) {
                return result;
            }
            thread::park();
        }
    }

    /// Stops waiting. If the batch was told, so are the others of this thread, which the writer has left to this one.
    fn leave(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut waiters = lock(&self.batch.waiters);
        if self.batch.state.load(Ordering::Acquire) == PENDING {
            drop(waiters.waiting.get_mut(slot).and_then(Option::take));
            return;
        }
        let thread = waiters.take_thread_of(slot);
        drop(waiters);
        thread.into_iter().skip(1).for_each(|other| other.waker.wake());
    }

    /// What became of the batch, if it is known.
    fn fate(&self) -> Option<Result<(), JournalError>> {
        match self.batch.state.load(Ordering::Acquire) {
            PENDING => None,
            COMMITTED => Some(Ok(())),
            _ => Some(Err(lock(&self.batch.waiters).error.clone().unwrap_or(JournalError::Closed))),
        }
    }

    /// Begins or goes on to wait; `false` if the batch was told meanwhile.
    fn register(&mut self, waker: &Waker) -> bool {
        let mut waiters = lock(&self.batch.waiters);
        if self.batch.state.load(Ordering::Acquire) != PENDING {
            return false;
        }
        let waiter = Waiter { thread: thread::current().id(), waker: waker.clone() };
        match self.slot.and_then(|slot| waiters.waiting.get_mut(slot)) {
            Some(place) => *place = Some(waiter),
            None => {
                self.slot = Some(waiters.waiting.len());
                waiters.waiting.push(Some(waiter));
            }
        }
        true
    }
}

impl Future for Ticket {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Some(fate) = self.fate() {
                self.leave();
                return Poll::Ready(fate);
            }
            if self.register(context.waker()) {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
    }
}

struct Unpark(Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Task {
        ticket: Option<Ticket>,
        woken: Arc<Woken>,
    }

    impl Task {
        fn of(batch: &Arc<Batch>) -> Self {
            let mut task = Self { ticket: Some(Ticket::of(batch.clone())), woken: Arc::default() };
            assert_eq!(task.poll(), Poll::Pending);
            task
        }

        /// Whether the batch is on disk, once that is known.
        fn poll(&mut self) -> Poll<bool> {
            let waker = Waker::from(self.woken.clone());
            let polled = Pin::new(self.ticket.as_mut().unwrap()).poll(&mut Context::from_waker(&waker));
            polled.map(|fate| fate.is_ok())
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn the_first_of_each_thread_is_woken_and_wakes_the_others_when_it_looks() {
        let batch = Arc::new(Batch::default());
        let mut here = [(); 3].map(|()| Task::of(&batch));
        let there = thread::scope(|scope| scope.spawn(|| [(); 2].map(|()| Task::of(&batch))).join()).unwrap();
        let mut counted = 0;
        batch.complete(Ok(()), || counted += 1);
        batch.complete(Err(JournalError::Closed), || counted += 1);
        assert_eq!(counted, 1);
        assert_eq!(here.each_ref().map(Task::woken), [1, 0, 0]);
        assert_eq!(there.each_ref().map(Task::woken), [1, 0]);
        assert_eq!(here[0].poll(), Poll::Ready(true));
        assert_eq!(here.each_ref().map(Task::woken), [1, 1, 1]);
        assert_eq!(there.each_ref().map(Task::woken), [1, 0]);
    }

    proptest! {
        /// Tasks leave, look again and are told in any order: whoever stays is woken and hears the batch's fate.
        #[test]
        fn whoever_stays_is_told(count in 1..8_usize, steps in prop::collection::vec((0..8_usize, any::<bool>()), 0..24),
            told_at in 0..24_usize, lost in any::<bool>())
        {
            let batch = Arc::new(Batch::default());
            let fate = || if lost { Err(JournalError::Busy) } else { Ok(()) };
            let mut tasks: Vec<_> = (0..count).map(|_| Task::of(&batch)).collect();
            for (at, (task, leaves)) in steps.iter().enumerate() {
                if at == told_at {
                    batch.complete(fate(), || ());
                }
                let task = &mut tasks[task % count];
                match (&task.ticket, leaves) {
                    (Some(_), true) => task.ticket = None,
                    (Some(_), false) => if task.poll().is_ready() { task.ticket = None },
                    (None, _) => {}
                }
            }
            batch.complete(fate(), || ());
            // A runtime polls whoever was woken, until nobody is.
            while let Some(task) = tasks.iter_mut().find(|task| task.ticket.is_some() && task.woken() > 0) {
                prop_assert_eq!(task.poll(), Poll::Ready(!lost));
                task.ticket = None;
            }
            prop_assert!(tasks.iter().all(|task| task.ticket.is_none()));
        }
    }
}
