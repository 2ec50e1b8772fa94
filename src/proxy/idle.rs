//! Connections on which nothing is asked.
//!
//! Invariant: a connection keeps its place only while a request on it is under way, an answer is being written, or
//! shortly after: whoever connects and says nothing, or does not read what was asked for, makes room for others.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What happens on one connection.
#[derive(Debug)]
pub(super) struct Activity {
    begun: Instant,
    /// A request has come.
    asked: AtomicBool,
    /// Requests whose answers are not all handed over yet.
    underway: AtomicUsize,
    /// A request has come, or bytes were written, since the last look.
    moved: AtomicBool,
    /// Since when a write has waited for the caller to read, in milliseconds after `begun`, and one more; 0 if none does.
    waits: AtomicU64,
}

/// What a look at a connection finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Something is under way, or was since the last look.
    Busy,
    /// Nothing happened since the last look, and nothing is under way.
    Idle,
    /// The caller has taken nothing of what is written to it for too long.
    Stalled,
}

/// One request under way.
#[derive(Debug)]
pub(super) struct Underway(Arc<Activity>);

impl Activity {
    /// A connection that has just been opened.
    pub(super) fn begin() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            asked: AtomicBool::new(false),
            underway: AtomicUsize::new(0),
            moved: AtomicBool::new(false),
            waits: AtomicU64::new(0),
        })
    }

    /// A request has come; it is under way until what is returned is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Underway {
        self.asked.store(true, Ordering::Relaxed);
        self.underway.fetch_add(1, Ordering::Relaxed);
        Underway(self.clone())
    }

    /// Whether any request has come yet.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Looks at what happened since the last look. `patience`: how long a write may wait.
    pub(super) fn look(&self, patience: Duration) -> Look {
        let moved = self.moved.swap(false, Ordering::Relaxed);
        let waits = self.waits.load(Ordering::Relaxed);
        if waits > 0 && Duration::from_millis(self.age().saturating_sub(waits)) >= patience {
            return Look::Stalled;
        }
        if !moved && self.underway.load(Ordering::Relaxed) == 0 { Look::Idle } else { Look::Busy }
    }

    fn written(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(1..)) => {
                self.moved.store(true, Ordering::Relaxed);
                self.waits.store(0, Ordering::Relaxed);
            }
            Poll::Pending if self.waits.load(Ordering::Relaxed) == 0 => {
                self.waits.store(self.age() + 1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn age(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.moved.store(true, Ordering::Relaxed);
        self.0.underway.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose writes are noticed.
pub(super) struct Noticed<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Noticed<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noticed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noticed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.activity.written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn only_requests_and_written_bytes_keep_a_connection() {
        let activity = Activity::begin();
        assert!(!activity.was_asked() && activity.look(LONG) == Look::Idle);
        let request = activity.request();
        assert!(activity.was_asked());
        assert_eq!([activity.look(LONG), activity.look(LONG)], [Look::Busy; 2], "it may take as long as it likes");
        drop(request);
        assert_eq!([activity.look(LONG), activity.look(LONG)], [Look::Busy, Look::Idle], "its end counts once");

        let (ours, _theirs) = tokio::io::duplex(4);
        let mut stream = Noticed::new(ours, activity.clone());
        stream.write_all(b"1234").await.unwrap();
        assert_eq!([activity.look(LONG), activity.look(LONG)], [Look::Busy, Look::Idle]);
    }

    #[tokio::test]
    async fn who_does_not_read_is_waited_for_no_longer_than_that() {
        let activity = Activity::begin();
        let _request = activity.request();
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut stream = Noticed::new(ours, activity.clone());
        stream.write_all(b"1234").await.unwrap();
        assert_eq!(activity.look(Duration::ZERO), Look::Busy, "nothing waits");
        let stuck = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, b"5"))).await;
        assert!(stuck.is_pending());
        assert_eq!((activity.look(LONG), activity.look(Duration::ZERO)), (Look::Busy, Look::Stalled));
        theirs.read_exact(&mut [0]).await.unwrap();
        stream.write_all(b"5").await.unwrap();
        assert_eq!(activity.look(Duration::ZERO), Look::Busy, "a byte that was taken begins it anew");
    }
}
