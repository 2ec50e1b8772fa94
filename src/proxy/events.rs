//! Event streams, judged event by event.
//!
//! Invariant: an event passes only if its message was read strictly and belongs to this caller's request or session;
//! nothing is held back; no event follows the answer. A stream ends when its caller's token does, is revoked,
//! or may not use the server any more (mcp-obligations 61-69).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::authenticate::{self, Caller};
use super::call::Call;
use super::config::Limits;
use super::event_id::Origin;
use super::filter::Filter;
use super::gateway::{self, Gateway};
use super::listen::Asking;
use super::room::{Room, SMALL, Taken};
use super::session::Session;
use super::snapshot::Site;
use super::watch::Watched;
use crate::audit::Outcome;
use crate::mcp::answer::{self, Own};
use crate::mcp::envelope::Envelope;
use crate::mcp::revision::{Era, Revision};
use crate::mcp::scan;
use crate::mcp::server::{self, Dropped, Stream, Verdict};
use crate::mcp::sse::{Event, Item, Parser};

/// `text/event-stream`.
pub const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// What a listening client is told when its grants may have changed (mcp-obligations 58).
const LIST_CHANGED: &[u8] = b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n";

/// How long the end of a stream is awaited after its answer has passed.
const LINGER: Duration = Duration::from_secs(1);

/// How a request was answered, for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What the answer is.
    pub outcome: Outcome,
    /// A stable word, for everything but a result.
    pub reason: Option<&'static str>,
    /// The JSON-RPC error code.
    pub rpc_status: Option<i64>,
}

impl Ended {
    /// What an answer means for the record.
    pub fn of(answer: &Envelope) -> Ended {
        if answer.error_raw().is_some() {
            let rpc_status = answer.error_code();
            return Ended { outcome: Outcome::Error, reason: Some("UpstreamError"), rpc_status };
        }
        let tool_error = answer.is_tool_error();
        let outcome = if tool_error { Outcome::ToolError } else { Outcome::Result };
        Ended { outcome, reason: tool_error.then_some("ToolError"), rpc_status: None }
    }
}

/// The request that a stream answers.
pub struct Asked {
    /// The request; of one that was resumed, what its answer is judged by.
    pub request: Envelope,
    /// What the caller may see of the answer.
    pub filter: Filter,
}

/// What a stream carries.
struct Carries {
    /// The request that it answers; `None`: it is what a session's server says by itself (old era).
    asked: Option<Asked>,
    revision: Revision,
    origin: Origin,
    /// An event id was given out: the client can ask for the rest (old era).
    resumable: bool,
    /// The client was promised to be told of changes.
    tells_changes: bool,
}

/// What a stream ends with besides itself.
type Over = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Ends when the session with this id does, or where it `only_listens` when the gateway stops.
fn over(gateway: &Arc<Gateway>, id: Option<&str>, only_listens: bool) -> Over {
    let (gateway, id) = (gateway.clone(), id.unwrap_or_default().to_owned());
    let stopping = gateway.listening().child_token();
    Box::pin(async move {
        tokio::select! {
            () = gateway.ended.wait(&id) => {}
            () = stopping.cancelled(), if only_listens => {}
        }
    })
}

/// A judged event stream.
pub struct EventStream {
    incoming: Incoming,
    parser: Parser,
    /// For an event that is not small.
    room: Option<Taken>,
    items: Vec<Item>,
    carries: Carries,
    gateway: Arc<Gateway>,
    watched: Watched,
    /// Ready when the session is over, or, for streams that only listen, when the gateway stops.
    over: Option<Over>,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    answered: Option<Ended>,
    broken: Option<&'static str>,
    finished: bool,
}

impl EventStream {
    /// The answer to a call.
    pub fn answering(call: Box<Call>, filter: Filter, incoming: Incoming) -> Self {
        let watched = Watched::new(&call.gateway, &call.site, &call.caller);
        let (gateway, timeout) = (call.gateway.clone(), call.gateway.config().limits.answer_timeout);
        let carries = Carries {
            revision: call.revision,
            origin: Origin::of(call.session.as_ref(), Some(&call.envelope)),
            resumable: false,
            tells_changes: false,
            asked: Some(Asked { request: call.envelope, filter }),
        };
        Self::new(gateway, incoming, carries, watched, (Some(timeout), None))
    }

