//! Room for the bytes of reviews.
//!
//! Invariant: what all reviews hold together is bounded, each holds what has come of it and not what it announces, and one of
//! them can always grow to the end: so reviews that are long do not wait for each other for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::review::MOST_BYTES;

/// The step in which room is taken; the least that a review takes, which bounds how many there are at once.
const STEP: usize = 256 * 1024;
/// Steps for all to take: 24 MiB. What is read from these bytes takes a multiple.
const STEPS: usize = 96;

/// Room for all reviews: steps for everybody, and one place in which a review of any length fits.
#[derive(Clone)]
pub(super) struct Room {
    steps: Arc<Semaphore>,
    place: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self { steps: Arc::new(Semaphore::new(STEPS)), place: Arc::new(Semaphore::new(1)) }
    }
}

impl Room {
    /// Nothing yet.
    pub(super) fn share(&self) -> Share {
        Share { room: self.clone(), fits: 0, taken: Vec::new() }
    }
}

/// What a review holds of it, until it is dropped.
pub(super) struct Share {
    room: Room,
    fits: usize,
    taken: Vec<OwnedSemaphorePermit>,
}

impl Share {
    /// Waits until there is room for so many bytes, and at least for a step.
    pub(super) async fn grow(&mut self, bytes: usize) {
        while self.fits < bytes.max(1) {
            // Neither is ever closed.
            let (more, permit) = tokio::select! {
                biased;
                Ok(step) = self.room.steps.clone().acquire_owned() => (STEP, step),
                Ok(place) = self.room.place.clone().acquire_owned() => (MOST_BYTES, place),
                else => return,
            };
            self.fits += more;
            self.taken.push(permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use tokio::time::timeout;

    use super::*;

    /// Takes it if it is there.
    fn grows(share: &mut Share, bytes: usize) -> bool {
        share.grow(bytes).now_or_never().is_some()
    }

    #[test]
    fn all_together_hold_no_more_than_there_is_and_what_is_dropped_is_there_again() {
        let room = Room::default();
        let mut shares: Vec<Share> = (0..STEPS).map(|_| room.share()).collect();
        assert!(shares.iter_mut().all(|share| grows(share, 0) && grows(share, STEP)));
        // The one place is left, for one of them.
        assert!(
            grows(&mut shares[0], MOST_BYTES) && !grows(&mut shares[1], STEP + 1) && grows(&mut shares[0], MOST_BYTES)
        );
        let mut late = room.share();
        assert!(!grows(&mut late, 0));
        drop(shares.pop());
        assert!(grows(&mut late, 0) && !grows(&mut shares[1], STEP + 1));
        drop(shares.remove(0));
        assert!(grows(&mut shares[0], MOST_BYTES));
    }

    /// Each holds what the others need: were there no place for one of them to end, all would wait for ever.
    #[tokio::test]
    async fn long_reviews_that_come_at_once_all_end() {
        let room = Room::default();
        let reviews = (0..32).map(async |_| {
            let mut share = room.share();
            for bytes in (0..=MOST_BYTES).step_by(STEP / 4) {
                share.grow(bytes).await;
                tokio::task::yield_now().await;
            }
        });
        timeout(Duration::from_secs(60), join_all(reviews)).await.unwrap();
    }
}
