//! Response bodies: what the gateway sends to a caller.
//!
//! Invariant: every body that answers a recorded call carries that call's [`Completion`], so the second record is
//! written exactly once, however the answer ends. A body lasts until its end is about to be sent: what waits for a caller
//! who does not read is still under way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::events::EventStream;
use super::idle::{Handed, Underway};
use super::streams::Slot;
use crate::audit::{AuditId, CompletionEvent, Delivery, Outcome, Recorder};

/// A response body.
pub struct Body {
    inner: Inner,
    completion: Option<Completion>,
    _slot: Option<Slot>,
    _underway: Option<Underway>,
}

/// The most that is handed over at once: what was handed over is not known to be sent, and a caller who reads at all has
/// taken this much in time.
const PIECE: usize = 64 * 1024;

enum Inner {
    Empty,
    Full(Bytes),
    /// And what is not handed over yet of what it said last.
    Events(Box<EventStream>, Bytes),
}

impl Body {
    /// No content.
    pub fn empty() -> Self {
        Self::new(Inner::Empty, None)
    }

    /// All of the content.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::new(Inner::Full(bytes.into()), None)
    }

    /// A judged event stream; it says itself how the call ended.
    pub fn events(stream: EventStream, completion: Option<Completion>) -> Self {
        Self::new(Inner::Events(Box::new(stream), Bytes::new()), completion)
    }

    fn new(inner: Inner, completion: Option<Completion>) -> Self {
        Self { inner, completion, _slot: None, _underway: None }
    }

    /// Holds a place until the body ends.
    pub(super) fn holding(mut self, slot: Slot) -> Self {
        self._slot = Some(slot);
        self
    }

    /// Keeps the request under way until this body has been handed over.
    pub(super) fn with_underway(mut self, underway: Underway) -> Self {
        self._underway = Some(underway);
        self
    }

    /// Ties the call's second record to this body.
    pub fn with_completion(mut self, mut completion: Completion) -> Self {
        // Nobody asks for a body that is not there: the head is the answer, and all of it.
        completion.delivered |= matches!(self.inner, Inner::Empty);
        self.completion = Some(completion);
        self
    }
}

impl Body {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match std::mem::replace(&mut self.inner, Inner::Empty) {
            Inner::Empty => Poll::Ready(None),
            Inner::Full(mut bytes) => {
                let piece = bytes.split_to(bytes.len().min(PIECE));
                self.count(&piece);
                if let Some(completion) = &mut self.completion {
                    completion.delivered = bytes.is_empty();
                }
                if !bytes.is_empty() {
                    self.inner = Inner::Full(bytes);
                }
                Poll::Ready(Some(piece))
            }
            Inner::Events(mut stream, mut rest) => {
                if rest.is_empty() {
                    match stream.poll_next(cx) {
                        Poll::Ready(Some(bytes)) => rest = bytes,
                        Poll::Pending => {
                            self.inner = Inner::Events(stream, rest);
                            return Poll::Pending;
                        }
                        Poll::Ready(None) => {
                            self.over(&stream);
                            return Poll::Ready(None);
                        }
                    }
                }
                let piece = rest.split_to(rest.len().min(PIECE));
                self.count(&piece);
                if let (Some(completion), Some(ended), true) =
                    (&mut self.completion, stream.answered(), rest.is_empty())
                {
                    completion.ended(ended.outcome, ended.reason, ended.rpc_status);
                    completion.delivered = true;
                }
                self.inner = Inner::Events(stream, rest);
                Poll::Ready(Some(piece))
            }
        }
    }

    fn count(&mut self, piece: &Bytes) {
        if let Some(completion) = &mut self.completion {
            completion.bytes += piece.len() as u64;
        }
    }

    /// The stream is over.
    fn over(&mut self, stream: &EventStream) {
        let (Some(completion), None) = (&mut self.completion, stream.answered()) else { return };
        // Nobody waits for anything on a stream that only listens: its end is no failure.
        let heard = stream.only_listens() && stream.broken().is_none();
        let outcome = if heard { Outcome::Result } else { Outcome::Disconnected };
        completion.ended(outcome, stream.broken(), None);
        completion.delivered = true;
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let polled = self.poll_piece(cx);
        let handed = if polled.is_ready() { Handed::Piece } else { Handed::Nothing };
        handed.note();
        polled.map(|next| next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.inner, Inner::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Events(..) => SizeHint::default(),
        }
    }
}

/// The second record of a call, written when this is dropped.
pub struct Completion {
    recorder: Recorder,
    id: AuditId,
    delivery: Delivery,
    started: Instant,
    outcome: Outcome,
    reason: Option<&'static str>,
    rpc_status: Option<i64>,
    upstream_status: Option<u16>,
    bytes: u64,
    /// The last piece of the answer was asked for, as all before it were taken. That it arrived nobody says: a caller who
    /// leaves with no more than one piece ([`PIECE`]) and the socket's buffer unread counts as answered.
    delivered: bool,
}

impl Completion {
    /// For a call whose decision has been recorded under `id`.
    pub fn new(recorder: Recorder, id: AuditId, delivery: Delivery, started: Instant) -> Self {
        Self {
            recorder,
            id,
            delivery,
            started,
            outcome: Outcome::Disconnected,
            reason: None,
            rpc_status: None,
            upstream_status: None,
            bytes: 0,
            delivered: false,
        }
    }

    /// Notes how the call ended; it still counts as disconnected if the answer is never taken.
    pub fn ended(&mut self, outcome: Outcome, reason: Option<&'static str>, rpc_status: Option<i64>) {
        self.outcome = outcome;
        self.reason = reason;
        self.rpc_status = rpc_status;
    }

    /// The call was refused after its decision, before anything was sent.
    pub fn denied(mut self, reason: &'static str) {
        self.ended(Outcome::Denied, Some(reason), None);
        self.delivered = true;
    }

    /// Notes the upstream's HTTP status.
    pub fn upstream_status(&mut self, status: u16) {
        self.upstream_status = Some(status);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let (outcome, reason) =
            if self.delivered { (self.outcome, self.reason) } else { (Outcome::Disconnected, None) };
        let duration = self.started.elapsed().as_micros();
        self.recorder.completion(
            self.id,
            &CompletionEvent {
                outcome,
                delivery: self.delivery,
                reason,
                rpc_status: self.rpc_status,
                upstream_status: self.upstream_status,
                duration_us: u64::try_from(duration).unwrap_or(u64::MAX),
                response_bytes: self.bytes,
                result: None,
                redact: None,
            },
        );
    }
}
