//! The way of a request, from its head to its answer, in the order that `docs/architecture.md` tells.
//!
//! Invariant: each step sees only what the earlier ones let through; in particular no body is read before the caller
//! is authenticated, and nothing is forwarded without a `Permit`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::authenticate::{Caller, authenticate};
use super::body::Body;
use super::call::Call;
use super::gateway::Gateway;
use super::receive::{self, Unreceived};
use super::session::{Session, SessionError};
use super::snapshot::{Site, Snapshot};
use super::streams::Slot;
use super::{listen, method, place, respond};
use crate::mcp::answer::{Answer, Own};
use crate::mcp::envelope::Envelope;
use crate::mcp::revision::Era;
use crate::mcp::{judge, mirror};

/// What an MCP endpoint takes.
const METHODS: &str = "POST, GET, DELETE";

/// Answers one request. Never fails: whatever goes wrong is an answer.
pub(super) async fn handle(gateway: Arc<Gateway>, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let snapshot = gateway.snapshot();
    // 1. Place: a public document, or a governed server.
    if let Err(error) = place::check_host(&head, gateway.config()) {
        gateway.metrics().malformed.inc();
        return with_status(error.status(), &error.to_string());
    }
    if let Some(document) = snapshot.document(head.uri.path()) {
        return public(&head, document);
    }
    let origin = match place::check_origin(&head.headers, gateway.config()) {
        Ok(origin) => origin,
        Err(error) => {
            gateway.metrics().malformed.inc();
            return with_status(error.status(), &error.to_string());
        }
    };
    let Some(site) = snapshot.site(head.uri.path()).cloned() else {
        return respond::status(StatusCode::NOT_FOUND);
    };
    if let (&Method::OPTIONS, Some(origin)) = (&head.method, &origin) {
        return respond::preflight(origin.clone(), METHODS);
    }
    let exchange = Exchange { gateway, snapshot, site, peer, started };
    let mut response = exchange.serve(head, body).await;
    if let Some(origin) = origin {
        respond::readable_by(&mut response, origin);
    }
    response
}

fn with_status(status: StatusCode, message: &str) -> Response<Body> {
    let mut response = respond::answer(Own::BadRequest.answer(None, message));
    *response.status_mut() = status;
    response
}

fn public(head: &Parts, document: &bytes::Bytes) -> Response<Body> {
    match &head.method {
        method if respond::is_read(method) => respond::document(document.clone()),
        &Method::OPTIONS => respond::preflight(HeaderValue::from_static("*"), "GET"),
        _ => respond::method_not_allowed("GET"),
    }
}

/// A request to a governed server.
struct Exchange {
    gateway: Arc<Gateway>,
    snapshot: Arc<Snapshot>,
    site: Arc<Site>,
    peer: SocketAddr,
    started: Instant,
}

impl Exchange {
    async fn serve(self, head: Parts, body: Incoming) -> Response<Body> {
        // 2. Caller: before anything that would say more about the server than that it exists (mcp-obligations 20).
        let query = head.uri.query();
        let caller = match authenticate(&self.gateway, &self.site, &head.headers, query, self.peer.ip()).await {
            Ok(caller) => caller,
            Err(response) => return response,
        };
        if let Err(lacking) = self.site.scopes.check(caller.verified.scopes(), None) {
            self.gateway.metrics().insufficient_scope.inc();
            let refusal = self.site.challenges.insufficient_scope(&lacking);
            return respond::challenge(refusal, None, &lacking.to_string());
        }
        if query.is_some() {
            return malformed(&self.gateway, Own::BadRequest.answer(None, "an MCP endpoint takes no query"));
        }
        if let Some(reason) = &self.site.closed {
            let message = format!("this server is not served now ({reason}); its owner finds the remedy in its status");
            return respond::answer(Own::NotServed.answer(None, &message));
        }
        if head.method == Method::GET {
            return listen::open(&self.gateway, &self.site, caller, &head.headers).await;
        }
        // Before the body is read: what waits for one, or for an upstream, is under way.
        let Some(slot) = caller.calls.take() else { return respond::too_many("calls under way") };
        match head.method {
            Method::POST => self.post(head, body, caller, slot).await,
            Method::DELETE => listen::end_session(&self.gateway, &self.site, &caller, &head.headers).await,
            _ => respond::method_not_allowed(METHODS),
        }
    }

    async fn post(self, head: Parts, body: Incoming, caller: Arc<Caller>, slot: Slot) -> Response<Body> {
        let in_flight = self.gateway.recorder().in_flight();
        // 3. Body: size and form, then one strict scan.
        let envelope = match receive::message(&head.headers, body, &self.gateway.config().limits).await {
            Ok(envelope) => envelope,
            Err(Unreceived::Refused(answer)) => return malformed(&self.gateway, answer),
            Err(Unreceived::Gone) => return respond::status(StatusCode::BAD_REQUEST),
        };
        let gateway = self.gateway.clone();
        match self.understand(head.headers, envelope, caller) {
            // 5 to 8: decide, record, forward, answer.
            Ok(call) => {
                let response = method::dispatch(call).await;
                drop(in_flight);
                response.map(|body| body.holding(slot))
            }
            Err(answer) => malformed(&gateway, answer),
        }
    }

    /// 4. Method: the revision, the session, the mirrored headers, and the row of the table.
    fn understand(self, headers: HeaderMap, envelope: Envelope, caller: Arc<Caller>) -> Result<Box<Call>, Answer> {
        let id = envelope.id_raw();
        let initialize = envelope.method() == Some("initialize");
        let new_era = envelope.meta().protocol_version().is_some() || mirror::claims_new_era(&headers);
        let session = if initialize || new_era {
            // The new era has no sessions (77), and an `initialize` begins one.
            None
        } else {
            Session::of(&headers, &self.gateway, &self.site, &caller).map_err(|error| unknown_session(id, error))?
        };
        let revision = mirror::revision(&headers, &envelope, session.as_ref().map(|session| session.revision))
            .map_err(|mismatch| mismatch.answer(id))?;
        let era = revision.era();
        let method = judge::judge(&envelope, revision).map_err(|refusal| refusal.answer(&envelope, era))?;
        if era == Era::New {
            mirror::check(&headers, &envelope, method).map_err(|mismatch| mismatch.answer(id))?;
        } else if session.is_none() && !initialize {
            let message = "Mcp-Session-Id is missing: send the one that the answer to initialize carried";
            return Err(Own::BadRequest.answer(id, message));
        }
        Ok(Box::new(Call {
            gateway: self.gateway,
            snapshot: self.snapshot,
            site: self.site,
            caller,
            headers,
            envelope,
            revision,
            method,
            session,
            peer: self.peer.ip(),
            started: self.started,
        }))
    }
}

/// A refusal before any decision.
fn malformed(gateway: &Gateway, answer: Answer) -> Response<Body> {
    gateway.metrics().malformed.inc();
    respond::answer(answer)
}

/// What is said of any id that does not open: it looks unknown (mcp-obligations 72).
pub(super) fn unknown_session(id: Option<&[u8]>, error: SessionError) -> Answer {
    match error {
        SessionError::Unknown => Own::UnknownSession.answer(id, "unknown session: send initialize again"),
        SessionError::Ambiguous => Own::BadRequest.answer(id, "more than one Mcp-Session-Id"),
    }
}