    /// The stream of a session's GET: what its server says by itself, or the rest of an answer that broke off.
    /// Listening has no time limit of its own.
    pub(super) fn listening(asking: &Asking<'_>, session: &Session, asked: Option<Asked>, incoming: Incoming) -> Self {
        let gateway = asking.gateway.clone();
        let watched = Watched::new(&gateway, asking.site, asking.caller);
        let origin = Origin::of(Some(session), asked.as_ref().map(|asked| &asked.request));
        let timeout = asked.is_some().then_some(gateway.config().limits.answer_timeout);
        let over = over(&gateway, asking.session_id(), asked.is_none());
        let tells_changes = asked.is_none() && session.tells_changes;
        let carries = Carries { asked, revision: session.revision, origin, resumable: true, tells_changes };
        Self::new(gateway, incoming, carries, watched, (timeout, Some(over)))
    }

    fn new(
        gateway: Arc<Gateway>,
        incoming: Incoming,
        carries: Carries,
        watched: Watched,
        (idle, over): (Option<Duration>, Option<Over>),
    ) -> Self {
        gateway.metrics().open_streams.inc();
        Self {
            incoming,
            parser: Parser::new(gateway.config().limits.answer_bytes),
            room: None,
            items: Vec::new(),
            watched,
            over,
            idle: idle.map(|idle| (idle, Box::pin(tokio::time::sleep(idle)))),
            carries,
            answered: None,
            broken: None,
            finished: false,
            gateway,
        }
    }

    /// How the request was answered, once it was.
    pub fn answered(&self) -> Option<Ended> {
        self.answered
    }

    /// Whether it answers no request.
    pub fn only_listens(&self) -> bool {
        self.carries.asked.is_none()
    }

