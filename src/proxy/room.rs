//! How much memory bodies may take, all callers together.
//!
//! Invariant: the large bodies that are held at once are bounded, however many there are; small ones are bounded by the
//! number of connections. What a body takes is given back when its last byte is, wherever it went meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Up to here a body is small, and costs no counting.
pub(super) const SMALL: usize = 64 * 1024;

/// Room is counted in pieces of so many bytes.
const PIECE: usize = 1024;

/// Room for bodies of one kind.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

/// Room that is taken. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Taken {
    _permit: OwnedSemaphorePermit,
}

impl Room {
    /// For `bytes` in all; at least for one body of `largest`.
    pub fn new(bytes: usize, largest: usize) -> Self {
        Self(Arc::new(Semaphore::new(pieces(bytes.max(largest)).min(Semaphore::MAX_PERMITS))))
    }

    /// Takes room now, or not at all.
    pub(super) fn try_take(&self, bytes: usize) -> Option<Taken> {
        let count = u32::try_from(pieces(bytes)).ok()?;
        self.0.clone().try_acquire_many_owned(count).ok().map(|permit| Taken { _permit: permit })
    }

    /// Takes room as soon as there is some, in turn.
    pub(super) async fn take(&self, bytes: usize) -> Option<Taken> {
        let count = u32::try_from(pieces(bytes)).ok()?;
        self.0.clone().acquire_many_owned(count).await.ok().map(|permit| Taken { _permit: permit })
    }
}

impl Taken {
    /// The body that it was taken for: the room is given back with its last reference.
    pub(super) fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _taken: self })
    }
}

/// What was written anew from a body, large or not: while it is held, so is the room of what it was written from.
pub(super) fn tied(written: Bytes, from: &Bytes) -> Bytes {
    if written.len() <= SMALL {
        return written;
    }
    Bytes::from_owner(Tied { written, _from: from.clone() })
}

struct Tied {
    written: Bytes,
    _from: Bytes,
}

impl AsRef<[u8]> for Tied {
    fn as_ref(&self) -> &[u8] {
        &self.written
    }
}

struct Held {
    bytes: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn pieces(bytes: usize) -> usize {
    bytes.div_ceil(PIECE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn duty_6_room_is_bounded_and_given_back_with_the_last_reference() {
        let room = Room::new(10 * PIECE, 4 * PIECE);
        let body = room.try_take(6 * PIECE + 1).unwrap().hold(Bytes::from_static(b"abc"));
        assert_eq!(body, "abc");
        assert!(room.try_take(4 * PIECE).is_none(), "7 of 10 are taken");
        let slice = body.slice(1..2);
        drop(body);
        assert!(room.try_take(4 * PIECE).is_none(), "a part is still held");
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { room.take(10 * PIECE).await.is_some() }
        });
        drop(slice);
        assert!(waiting.await.unwrap());
        let listed = room.try_take(10 * PIECE).unwrap().hold(Bytes::from_static(b"from"));
        let written = tied(Bytes::from(vec![b'x'; SMALL + 1]), &listed);
        drop(listed);
        assert!(written.len() == SMALL + 1 && room.try_take(PIECE).is_none(), "what was made of it is still held");
        drop(written);
        assert!(room.try_take(10 * PIECE).is_some());
        assert!(Room::new(1, 4 * PIECE).try_take(4 * PIECE).is_some(), "one body always finds room");
    }
}
