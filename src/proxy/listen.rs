//! GET and DELETE of a session (old era); the new era has neither (mcp-obligations 3).
//!
//! Invariant: both are decided and recorded like messages before the upstream is asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;

use super::authenticate::{self, Caller};
use super::authorize::{self, Permit};
use super::body::{Body, Completion};
use super::events::{self, Asked, EventStream};
use super::filter::{Filter, ListFilter};
use super::gateway::Gateway;
use super::respond::Refused;
use super::session::{SESSION_ID, Session};
use super::snapshot::Site;
use super::stack::{session_missing, unknown_session};
use super::{event_id, forward, respond};
use crate::audit::{DecisionEvent, Outcome, Verdict};
use crate::mcp::answer::{Answer as Message, Own};
use crate::mcp::envelope::Envelope;
use crate::mcp::mirror;
use crate::mcp::revision::Revision;
use crate::upstream::{Answer, UpstreamError};

/// A request about a session, without a message.
pub(super) struct Asking<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) site: &'a Arc<Site>,
    pub(super) caller: &'a Arc<Caller>,
    pub(super) headers: &'a HeaderMap,
    pub(super) peer: IpAddr,
    pub(super) started: Instant,
}

/// Opens the stream on which a session's server speaks by itself.
pub(super) async fn open(asking: &Asking<'_>) -> Response<Body> {
    let Asking { gateway, site, caller, headers, .. } = asking;
    let session = match asking.session() {
        Ok(session) => session,
        Err(refused) => return asking.refuse(refused),
    };
    let Ok(behind) = event_id::open(headers, gateway, site, caller, &session) else {
        let answer = Own::BadRequest.answer(None, "unknown Last-Event-ID: open the stream without it");
        return asking.refuse(Refused::new("UnknownEvent", answer));
    };
    let Some(slot) = caller.listeners.take() else {
        return asking.refuse(Refused::with("TooManyStreams", respond::too_many("open streams")));
    };
    let mut extra = HeaderMap::new();
    let asked = behind.and_then(|behind| {
        extra.insert(event_id::LAST_EVENT_ID, behind.id);
        let filter = filter(behind.request.as_ref()?, gateway, site, caller, session.revision);
        Some(Asked { filter, request: behind.request? })
    });
    let mut completion = asking.permit(&Method::GET, session.revision).into_completion();
    match asking.send(Method::GET, &session, extra, &mut completion).await {
        Ok((Answer::Events, response)) => {
            let stream = EventStream::listening(asking, &session, asked, response.into_body());
            let mut response = Response::new(Body::events(stream, Some(completion)).holding(slot));
            response.headers_mut().insert(CONTENT_TYPE, events::EVENT_STREAM);
            response.headers_mut().insert(http::header::CACHE_CONTROL, respond::NO_STORE);
            response.headers_mut().insert("x-accel-buffering", http::HeaderValue::from_static("no"));
            response
        }
        // No stream at all: a 2xx, or a server without sessions that does not know the method.
        Ok((_, response)) if response.status().is_success() => asking.failed(&UpstreamError::ContentType, completion),
        Ok((_, response)) if response.status() == StatusCode::NOT_FOUND && session.upstream.is_none() => {
            passed_on(StatusCode::METHOD_NOT_ALLOWED, completion)
        }
        Ok((_, response)) => passed_on(response.status(), completion),
        Err(error) => asking.failed(&error, completion),
    }
}

/// Ends a session, which only its owner's id opens (mcp-obligations 74). It is over here whether or not the upstream
/// has sessions, or ends them when it is asked; only where that cannot be known, it is not said to be.
pub(super) async fn end_session(asking: &Asking<'_>) -> Response<Body> {
    let session = match asking.session() {
        Ok(session) => session,
        Err(refused) => return asking.refuse(refused),
    };
    let mut completion = asking.permit(&Method::DELETE, session.revision).into_completion();
    let status = if session.upstream.is_some() {
        match asking.send(Method::DELETE, &session, HeaderMap::new(), &mut completion).await {
            Ok((_, response)) => response.status(),
            Err(error) => return asking.failed(&error, completion),
        }
    } else {
        StatusCode::NO_CONTENT
    };
    match status {
        status if status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED => {
            asking.end();
            completion.ended(Outcome::Result, None, None);
            respond::status(StatusCode::NO_CONTENT).map(|body| body.with_completion(completion))
        }
        status => {
            if status == StatusCode::NOT_FOUND {
                asking.end();
            }
            passed_on(status, completion)
        }
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
            site: site.clone(),
            caller: caller.clone(),
            revision,
        })),
        _ => Filter::Pass,
    }
}

