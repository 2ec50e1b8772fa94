//! A request's body, and what is left of it once its answer is known.
//!
//! Invariant: an answer of HTTP/1.1 that comes before its request has ended is either sent after that end, or says that it is
//! the last on its connection (RFC 9112 section 9.6). Otherwise a client sends its next request where nobody reads it: those
//! who are answered 401, as every client is at first, would fail by chance, since a head and a body often come apart.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::EXPECT;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// How long the rest of a body is waited for: what was sent together arrives together.
const PATIENCE: Duration = Duration::from_millis(500);
/// How much of it is read (bytes). A new connection costs less than more.
const MOST: usize = 256 * 1024;

/// The body of a request.
#[derive(Debug)]
pub(super) struct Arriving {
    body: Incoming,
    read: Read,
    /// Whether the next request comes behind it. Those of HTTP/2 have streams of their own (RFC 9113 section 8.1).
    is_before_others: bool,
    /// Whether its client sends it only once it is asked for (RFC 9110 section 10.1.1), which reading it does.
    is_to_be_asked_for: bool,
}

/// How far a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Not,
    Begun,
    Whole,
    /// What came is no body, or its client is gone.
    Broken,
}

impl Arriving {
    pub(super) fn new(head: &Parts, body: Incoming) -> Self {
        let is_before_others = head.version < Version::HTTP_2;
        let is_to_be_asked_for = head.headers.contains_key(EXPECT);
        Self { body, read: Read::Not, is_before_others, is_to_be_asked_for }
    }

    /// Reads what is left of it, if that comes soon and is not much. Whether another request can follow it on its connection.
    pub(super) async fn is_over(&mut self) -> bool {
        match self.read {
            _ if !self.is_before_others => return true,
            Read::Broken => return false,
            Read::Whole => return true,
            Read::Not | Read::Begun if self.is_end_stream() => return true,
            Read::Not if self.is_to_be_asked_for => return false,
            Read::Not | Read::Begun => {}
        }
        let rest = async {
            let mut bytes = 0;
            while let Some(frame) = self.frame().await {
                bytes += frame.ok()?.data_ref().map_or(0, Bytes::len);
                (bytes <= MOST).then_some(())?;
            }
            Some(())
        };
        matches!(tokio::time::timeout(PATIENCE, rest).await, Ok(Some(())))
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.read = match (&polled, self.read) {
            (_, Read::Broken) | (Poll::Ready(Some(Err(_))), _) => Read::Broken,
            (Poll::Ready(None), _) => Read::Whole,
            _ => Read::Begun,
        };
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
