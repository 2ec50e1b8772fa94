//! GET and DELETE of a session (old era); the new era has neither (mcp-obligations 3).

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;

use super::authenticate::Caller;
use super::body::Body;
use super::events::{self, Asked, EventStream};
use super::filter::{Filter, ListFilter};
use super::gateway::Gateway;
use super::session::{SESSION_ID, Session};
use super::snapshot::Site;
use super::stack::unknown_session;
use super::{event_id, forward, respond};
use crate::mcp::answer::Own;
use crate::mcp::envelope::Envelope;
use crate::mcp::mirror;
use crate::mcp::revision::Revision;
use crate::upstream::{Answer, UpstreamError};

/// Opens the stream on which a session's server speaks by itself.
pub(super) async fn open(
    gateway: &Arc<Gateway>,
    site: &Arc<Site>,
    caller: Arc<Caller>,
    headers: &HeaderMap,
) -> Response<Body> {
    let session = match session(gateway, site, &caller, headers) {
        Ok(session) => session,
        Err(response) => return *response,
    };
    let Ok(behind) = event_id::open(headers, gateway, site, &caller, &session) else {
        return respond::answer(Own::BadRequest.answer(None, "unknown Last-Event-ID: open the stream without it"));
    };
    let Some(slot) = caller.listeners.take() else { return respond::too_many("open streams") };
    let mut extra = HeaderMap::new();
    let asked = behind.and_then(|behind| {
        extra.insert(event_id::LAST_EVENT_ID, behind.id);
        let filter = filter(behind.request.as_ref()?, gateway, site, &caller, session.revision);
        Some(Asked { filter, request: behind.request? })
    });
    match send(site, Method::GET, headers, &session, extra).await {
        Ok((Answer::Events, response)) => {
            let stream = EventStream::listening(gateway.clone(), site, &caller, &session, asked, response.into_body());
            let mut response = Response::new(Body::events(stream, None).holding(slot));
            response.headers_mut().insert(CONTENT_TYPE, events::EVENT_STREAM);
            response.headers_mut().insert(http::header::CACHE_CONTROL, respond::NO_STORE);
            response.headers_mut().insert("x-accel-buffering", http::HeaderValue::from_static("no"));
            response
        }
        // No stream at all: a 2xx, or a server without sessions that does not know the method.
        Ok((_, response)) if response.status().is_success() => failed(gateway, site, &UpstreamError::ContentType),
        Ok((_, response)) if response.status() == StatusCode::NOT_FOUND && session.upstream.is_none() => {
            respond::method_not_allowed("POST")
        }
        Ok((_, response)) => passed_on(response.status()),
        Err(error) => failed(gateway, site, &error),
    }
}

/// Ends a session, which only its owner's id opens (mcp-obligations 74).
pub(super) async fn end_session(
    gateway: &Arc<Gateway>,
    site: &Arc<Site>,
    caller: &Arc<Caller>,
    headers: &HeaderMap,
) -> Response<Body> {
    let session = match session(gateway, site, caller, headers) {
        Ok(session) => session,
        Err(response) => return *response,
    };
    if session.upstream.is_none() {
        return respond::status(StatusCode::NO_CONTENT);
    }
    match send(site, Method::DELETE, headers, &session, HeaderMap::new()).await {
        Ok((_, response)) => passed_on(response.status()),
        Err(error) => failed(gateway, site, &error),
    }
}

/// What the caller may see of an answer that it asked for on a stream that broke off, by the policies of now.
fn filter(
    request: &Envelope,
    gateway: &Arc<Gateway>,
    site: &Arc<Site>,
    caller: &Arc<Caller>,
    revision: Revision,
) -> Filter {
    match request.method() {
        Some("tools/list") => Filter::Tools(Box::new(ListFilter {
            gateway: gateway.clone(),
            snapshot: gateway.snapshot(),
            site: site.clone(),
            caller: caller.clone(),
            revision,
        })),
        _ => Filter::Pass,
    }
}

fn session(
    gateway: &Gateway,
    site: &Site,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Session, Box<Response<Body>>> {
    let refuse = |answer| Err(Box::new(respond::answer(answer)));
    if mirror::claims_new_era(headers) {
        return Err(Box::new(respond::method_not_allowed("POST")));
    }
    let session = match Session::of(headers, gateway, site, caller) {
        Ok(session) => session,
        Err(error) => return refuse(unknown_session(None, error)),
    };
    if let Err(mismatch) = mirror::revision_without_body(headers, session.as_ref().map(|session| session.revision)) {
        return refuse(mismatch.answer(None));
    }
    match session {
        Some(session) => Ok(session),
        None => {
            refuse(Own::BadRequest.answer(None, "Mcp-Session-Id is missing: send the one that initialize answered"))
        }
    }
}

async fn send(
    site: &Site,
    method: Method,
    headers: &HeaderMap,
    session: &Session,
    extra: HeaderMap,
) -> Result<(Answer, Response<Incoming>), UpstreamError> {
    let Some(upstream) = &site.upstream else { return Err(UpstreamError::Url) };
    let mut request = upstream.request(method, headers, Bytes::new());
    request.headers_mut().extend(extra);
    if let Some(id) = session.upstream.clone() {
        request.headers_mut().insert(SESSION_ID, id);
    }
    let response = upstream.send(request).await?;
    let answer = Answer::judge(response.status(), response.headers())?;
    Ok((answer, response))
}

/// The upstream's status, with a body that triggers no fallback.
fn passed_on(status: StatusCode) -> Response<Body> {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => respond::method_not_allowed("POST"),
        StatusCode::NOT_FOUND => respond::answer(Own::UnknownSession.answer(None, "the session is over")),
        status if status.is_success() => respond::status(StatusCode::NO_CONTENT),
        status => {
            let mut answer = Own::UpstreamInvalid.answer(None, "the upstream refused the request");
            answer.status = status;
            respond::answer(answer)
        }
    }
}

fn failed(gateway: &Gateway, site: &Site, error: &UpstreamError) -> Response<Body> {
    gateway.metrics().upstream_failed.inc();
    tracing::warn!(server = site.server.id.display_name(), reason = error.reason(), %error, "the upstream failed");
    let message = format!("the upstream gave no usable answer ({})", error.reason());
    respond::answer(forward::own(error).answer(None, &message))
}