impl Asking<'_> {
    fn refuse(&self, refused: Refused) -> Response<Body> {
        self.gateway.refuse(self.site, self.caller, refused)
    }

    /// The id of the session, as the client sent it.
    pub(super) fn session_id(&self) -> Option<&str> {
        self.headers.get(SESSION_ID)?.to_str().ok()
    }

    fn session(&self) -> Result<Session, Refused> {
        if mirror::claims_new_era(self.headers) {
            return Err(Refused::with("MethodNotAllowed", respond::method_not_allowed("POST")));
        }
        let session = Session::of(self.headers, self.gateway, self.site, self.caller)
            .map_err(|error| unknown_session(None, error))?;
        mirror::revision_without_body(self.headers, session.as_ref().map(|session| session.revision))
            .map_err(|mismatch| Refused::new(mismatch.reason(), mismatch.answer(None)))?;
        session.ok_or_else(|| session_missing(None))
    }

    /// A session is its owner's to hear and to end: that needs no grant but a valid token.
    fn permit(&self, method: &Method, revision: Revision) -> Permit {
        let event = DecisionEvent {
            method: method.as_str(),
            protocol_version: Some(revision.as_str()),
            session: self.session_id(),
            principal: Some(self.caller.fields(self.caller.verified.token_id())),
            server: self.site.fields(),
            verdict: Some(Verdict::Allow),
            reason: "Authenticated",
            level: self.site.level(),
            client_address: Some(self.peer),
            credential_mode: Some(self.site.credential_mode()),
            ..DecisionEvent::default()
        };
        authorize::permit_session(self.gateway, &event, self.started)
    }

    fn end(&self) {
        if let Some(id) = self.session_id() {
            Session::end(id, self.gateway);
        }
    }

    async fn send(
        &self,
        method: Method,
        session: &Session,
        extra: HeaderMap,
        completion: &mut Completion,
    ) -> Result<(Answer, Response<Incoming>), UpstreamError> {
        let Some(upstream) = &self.site.upstream else { return Err(UpstreamError::Url) };
        let request = |body| {
            let mut request = upstream.request(method.clone(), self.headers, body);
            request.headers_mut().extend(extra.clone());
            if let Some(id) = session.upstream.clone() {
                request.headers_mut().insert(SESSION_ID, id);
            }
            request
        };
        let subject = authenticate::subject(upstream, self.caller, self.headers);
        let response = upstream.call(subject.as_ref(), Bytes::new(), request).await?;
        completion.upstream_status(response.status().as_u16());
        let answer = Answer::judge(response.status(), response.headers())?;
        Ok((answer, response))
    }

    fn failed(&self, error: &UpstreamError, mut completion: Completion) -> Response<Body> {
        self.gateway.metrics().upstream_failed.inc();
        tracing::warn!(server = self.site.server.id.display_name(), reason = error.reason(), %error, "the upstream failed");
        let own = forward::own(error);
        completion.ended(Outcome::Error, Some(error.reason()), Some(i64::from(own.code())));
        let message = format!("the upstream gave no usable answer ({})", error.reason());
        respond::answer(own.answer(None, &message)).map(|body| body.with_completion(completion))
    }
}

/// The upstream's status, with a body that triggers no fallback.
fn passed_on(status: StatusCode, mut completion: Completion) -> Response<Body> {
    completion.ended(Outcome::Error, Some("UpstreamRefusedRequest"), None);
    let response = match status {
        StatusCode::METHOD_NOT_ALLOWED => respond::method_not_allowed("POST"),
        StatusCode::NOT_FOUND => respond::answer(Own::UnknownSession.answer(None, "the session is over")),
        status => {
            let answer = Own::UpstreamInvalid.answer(None, "the upstream refused the request");
            respond::answer(Message { status, ..answer })
        }
    };
    response.map(|body| body.with_completion(completion))
}
