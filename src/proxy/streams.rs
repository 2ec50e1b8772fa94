//! How many calls each identity has under way, and how many streams it listens on.
//!
//! Invariant: an identity holds at most its share at any moment, whatever tokens it uses, and a place is given back when
//! what it was taken for ends, however it ends (mcp-obligations 71). Taking one costs one atomic step: the count is found
//! once per token, not per call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The shares of all identities.
#[derive(Debug)]
pub struct Shares {
    most: u32,
    known: Mutex<HashMap<[u8; 32], Weak<Share>>>,
}

/// What one identity may hold at once, and what it holds.
#[derive(Debug)]
pub struct Share {
    most: u32,
    taken: AtomicU32,
}

/// One place of a share.
#[derive(Debug)]
pub struct Slot(Arc<Share>);

impl Shares {
    /// Shares of `most` places.
    pub fn new(most: u32) -> Self {
        Self { most, known: Mutex::default() }
    }

    /// The share of the identity with this binding.
    pub fn of(&self, identity: &[u8; 32]) -> Arc<Share> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = known.get(identity).and_then(Weak::upgrade) {
            return share;
        }
        if known.len() == known.capacity() {
            // About to grow: who holds nothing, and is remembered by nobody, need not be known.
            known.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Share { most: self.most, taken: AtomicU32::new(0) });
        known.insert(*identity, Arc::downgrade(&share));
        share
    }
}

impl Share {
    /// Takes a place, unless none is left.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let one_more = |taken: u32| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).ok().map(|_| Slot(self.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_per_identity_and_come_back() {
        let shares = Shares::new(2);
        let (one, same, other) = (shares.of(&[1; 32]), shares.of(&[1; 32]), shares.of(&[2; 32]));
        let first = one.take().unwrap();
        let _second = same.take().unwrap();
        assert!(one.take().is_none() && same.take().is_none());
        assert!(other.take().is_some());
        drop(first);
        assert!(same.take().is_some());
        assert!(one.take().is_some(), "the one before was given back at once");
    }

    #[test]
    fn who_holds_nothing_is_forgotten() {
        let shares = Shares::new(1);
        let held = shares.of(&[255; 32]).take().unwrap();
        for n in 0..100_000_u32 {
            let mut identity = [0; 32];
            identity[..4].copy_from_slice(&n.to_be_bytes());
            shares.of(&identity);
        }
        assert!(shares.known.lock().unwrap().len() < 1000);
        assert!(shares.of(&[255; 32]).take().is_none(), "who holds something is not");
        drop(held);
    }
}
