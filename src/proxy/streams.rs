//! How many streams each identity has open.
//!
//! Invariant: a slot is given back when its stream ends, however it ends (mcp-obligations 71). A call that was made is
//! never refused its answer: whether there is room for one is asked before it is made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Open streams, counted by the identity's binding. Taken per stream, not per call.
#[derive(Debug)]
pub struct Streams {
    most: u32,
    open: Mutex<HashMap<[u8; 32], u32>>,
    /// How many identities have as many as they may: while none has, calls take no lock.
    full: AtomicUsize,
}

/// One open stream.
#[derive(Debug)]
pub struct Slot {
    streams: Arc<Streams>,
    identity: [u8; 32],
}

impl Streams {
    /// Streams of which each identity may have `most`.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default(), full: AtomicUsize::new(0) })
    }

    /// Takes a slot, unless the identity has as many as it may.
    pub fn open(self: &Arc<Self>, identity: &[u8; 32]) -> Option<Slot> {
        let mut open = self.lock();
        if open.get(identity).is_some_and(|count| *count >= self.most) {
            return None;
        }
        Some(self.take(&mut open, identity))
    }

    /// Takes a slot in any case, for an answer that is there.
    pub fn answer(self: &Arc<Self>, identity: &[u8; 32]) -> Slot {
        self.take(&mut self.lock(), identity)
    }

    /// Whether the identity has as many as it may.
    pub fn is_full(&self, identity: &[u8; 32]) -> bool {
        self.full.load(Ordering::Relaxed) > 0 && self.lock().get(identity).is_some_and(|count| *count >= self.most)
    }

    fn take(self: &Arc<Self>, open: &mut HashMap<[u8; 32], u32>, identity: &[u8; 32]) -> Slot {
        let count = open.entry(*identity).or_default();
        *count += 1;
        if *count == self.most {
            self.full.fetch_add(1, Ordering::Relaxed);
        }
        Slot { streams: self.clone(), identity: *identity }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(count) = open.get_mut(&self.identity) {
            if *count == self.streams.most {
                self.streams.full.fetch_sub(1, Ordering::Relaxed);
            }
            *count -= 1;
            if *count == 0 {
                open.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_per_identity_and_come_back() {
        let streams = Streams::new(2);
        let first = streams.open(&[1; 32]).unwrap();
        assert!(!streams.is_full(&[1; 32]));
        let _second = streams.open(&[1; 32]).unwrap();
        assert!(streams.open(&[1; 32]).is_none());
        assert!(streams.is_full(&[1; 32]) && !streams.is_full(&[2; 32]));
        assert!(streams.open(&[2; 32]).is_some());
        drop(first);
        assert!(!streams.is_full(&[1; 32]));
        assert!(streams.open(&[1; 32]).is_some());
    }

    #[test]
    fn answers_are_counted_and_never_refused() {
        let streams = Streams::new(1);
        let slots = [streams.answer(&[1; 32]), streams.answer(&[1; 32])];
        for slot in slots {
            assert!(streams.is_full(&[1; 32]) && streams.open(&[1; 32]).is_none());
            drop(slot);
        }
        assert!(!streams.is_full(&[1; 32]));
        assert_eq!(streams.full.load(Ordering::Relaxed), 0);
        assert!(streams.lock().is_empty());
    }
}