    /// Why the stream ended early, if it did.
    pub fn broken(&self) -> Option<&'static str> {
        self.broken
    }

    /// The next bytes for the caller.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if self.finished {
                return Poll::Ready(None);
            }
            if let Poll::Ready(changed) = self.watched.poll(cx) {
                match changed {
                    Ok(()) if self.carries.tells_changes => {
                        return Poll::Ready(Some(Bytes::from_static(LIST_CHANGED)));
                    }
                    // Asked again, so that the next change wakes this stream too.
                    Ok(()) => continue,
                    Err(reason) => return Poll::Ready(self.end(reason)),
                }
            }
            if self.over.as_mut().is_some_and(|over| over.as_mut().poll(cx).is_ready()) {
                self.finished = true;
                return Poll::Ready(None);
            }
            if self.watched.is_in_doubt() {
                return Poll::Pending;
            }
            let chunk = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(self.cut("StreamBroken")),
                Poll::Ready(None) => return Poll::Ready(self.cut("StreamEndedWithoutAnswer")),
                Poll::Pending => return self.poll_idle(cx),
            };
            if self.answered.is_some() {
                // Read to its end only so that the connection can be used again.
                continue;
            }
            if let Some((idle, sleep)) = &mut self.idle {
                sleep.as_mut().reset(tokio::time::Instant::now() + *idle);
            }
            let out = match self.judge_chunk(&chunk) {
                Ok(out) => out,
                Err(reason) => return Poll::Ready(self.end(reason)),
            };
            if self.answered.is_some() {
                self.idle = Some((LINGER, Box::pin(tokio::time::sleep(LINGER))));
            }
            let out = self.settle(Bytes::from(out));
            if !out.is_empty() {
                return Poll::Ready(Some(out));
            }
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let over = self.idle.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
        // Behind an answer, `end` says nothing.
        if over { Poll::Ready(self.end("AnswerTimeout")) } else { Poll::Pending }
    }

    /// The upstream's stream is over. Where the client holds an event id, it asks for the rest with that: an answer
    /// that is still to come is no failure then (mcp-obligations 67).
    fn cut(&mut self, reason: &'static str) -> Option<Bytes> {
        if self.answered.is_none() && !self.carries.resumable {
            return self.end(reason);
        }
        self.finished = true;
        self.broken = (self.carries.asked.is_some() && self.answered.is_none()).then_some("AnswerToBeResumed");
        None
    }

    /// Ends a stream early. A request that still waits is told so by an error of its own; then the stream closes.
    fn end(&mut self, reason: &'static str) -> Option<Bytes> {
        self.finished = true;
        self.broken = Some(reason);
        let asked = self.carries.asked.as_ref().filter(|_| self.answered.is_none())?;
        self.gateway.metrics().upstream_failed.inc();
        let message = format!("the answer was refused or broke off ({reason})");
        let error = answer::error(asked.request.id_raw(), Own::UpstreamInvalid.code(), &message, None);
        let rpc_status = Some(i64::from(Own::UpstreamInvalid.code()));
        self.answered = Some(Ended { outcome: Outcome::Error, reason: Some(reason), rpc_status });
        let mut out = Vec::new();
        Event::message(error.to_vec()).write(&mut out);
        Some(Bytes::from(out))
    }

    fn judge_chunk(&mut self, chunk: &[u8]) -> Result<Vec<u8>, &'static str> {
        let mut items = std::mem::take(&mut self.items);
        let fed = self.parser.feed(chunk, &mut items).map_err(|fault| fault.reason()).and_then(|()| self.make_room());
        let mut out = Vec::with_capacity(chunk.len() + 64);
        for item in items.drain(..) {
            match item {
                Item::Comment(_) => item.write(&mut out),
                Item::Event(event) => self.judge_event(event, &mut out)?,
            }
        }
        self.items = items;
        match fed {
            // What has been answered passes, whatever is wrong with the rest.
            Err(reason) if self.answered.is_none() => Err(reason),
            _ => Ok(out),
        }
    }

    /// An event that is not small needs room until it has ended. Nobody waits for it: who does not read on holds what
    /// others need.
    fn make_room(&mut self) -> Result<(), &'static str> {
        if self.parser.held() > SMALL && self.room.is_none() {
            let limit = self.gateway.config().limits.answer_bytes;
            self.room = Some(self.gateway.large_answers.try_take(limit).ok_or("NoRoom")?);
        }
        Ok(())
    }

    /// Gives room back once the large event has ended: with its last byte, where it passes.
    fn settle(&mut self, out: Bytes) -> Bytes {
        match self.room.take_if(|_| self.parser.held() <= SMALL) {
            Some(taken) if out.len() > SMALL => taken.hold(out),
            _ => out,
        }
    }

    fn judge_event(&mut self, mut event: Event, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if self.answered.is_some() {
            // A second answer, or anything else that nobody waits for.
            self.gateway.metrics().dropped_messages.inc();
            return Ok(());
        }
        event.id = event.id.and_then(|id| self.seal_id(&id));
        let Some(data) = event.data.take().filter(|data| !data.is_empty()) else {
            // Priming events and bare ids or retry times are ordinary polling (mcp-obligations 67).
            event.data = event.id.is_some().then(Vec::new);
            if event.id.is_some() || event.retry.is_some() {
                event.write(out);
            }
            return Ok(());
        };
        if event.event.as_deref().is_some_and(|kind| !matches!(kind, "" | "message")) {
            // The `endpoint` event of HTTP+SSE could lead a client around the gateway (mcp-obligations 93).
            self.gateway.metrics().dropped_messages.inc();
            return Ok(());
        }
        let limits = scan::Limits { body: self.gateway.config().limits.answer_bytes, ..scan::Limits::SERVER };
        let message = Envelope::parse_server(Bytes::from(data), &limits).map_err(|malformed| malformed.reason())?;
        if let Some(body) = self.judge_message(&message)? {
            event.data = Some(body.to_vec());
            event.write(out);
        }
        Ok(())
    }

    fn judge_message(&mut self, message: &Envelope) -> Result<Option<Bytes>, &'static str> {
        let asked = self.carries.asked.as_ref();
        let stream = asked.map_or(Stream::Standalone, |asked| Stream::Request(&asked.request));
        match server::classify(message, stream, self.carries.revision) {
            Verdict::Forward => {
                if message.method() == Some("notifications/tools/list_changed") {
                    let snapshot = self.gateway.snapshot();
                    snapshot.same(self.watched.site()).inspect(|site| site.catalogue.outdated());
                }
                Ok(Some(message.body().clone()))
            }
            Verdict::Refuse(hostile) => Err(hostile.reason()),
            Verdict::Drop(dropped) => {
                self.gateway.metrics().dropped_messages.inc();
                if dropped == Dropped::ServerRequest {
                    // What a server asks of a client is nothing that this build lets through, and worth knowing
                    // (mcp-obligations 63).
                    self.gateway.refusals.note(self.watched.site(), self.watched.caller(), "ServerRequestDropped");
                }
                tracing::debug!(reason = dropped.reason(), "dropped a message of an upstream");
                Ok(None)
            }
            Verdict::Answer => {
                let Some(asked) = asked else { return Ok(None) };
                let passed = asked.filter.apply(message).map_err(|hostile| hostile.reason())?;
                self.answered = Some(Ended::of(message));
                Ok(Some(passed.body))
            }
        }
    }

    /// Ids for resumption leave sealed (old era), or not at all (mcp-obligations 66).
    fn seal_id(&mut self, id: &str) -> Option<String> {
        if self.carries.revision.era() == Era::New {
            return None;
        }
        let sealed = self.carries.origin.seal(&self.gateway, self.watched.site(), self.watched.caller(), id);
        self.carries.resumable |= sealed.is_some();
        sealed
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.gateway.metrics().open_streams.dec();
    }
}

