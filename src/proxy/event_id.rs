//! Event ids for resumption (old era), sealed.
//!
//! Invariant: only the identity that received an event can resume behind it (mcp-obligations 66).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::authenticate::{Caller, owner};
use super::gateway::{self, Gateway};
use super::snapshot::Site;
use crate::seal::Purpose;

/// `Last-Event-ID`.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How long an event can be resumed behind, in seconds.
const SECONDS: i64 = 3600;

/// The id that the client gets; `None` if the upstream's is too long.
pub(super) fn seal(gateway: &Gateway, site: &Site, caller: &Caller, id: &str) -> Option<String> {
    let expires = gateway::now().saturating_add(SECONDS);
    gateway.sealer().seal(&owner(Purpose::Event, site, caller), expires, id.as_bytes()).ok()
}

/// An id that is not this caller's, or too old.
pub(super) struct UnknownEvent;

/// The upstream's id behind which the client wants to resume, if it does.
pub(super) fn open(
    headers: &HeaderMap,
    gateway: &Gateway,
    site: &Site,
    caller: &Caller,
) -> Result<Option<HeaderValue>, UnknownEvent> {
    let Some(id) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let text = id.to_str().map_err(|_| UnknownEvent)?;
    let owner = owner(Purpose::Event, site, caller);
    let opened = gateway.sealer().open(&owner, text, gateway::now()).map_err(|_| UnknownEvent)?;
    HeaderValue::from_bytes(&opened).map(Some).map_err(|_| UnknownEvent)
}
