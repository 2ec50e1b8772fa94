//! Connections on which nothing is asked.
//!
//! Invariant: a connection keeps its place only while a request on it is under way, an answer is being written, or
//! shortly after: whoever connects and says nothing, or does not read what was asked for, makes room for others. What is
//! not read is seen in two places. A socket takes no more bytes: then nothing else on its connection can go on either, and
//! all of it ends. Or an answer of HTTP/2 takes no more, since its own window is shut (RFC 9113 section 5.2): then it ends
//! alone, since one connection may carry the answers of many.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
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
    /// Nothing happened since the last look, nothing is under way, and no written byte waits.
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
        let rests = !moved && waits == 0 && self.underway.load(Ordering::Relaxed) == 0;
        if rests { Look::Idle } else { Look::Busy }
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

thread_local! {
    /// What the body that this thread polled last did; see [`Answers`].
    static HANDED: Cell<Option<Handed>> = const { Cell::new(None) };
}

/// What the poll of a body came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// It handed a piece over. It is polled again when there is room for that piece.
    Piece,
    /// It has nothing yet: that is not the caller's doing.
    Nothing,
}

impl Handed {
    /// Says it to the answer that polls the body.
    pub(super) fn note(self) {
        HANDED.set(Some(self));
    }
}

/// Runs the answers of HTTP/2, each of which is a task of its own, and ends one of whose body no piece is taken for as long
/// as `patience`. What is dropped before its end is reset (RFC 9113 section 5.4.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Answers {
    /// How long a piece may wait.
    pub(super) patience: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Answers {
    fn execute(&self, answer: F) {
        tokio::spawn(while_taken(answer, self.patience));
    }
}

/// Polls an answer to its end, or until it has held a piece of its body for as long as `patience`.
async fn while_taken(answer: impl Future<Output = ()>, patience: Duration) {
    let mut answer = pin!(answer);
    let mut clock = pin!(tokio::time::sleep(patience));
    let mut holds = false;
    poll_fn(|cx| {
        // Whatever this thread polled before was another answer's, or none of HTTP/2.
        HANDED.set(None);
        if answer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match HANDED.take() {
            Some(Handed::Piece) => {
                holds = true;
                clock.as_mut().reset(tokio::time::Instant::now() + patience);
            }
            Some(Handed::Nothing) => holds = false,
            // Its body was not polled: nothing changed.
            None => {}
        }
        if !holds {
            return Poll::Pending;
        }
        clock.as_mut().poll(cx).map(|()| tracing::debug!("nothing of an answer is taken: answer ended"))
    })
    .await;
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

    #[tokio::test]
    async fn the_end_of_an_answer_is_waited_for_like_its_beginning() {
        let activity = Activity::begin();
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut stream = Noticed::new(ours, activity.clone());
        stream.write_all(b"1234").await.unwrap();
        let stuck = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, b"5"))).await;
        assert!(stuck.is_pending());
        // All of it was handed over; its last bytes are not taken.
        assert_eq!([activity.look(LONG), activity.look(LONG)], [Look::Busy; 2]);
        assert_eq!(activity.look(Duration::ZERO), Look::Stalled);
    }

    /// An answer that does this at its polls, one after the other.
    async fn polled(does: &[Option<Handed>]) {
        let mut does = does.iter();
        poll_fn(|cx| {
            let Some(next) = does.next() else { return Poll::<()>::Pending };
            next.inspect(|handed| handed.note());
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn an_answer_ends_only_with_a_piece_that_is_not_taken() {
        let (piece, nothing) = (Some(Handed::Piece), Some(Handed::Nothing));
        for does in [&[piece][..], &[nothing, piece, None]] {
            while_taken(polled(does), Duration::from_millis(1)).await;
        }
        for does in [&[piece, piece, nothing, None][..], &[None], &[]] {
            let watched = while_taken(polled(does), Duration::from_millis(20));
            // Whoever still holds a piece ends meanwhile.
            let held = async {
                for _ in 0..3 {
                    while_taken(polled(&[piece]), Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                biased;
                () = watched => panic!("{does:?} waits for its server"),
                () = held => {}
            }
        }
    }
}
