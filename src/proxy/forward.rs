//! Sends a permitted message to its upstream and judges what comes back.
//!
//! Invariant: what reaches the upstream are the judged bytes (or their rewriting) with the gateway's own credentials;
//! what reaches the caller was read strictly first. An upstream's 401, 403 or redirect is the gateway's failure and
//! never the caller's challenge.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;

use bytes::Bytes;

use super::authorize::Permit;
use super::body::{Body, Completion};
use super::call::Call;
use super::events::{self, EventStream};
use super::filter::Filter;
use super::receive::{self, ReadError};
use super::session::{SESSION_ID, Session};
use super::{authenticate, event_id, respond, room};
use crate::audit::Outcome;
use crate::mcp::answer::Own;
use crate::mcp::envelope::{Envelope, Kind};
use crate::mcp::mirror;
use crate::mcp::revision::Era;
use crate::mcp::scan;
use crate::mcp::server::{self, Stream, Verdict};
use crate::upstream::{Answer, TokenFailure, UpstreamError, headers};

/// Forwards a call: `body` instead of the judged bytes where it had to be rewritten.
pub(super) async fn forward(
    mut call: Box<Call>,
    permit: Permit,
    body: Option<Bytes>,
    filter: Filter,
) -> Response<Body> {
    let mut completion = permit.into_completion();
    let body = body.unwrap_or_else(|| call.envelope.body().clone());
    // Once sent, a large body is nobody's to hold: an upstream may take minutes to answer.
    call.envelope = event_id::reduced(call.envelope);
    match exchange(&call, body).await {
        Ok(response) => {
            completion.upstream_status(response.status().as_u16());
            answer(call, completion, filter, response).await
        }
        Err(error) => failed(&call, completion, &error),
    }
}

async fn exchange(call: &Call, body: Bytes) -> Result<Response<Incoming>, UpstreamError> {
    let Some(upstream) = &call.site.upstream else { return Err(UpstreamError::Url) };
    let request = |body| {
        let mut request = upstream.request(Method::POST, &call.headers, body);
        if call.revision.era() == Era::Old {
            // Nothing held these to the body, so nobody behind the gateway may act on them (mcp-obligations 38).
            for name in call.headers.keys().filter(|name| mirror::is_mirrored(name)) {
                request.headers_mut().remove(name);
            }
        }
        if let Some(id) = call.session.as_ref().and_then(|session| session.upstream.clone()) {
            request.headers_mut().insert(SESSION_ID, id);
        }
        request
    };
    upstream.call(authenticate::subject(upstream, &call.caller, &call.headers).as_ref(), body, request).await
}

async fn answer(
    call: Box<Call>,
    mut completion: Completion,
    filter: Filter,
    response: Response<Incoming>,
) -> Response<Body> {
    let (head, body) = response.into_parts();
    let in_session = call.session.as_ref().is_some_and(|session| session.upstream.is_some());
    if in_session && head.status == StatusCode::NOT_FOUND {
        // The upstream ended the session (Streamable HTTP, "Session Management").
        completion.ended(Outcome::Error, Some("UpstreamSessionEnded"), None);
        let answer = Own::UnknownSession.answer(call.id(), "the session is over: send initialize again");
        return respond::answer(answer).map(|body| body.with_completion(completion));
    }
    match Answer::judge(head.status, &head.headers) {
        Err(error) => failed(&call, completion, &error),
        Ok(Answer::Bare) => bare(&call, completion, head.status, &head.headers),
        // Nobody waits for an answer to a notification, in whatever form one comes.
        Ok(_) if call.envelope.kind() == Kind::Notification => bare(&call, completion, head.status, &head.headers),
        Ok(Answer::Json) => json(&call, completion, &filter, head.status, &head.headers, body).await,
        Ok(Answer::Events) if matches!(filter, Filter::Initialize) => {
            // Its answer decides the session, whose id is a header: so the head waits for it.
            let (limits, room) = (&call.gateway.config().limits, &call.gateway.large_answers);
            let collected = events::first_answer(&call.envelope, call.revision, body, limits, room).await;
            match collected {
                Ok(message) => judged(&call, completion, &filter, StatusCode::OK, &head.headers, message),
                Err(reason) => invalid(&call, completion, reason),
            }
        }
        Ok(Answer::Events) => stream(call, completion, filter, &head.headers, body),
    }
}

/// A status without a body that means anything: what an accepted notification gets, or a refusal in no known form.
fn bare(call: &Call, mut completion: Completion, status: StatusCode, headers: &HeaderMap) -> Response<Body> {
    let notification = call.envelope.kind() == Kind::Notification;
    if notification && status.is_success() {
        completion.ended(Outcome::Result, None, None);
        return respond::status(StatusCode::ACCEPTED).map(|body| body.with_completion(completion));
    }
    if status.is_success() { invalid(call, completion, "NoAnswer") } else { refused(call, completion, status, headers) }
}

/// A 4xx in no known form keeps its status, with a body that triggers no fallback (mcp-obligations 43, 44).
fn refused(call: &Call, mut completion: Completion, status: StatusCode, headers: &HeaderMap) -> Response<Body> {
    completion.ended(Outcome::Error, Some("UpstreamRefusedRequest"), Some(i64::from(Own::UpstreamInvalid.code())));
    let mut answer = Own::UpstreamInvalid.answer(call.id(), "the upstream refused the request without saying why");
    answer.status = status;
    let mut response = respond::answer(answer).map(|body| body.with_completion(completion));
    headers::to_caller(headers, response.headers_mut());
    response
}