/// Reads a stream up to the answer of `request`, passing over everything else. What is not small waits for `room`, as
/// other answers do, and an answer that is not small holds it.
pub async fn first_answer<B: http_body::Body<Data = Bytes> + Unpin>(
    request: &Envelope,
    revision: Revision,
    mut body: B,
    limits: &Limits,
    room: &Room,
) -> Result<Envelope, &'static str> {
    let deadline = tokio::time::Instant::now() + limits.answer_timeout;
    let scan = scan::Limits { body: limits.answer_bytes, ..scan::Limits::SERVER };
    let mut parser = Parser::new(limits.answer_bytes);
    let mut items = Vec::new();
    let mut read = 0;
    let mut taken = None;
    loop {
        let frame = tokio::time::timeout_at(deadline, body.frame()).await.map_err(|_| "AnswerTimeout")?;
        let chunk =
            frame.ok_or("StreamEndedWithoutAnswer")?.map_err(|_| "StreamBroken")?.into_data().unwrap_or_default();
        read += chunk.len();
        if read > limits.answer_bytes {
            return Err("AnswerTooLarge");
        }
        if taken.is_none() && parser.held() + chunk.len() > SMALL {
            let turn = tokio::time::timeout_at(deadline, room.take(limits.answer_bytes));
            taken = Some(turn.await.map_err(|_| "AnswerTimeout")?.ok_or("NoRoom")?);
        }
        parser.feed(&chunk, &mut items).map_err(|fault| fault.reason())?;
        for item in items.drain(..) {
            let Item::Event(Event { data: Some(data), .. }) = item else { continue };
            if data.is_empty() {
                continue;
            }
            let data = Bytes::from(data);
            let data = match taken.take_if(|_| data.len() > SMALL) {
                Some(taken) => taken.hold(data),
                None => data,
            };
            let message = Envelope::parse_server(data, &scan).map_err(|malformed| malformed.reason())?;
            match server::classify(&message, Stream::Request(request), revision) {
                Verdict::Answer => return Ok(message),
                Verdict::Refuse(hostile) => return Err(hostile.reason()),
                Verdict::Forward | Verdict::Drop(_) => {}
            }
        }
        // Others need it until the next large event.
        taken.take_if(|_| parser.held() <= SMALL);
    }
}

/// Whether the caller of an open stream may still use the server.
pub fn may_stay(gateway: &Gateway, site: &Site, caller: &Caller) -> Result<(), &'static str> {
    let snapshot = gateway.snapshot();
    let current = snapshot.same(site).ok_or("ServerGone")?;
    if current.closed.is_some() {
        return Err("ServerClosed");
    }
    authenticate::admit(caller, current, gateway::now()).map_err(|error| error.reason())
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    fn text(len: usize) -> String {
        "x".repeat(len)
    }

    /// What is read of `events`, which come in pieces of `piece` bytes.
    async fn read(events: &str, piece: usize, limits: &Limits, room: &Room) -> Result<Envelope, &'static str> {
        let request = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
        let request = Envelope::parse(Bytes::from_static(request.as_bytes()), &scan::Limits::CLIENT).unwrap();
        let pieces = events.as_bytes().chunks(piece).map(|piece| Frame::data(Bytes::copy_from_slice(piece)));
        let frames: Vec<_> = pieces.map(Ok::<_, std::io::Error>).collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        first_answer(&request, Revision::V2025_11_25, body, limits, room).await
    }

    #[tokio::test]
    async fn a_large_answer_to_initialize_takes_room_and_gives_it_back_with_its_last_byte() {
        let limits = Limits { answer_bytes: 4 * SMALL, ..Limits::default() };
        let room = Room::new(limits.answer_bytes, limits.answer_bytes);
        let free = || room.try_take(limits.answer_bytes).is_some();
        let notice = |len| {
            let text = text(len);
            format!(
                "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"data\":\"{text}\"}}}}\n\n"
            )
        };
        let answer =
            |len| format!("data: {{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"more\":\"{}\"}}}}\n\n", text(len));

        for piece in [1000, 3 * SMALL] {
            let large = read(&answer(SMALL), piece, &limits, &room).await.unwrap();
            let body = large.body().clone();
            drop(large);
            assert!(!free(), "it is held, and nothing is taken for it");
            drop(body);
            assert!(free());
            let small = read(&(notice(2 * SMALL) + &answer(9)), piece, &limits, &room).await.unwrap();
            assert!(free(), "what was passed over is not held");
            drop(small);
        }
        let others = room.try_take(1).unwrap();
        assert!(read(&answer(9), 1000, &limits, &room).await.is_ok(), "small ones wait for nobody");
        let hurry = Limits { answer_timeout: Duration::from_millis(50), ..limits.clone() };
        assert_eq!(read(&answer(SMALL), 1000, &hurry, &room).await.err(), Some("AnswerTimeout"));
        drop(others);
    }
}
