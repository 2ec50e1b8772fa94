//! The way of a request, from its head to its answer, in the order that `docs/architecture.md` tells.
//!
//! Invariant: each step sees only what the earlier ones let through; in particular no body is read before the caller
//! is authenticated, and nothing is forwarded without a `Permit`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::authenticate::{self, Caller, authenticate};
use super::body::Body;
use super::call::Call;
use super::gateway::Gateway;
use super::place::PlaceError;
use super::receive::{self, Unreceived};
use super::respond::Refused;
use super::session::{Session, SessionError};
use super::snapshot::{Site, Snapshot};
use super::streams::Slot;
use super::unread::Arriving;
use super::{listen, method, place, respond};
use crate::mcp::answer::Own;
use crate::mcp::envelope::Envelope;
use crate::mcp::mirror::Mismatch;
use crate::mcp::revision::Era;
use crate::mcp::{judge, mirror};
use crate::upstream::headers;

/// What an MCP endpoint takes.
const METHODS: &str = "POST, GET, DELETE";

/// Answers one request. Never fails: whatever goes wrong is an answer.
pub(super) async fn handle(
    gateway: Arc<Gateway>,
    peer: SocketAddr,
    head: Parts,
    body: &mut Arriving,
) -> Response<Body> {
    let started = Instant::now();
    let snapshot = gateway.snapshot();
    // 1. Place: a public document, or a governed server.
    if let Err(error) = place::check_host(&head, gateway.config()) {
        return misplaced(&gateway, error, peer);
    }
    if let Some(document) = snapshot.document(head.uri.path()) {
        return public(&head, document);
    }
    // Exactly its URL, which is the client's id: a query would make it another one.
    let client = snapshot.client_document(head.uri.path()).filter(|_| head.uri.query().is_none());
    if let Some(document) = client {
        return of_client(&head, document);
    }
    let origin = match place::check_origin(&head.headers, gateway.config()) {
        Ok(origin) => origin,
        Err(error) => return misplaced(&gateway, error, peer),
    };
    let Some(site) = snapshot.site(head.uri.path()).cloned() else {
        // With a body: a bare 404 lets a client take the server for one of the transport before (mcp-obligations 43).
        let message = "no server has this path: it is /<namespace>/<name> of an McpServer";
        let mut answer = Own::BadRequest.answer(None, message);
        answer.status = StatusCode::NOT_FOUND;
        return respond::answer(answer);
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

/// A refusal by the head alone. Nobody is known yet: it is summed with what strangers do.
fn misplaced(gateway: &Gateway, error: PlaceError, peer: SocketAddr) -> Response<Body> {
    gateway.metrics().malformed.inc();
    gateway.failures.note("", error.reason(), peer.ip());
    let mut response = respond::answer(Own::BadRequest.answer(None, &error.to_string()));
    *response.status_mut() = error.status();
    response
}

fn public(head: &Parts, document: &bytes::Bytes) -> Response<Body> {
    match &head.method {
        method if respond::is_read(method) => respond::document(document.clone()),
        &Method::OPTIONS => respond::preflight(HeaderValue::from_static("*"), "GET"),
        _ => respond::method_not_allowed("GET"),
    }
}

/// What a client says of itself is for authorization servers, and for no page of a browser.
fn of_client(head: &Parts, document: &bytes::Bytes) -> Response<Body> {
    if respond::is_read(&head.method) {
        respond::client_document(document.clone())
    } else {
        respond::method_not_allowed("GET, HEAD")
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
    async fn serve(self, head: Parts, body: &mut Arriving) -> Response<Body> {
        // 2. Caller: before anything that would say more about the server than that it exists (mcp-obligations 20).
        let caller = match authenticate(&self.gateway, &self.site, &head.headers, head.uri.query()).await {
            Ok(caller) => caller,
            Err(refused) => return self.unauthenticated(refused),
        };
        if let Err(refused) = self.admit(&caller, &head) {
            return self.gateway.refuse(&self.site, &caller, refused);
        }
        if head.method == Method::GET {
            return listen::open(&self.asking(&caller, &head.headers)).await;
        }
        // Before the body is read: what waits for one, or for an upstream, is under way.
        let Some(slot) = caller.calls.take() else {
            let refused = Refused::with("TooManyCalls", respond::too_many("calls under way"));
            return self.gateway.refuse(&self.site, &caller, refused);
        };
        match head.method {
            Method::POST => self.post(head, body, caller, slot).await,
            _ => listen::end_session(&self.asking(&caller, &head.headers)).await,
        }
    }

    fn unauthenticated(&self, refused: Refused) -> Response<Body> {
        authenticate::note(&self.gateway, &self.site, &refused, self.peer.ip());
        *refused.response
    }

    /// What holds for every request of a caller.
    fn admit(&self, caller: &Caller, head: &Parts) -> Result<(), Refused> {
        self.door(caller)?;
        if head.uri.query().is_some() {
            let answer = Own::BadRequest.answer(None, "an MCP endpoint takes no query");
            return Err(Refused::new("QueryPresent", answer));
        }
        if headers::holds_back_what_passes(&head.headers) {
            let answer = Own::BadRequest.answer(None, "Connection names a header of the protocol");
            return Err(Refused::new("HeaderHeldBack", answer));
        }
        match head.method {
            Method::POST | Method::GET | Method::DELETE => Ok(()),
            _ => Err(Refused::with("MethodNotAllowed", respond::method_not_allowed(METHODS))),
        }
    }

    /// What holds as long as the server is as it is.
    fn door(&self, caller: &Caller) -> Result<(), Refused> {
        if let Err(lacking) = self.site.scopes.check(caller.verified.scopes(), None) {
            let refusal = self.site.challenges.insufficient_scope(&lacking);
            return Err(Refused::with("InsufficientScope", respond::challenge(refusal, None, &lacking.to_string())));
        }
        if let Some(reason) = &self.site.closed {
            let message =
                format!("this server is not served now ({reason}): see /readyz and portcullis validate --strict");
            return Err(Refused::new("NotServed", Own::NotServed.answer(None, &message)));
        }
        Ok(())
    }

    fn asking<'a>(&'a self, caller: &'a Arc<Caller>, headers: &'a HeaderMap) -> listen::Asking<'a> {
        let (peer, started) = (self.peer.ip(), self.started);
        listen::Asking { gateway: &self.gateway, site: &self.site, caller, headers, peer, started }
    }

    async fn post(mut self, head: Parts, body: &mut Arriving, caller: Arc<Caller>, slot: Slot) -> Response<Body> {
        let in_flight = self.gateway.recorder().in_flight();
        // 3. Body: size and form, then one strict scan.
        let (limits, room) = (&self.gateway.config().limits, &self.gateway.bodies);
        let envelope = match receive::message(&head.headers, body, limits, room).await {
            Ok(envelope) => envelope,
            Err(Unreceived::Refused(refused)) => return self.gateway.refuse(&self.site, &caller, refused),
            Err(Unreceived::Gone) => return respond::status(StatusCode::BAD_REQUEST),
        };
        // A body may take long: what is judged is judged by what holds now.
        if !self.gateway.is_current(&self.snapshot) {
            (self.snapshot, self.site) = match authenticate::again(&self.gateway, &self.site, &caller) {
                Ok(now) => now,
                Err(refused) => return self.gateway.refuse(&self.site, &caller, refused),
            };
            if let Err(refused) = self.door(&caller) {
                return self.gateway.refuse(&self.site, &caller, refused);
            }
        }
        let (gateway, site) = (self.gateway.clone(), self.site.clone());
        match self.understand(head.headers, envelope, caller.clone()) {
            // 5 to 8: decide, record, forward, answer.
            Ok(call) => {
                let response = method::dispatch(call).await;
                drop(in_flight);
                response.map(|body| body.holding(slot))
            }
            Err(refused) => gateway.refuse(&site, &caller, refused),
        }
    }

    /// 4. Method: the revision, the session, the mirrored headers, and the row of the table.
    fn understand(self, headers: HeaderMap, envelope: Envelope, caller: Arc<Caller>) -> Result<Box<Call>, Refused> {
        let id = envelope.id_raw();
        let mismatched = |mismatch: Mismatch| Refused::new(mismatch.reason(), mismatch.answer(id));
        let initialize = envelope.method() == Some("initialize");
        let new_era = envelope.meta().protocol_version().is_some() || mirror::claims_new_era(&headers);
        let session = if initialize || new_era {
            // The new era has no sessions (77), and an `initialize` begins one.
            None
        } else {
            Session::of(&headers, &self.gateway, &self.site, &caller).map_err(|error| unknown_session(id, error))?
        };
        let revision = mirror::revision(&headers, &envelope, session.as_ref().map(|session| session.revision))
            .map_err(mismatched)?;
        let era = revision.era();
        let method = judge::judge(&envelope, revision)
            .map_err(|refusal| Refused::new(refusal.reason(), refusal.answer(&envelope, era)))?;
        if era == Era::New {
            mirror::check(&headers, &envelope, method).map_err(mismatched)?;
        } else if session.is_none() && !initialize {
            return Err(session_missing(id));
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

/// What is said of any id that does not open: it looks unknown (mcp-obligations 72).
pub(super) fn unknown_session(id: Option<&[u8]>, error: SessionError) -> Refused {
    let (own, message) = match error {
        SessionError::Unknown => (Own::UnknownSession, "unknown session: send initialize again"),
        SessionError::Ambiguous => (Own::BadRequest, "more than one Mcp-Session-Id"),
    };
    Refused::new(error.reason(), own.answer(id, message))
}

/// What a request of the old era without a session's id is told (mcp-obligations 74).
pub(super) fn session_missing(id: Option<&[u8]>) -> Refused {
    let message = "Mcp-Session-Id is missing: send the one that the answer to initialize carried";
    Refused::new("SessionMissing", Own::BadRequest.answer(id, message))
}