/// A JSON body that is no answer to the call.
fn no_answer(
    call: &Call,
    completion: Completion,
    status: StatusCode,
    headers: &HeaderMap,
    reason: &'static str,
) -> Response<Body> {
    if status.is_client_error() {
        refused(call, completion, status, headers)
    } else {
        invalid(call, completion, reason)
    }
}

async fn json(
    call: &Call,
    completion: Completion,
    filter: &Filter,
    status: StatusCode,
    headers: &HeaderMap,
    body: Incoming,
) -> Response<Body> {
    let limits = &call.gateway.config().limits;
    // The call was made: its answer waits for its turn.
    let read = receive::read(body, limits.answer_bytes, |bytes| call.gateway.large_answers.take(bytes));
    let bytes = match tokio::time::timeout(limits.answer_timeout, read).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(ReadError::NoRoom)) => return invalid(call, completion, "NoRoom"),
        Ok(Err(ReadError::TooLarge)) => return invalid(call, completion, "AnswerTooLarge"),
        Ok(Err(ReadError::Broken)) => return invalid(call, completion, "AnswerCutOff"),
        Err(_) => return invalid(call, completion, "AnswerTimeout"),
    };
    let scan = scan::Limits { body: limits.answer_bytes, ..scan::Limits::SERVER };
    match Envelope::parse_server(bytes, &scan) {
        Ok(message) => judged(call, completion, filter, status, headers, message),
        Err(malformed) => no_answer(call, completion, status, headers, malformed.reason()),
    }
}

/// One message that should be the answer.
fn judged(
    call: &Call,
    mut completion: Completion,
    filter: &Filter,
    status: StatusCode,
    headers: &HeaderMap,
    message: Envelope,
) -> Response<Body> {
    match server::classify(&message, Stream::Request(&call.envelope), call.revision) {
        Verdict::Answer => {}
        Verdict::Refuse(hostile) => return invalid(call, completion, hostile.reason()),
        Verdict::Forward | Verdict::Drop(_) => return no_answer(call, completion, status, headers, "NotTheAnswer"),
    }
    // What changed meanwhile counts: who may not use the server any more gets nothing of it. A token that was good when the
    // call came, and has only run out since, does not take its answer away.
    if !call.gateway.is_current(&call.snapshot)
        && let Err(reason) = events::may_stay(&call.gateway, &call.site, &call.caller)
    {
        return invalid(call, completion, reason);
    }
    let passed = match filter.apply(&message) {
        Ok(passed) => passed,
        Err(hostile) => return invalid(call, completion, hostile.reason()),
    };
    let session = match passed.negotiated.map(|negotiated| open_session(call, negotiated, headers)).transpose() {
        Ok(session) => session,
        Err(reason) => return invalid(call, completion, reason),
    };
    let ended = events::Ended::of(&message);
    completion.ended(ended.outcome, ended.reason, ended.rpc_status);
    let body = room::tied(passed.body, message.body());
    let mut response = respond::json(status, body).map(|body| body.with_completion(completion));
    headers::to_caller(headers, response.headers_mut());
    if let Some(session) = session {
        response.headers_mut().insert(SESSION_ID, session);
    }
    response
}

fn open_session(
    call: &Call,
    negotiated: crate::mcp::rewrite::Negotiated,
    headers: &HeaderMap,
) -> Result<HeaderValue, &'static str> {
    let session = Session::opened(negotiated, headers).map_err(|_| "UpstreamSessionId")?;
    session.seal(&call.gateway, &call.site, &call.caller).ok_or("UpstreamSessionId")
}

/// An event stream: judged event by event, never held back.
fn stream(
    call: Box<Call>,
    completion: Completion,
    filter: Filter,
    upstream_headers: &HeaderMap,
    body: Incoming,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    headers::to_caller(upstream_headers, response.headers_mut());
    response.headers_mut().insert(CONTENT_TYPE, events::EVENT_STREAM);
    let stream = EventStream::answering(call, filter, body);
    response.map(|_| Body::events(stream, Some(completion)))
}

/// The upstream's answer is one that the gateway cannot vouch for.
fn invalid(call: &Call, mut completion: Completion, reason: &'static str) -> Response<Body> {
    call.gateway.metrics().upstream_failed.inc();
    tracing::warn!(server = call.site.server.id.display_name(), reason, "the upstream's answer is refused");
    completion.ended(Outcome::Error, Some(reason), Some(i64::from(Own::UpstreamInvalid.code())));
    let message = format!("the upstream's answer was refused ({reason})");
    let answer = Own::UpstreamInvalid.answer(call.id(), &message);
    respond::answer(answer).map(|body| body.with_completion(completion))
}

/// The upstream gave no usable answer: what is wrong is the operator's to know, that it is wrong the caller's.
fn failed(call: &Call, mut completion: Completion, error: &UpstreamError) -> Response<Body> {
    call.gateway.metrics().upstream_failed.inc();
    let server = call.site.server.id.display_name();
    tracing::warn!(server, reason = error.reason(), %error, "the upstream failed");
    let own = own(error);
    completion.ended(Outcome::Error, Some(error.reason()), Some(i64::from(own.code())));
    let message = format!("the upstream gave no usable answer ({})", error.reason());
    respond::answer(own.answer(call.id(), &message)).map(|body| body.with_completion(completion))
}

/// How a caller is told of it.
pub(super) fn own(error: &UpstreamError) -> Own {
    match error {
        UpstreamError::CredentialsRefused { .. }
        | UpstreamError::ScopesLacking { .. }
        | UpstreamError::Token(TokenFailure::ForeignCaller { .. })
        | UpstreamError::Redirected { .. } => Own::UpstreamRefused,
        UpstreamError::ContentType => Own::UpstreamInvalid,
        _ => Own::UpstreamUnavailable,
    }
}
