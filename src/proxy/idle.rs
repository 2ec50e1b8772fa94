//! Connections on which nothing is asked.
//!
//! Invariant: a connection keeps its place only while a request on it is under way, an answer is being written, or
//! shortly after: whoever connects and says nothing, or does not read what was asked for, makes room for others.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What happens on one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// A request has come.
    asked: AtomicBool,
    /// Requests whose answers are not all handed over yet.
    underway: AtomicUsize,
    /// A request has come, or bytes were written, since the last look.
    moved: AtomicBool,
}

/// One request under way.
#[derive(Debug)]
pub(super) struct Underway(Arc<Activity>);

impl Activity {
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

    /// Whether nothing happened since the last look, and nothing is under way.
    pub(super) fn was_idle(&self) -> bool {
        let moved = self.moved.swap(false, Ordering::Relaxed);
        !moved && self.underway.load(Ordering::Relaxed) == 0
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

    fn notice(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.moved.store(true, Ordering::Relaxed);
        }
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
        self.notice(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.notice(&written);
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
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn only_requests_and_written_bytes_keep_a_connection() {
        let activity = Arc::new(Activity::default());
        assert!(!activity.was_asked() && activity.was_idle());
        let request = activity.request();
        assert!(
            activity.was_asked() && !activity.was_idle() && !activity.was_idle(),
            "it may take as long as it likes"
        );
        drop(request);
        assert!(!activity.was_idle() && activity.was_idle(), "its end counts once");

        let (ours, _theirs) = tokio::io::duplex(4);
        let mut stream = Noticed::new(ours, activity.clone());
        stream.write_all(b"1234").await.unwrap();
        assert!(!activity.was_idle() && activity.was_idle());
        // Nobody reads: the next byte is not taken.
        let stuck = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, b"5"))).await;
        assert!(stuck.is_pending() && activity.was_idle());
    }
}
