//! Sessions of the old era (2025-11-25 and older), held by nobody: the id itself carries what is needed, sealed.
//!
//! Invariant: an id opens only for the principal and the server that it was made for (mcp-obligations 72), at any
//! replica, until it expires; one upstream session is never shared by two identities (76).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::authenticate::{Caller, owner};
use super::gateway::{self, Gateway};
use super::snapshot::Site;
use crate::mcp::revision::{Revision, SUPPORTED};
use crate::mcp::rewrite::Negotiated;
use crate::seal::Purpose;

/// `Mcp-Session-Id`.
pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// The longest upstream session id that is wrapped, in bytes.
const LONGEST: usize = 1024;

/// What a session id stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What `initialize` negotiated.
    pub revision: Revision,
    /// The client was promised to be told when the list of tools changes.
    pub tells_changes: bool,
    /// The upstream's own session id, if it has sessions.
    pub upstream: Option<HeaderValue>,
}

/// Why a session cannot be used. Whatever is wrong with an id, it looks unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// Several ids.
    Ambiguous,
    /// Not an id of this gateway for this caller and server, or expired.
    Unknown,
}

impl SessionError {
    /// A stable word.
    pub fn reason(self) -> &'static str {
        match self {
            SessionError::Ambiguous => "SessionAmbiguous",
            SessionError::Unknown => "UnknownSession",
        }
    }
}

impl Session {
    /// A session that the upstream opened with these response headers.
    pub fn opened(negotiated: Negotiated, upstream: &HeaderMap) -> Result<Session, SessionError> {
        let mut ids = upstream.get_all(SESSION_ID).iter();
        let id = ids.next().cloned();
        // Ids are visible ASCII (Streamable HTTP, "Session Management").
        let proper = |id: &HeaderValue| id.len() <= LONGEST && id.as_bytes().iter().all(|b| (0x21..=0x7e).contains(b));
        if ids.next().is_some() || id.as_ref().is_some_and(|id| !proper(id)) {
            return Err(SessionError::Ambiguous);
        }
        let Negotiated { revision, tells_changes } = negotiated;
        Ok(Session { revision, tells_changes, upstream: id })
    }

    /// The id that the client gets.
    pub fn seal(&self, gateway: &Gateway, site: &Site, caller: &Caller) -> Option<HeaderValue> {
        let owner = owner(Purpose::Session, site, caller);
        let sealed = gateway.sealer().seal(&owner, expiry(gateway, gateway::now()), &self.encode());
        HeaderValue::try_from(sealed.ok()?).ok()
    }

    /// Ends the session with this id: it opens no more.
    pub fn end(id: &str, gateway: &Gateway) {
        let now = gateway::now();
        gateway.ended.note(id, now, expiry(gateway, now));
    }

    /// The session that a request belongs to; `None` if it names none.
    pub fn of(
        headers: &HeaderMap,
        gateway: &Gateway,
        site: &Site,
        caller: &Caller,
    ) -> Result<Option<Session>, SessionError> {
        let mut ids = headers.get_all(SESSION_ID).iter();
        let Some(id) = ids.next() else { return Ok(None) };
        if ids.next().is_some() {
            return Err(SessionError::Ambiguous);
        }
        let text = id.to_str().map_err(|_| SessionError::Unknown)?;
        let opened = gateway
            .sealer()
            .open(&owner(Purpose::Session, site, caller), text, gateway::now())
            .map_err(|_| SessionError::Unknown)?;
        if gateway.ended.contains(text) {
            return Err(SessionError::Unknown);
        }
        Session::decode(&opened).map(Some).ok_or(SessionError::Unknown)
    }

    fn encode(&self) -> Vec<u8> {
        let upstream = self.upstream.as_ref().map(HeaderValue::as_bytes).unwrap_or_default();
        let mut bytes = Vec::with_capacity(11 + upstream.len());
        bytes.extend_from_slice(self.revision.as_str().as_bytes());
        bytes.push(u8::from(self.upstream.is_some()) | u8::from(self.tells_changes) << 1);
        bytes.extend_from_slice(upstream);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Session> {
        let revision = SUPPORTED.into_iter().find(|revision| bytes.starts_with(revision.as_str().as_bytes()))?;
        let (flags, upstream) = bytes.get(revision.as_str().len()..)?.split_first()?;
        let upstream = match flags & 1 {
            0 => None,
            _ => Some(HeaderValue::from_bytes(upstream).ok()?),
        };
        Some(Session { revision, tells_changes: flags & 2 != 0, upstream })
    }
}

/// When an id that is made now expires; one that was made before expires sooner.
fn expiry(gateway: &Gateway, now: i64) -> i64 {
    let lifetime = gateway.config().limits.session_lifetime.as_secs();
    now.saturating_add(i64::try_from(lifetime).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_reads_back() {
        for upstream in [None, Some(HeaderValue::from_static("")), Some(HeaderValue::from_static("abc-123"))] {
            for (revision, tells_changes) in SUPPORTED.into_iter().flat_map(|r| [(r, false), (r, true)]) {
                let session = Session { revision, tells_changes, upstream: upstream.clone() };
                assert_eq!(Session::decode(&session.encode()), Some(session));
            }
        }
        assert_eq!(Session::decode(b""), None);
        assert_eq!(Session::decode(b"2025-11-25"), None);
    }

    #[test]
    fn an_upstream_with_an_improper_session_id_is_refused() {
        let mut headers = HeaderMap::new();
        let negotiated = Negotiated { revision: Revision::NEWEST_OLD, tells_changes: false };
        headers.insert(SESSION_ID, HeaderValue::from_static("with space"));
        assert_eq!(Session::opened(negotiated, &headers), Err(SessionError::Ambiguous));
        headers.insert(SESSION_ID, HeaderValue::from_static("a"));
        headers.append(SESSION_ID, HeaderValue::from_static("b"));
        assert_eq!(Session::opened(negotiated, &headers), Err(SessionError::Ambiguous));
    }
}
