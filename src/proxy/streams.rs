//! How many streams each identity has open.
//!
//! Invariant: a slot is given back when its stream ends, however it ends (mcp-obligations 71).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Open streams, counted by the identity's binding. Taken per stream, not per call.
#[derive(Debug, Default)]
pub struct Streams(Mutex<HashMap<[u8; 32], u32>>);

/// One open stream.
#[derive(Debug)]
pub struct Slot {
    streams: Arc<Streams>,
    identity: [u8; 32],
}

impl Streams {
    /// Takes a slot, unless the identity has `most` already.
    pub fn open(self: &Arc<Self>, identity: &[u8; 32], most: u32) -> Option<Slot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(*identity).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Slot { streams: self.clone(), identity: *identity })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.identity) {
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
        let streams = Arc::new(Streams::default());
        let first = streams.open(&[1; 32], 2).unwrap();
        let _second = streams.open(&[1; 32], 2).unwrap();
        assert!(streams.open(&[1; 32], 2).is_none());
        assert!(streams.open(&[2; 32], 2).is_some());
        drop(first);
        assert!(streams.open(&[1; 32], 2).is_some());
    }
}
