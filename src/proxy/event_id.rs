//! Event ids for resumption (old era), sealed.
//!
//! Invariant: only the identity and session that received an event can resume behind it, and what comes then is judged
//! as what broke off was: the id itself carries which request the stream answered (mcp-obligations 57, 66).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::authenticate::{Caller, owner};
use super::gateway::{self, Gateway};
use super::room::SMALL;
use super::session::Session;
use super::snapshot::Site;
use crate::mcp::envelope::Envelope;
use crate::mcp::scan::Limits;
use crate::seal::Purpose;

/// `Last-Event-ID`.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How long an event can be resumed behind, in seconds.
const SECONDS: i64 = 3600;

/// The stream that an event id belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The upstream's session id; empty if it has no sessions.
    session: Bytes,
    /// What is needed of the request that the stream answers; empty if it answers none.
    request: Bytes,
}

impl Origin {
    /// A stream of this session that answers `request`, or none.
    pub(super) fn of(session: Option<&Session>, request: Option<&Envelope>) -> Self {
        let session = session.and_then(|session| session.upstream.as_ref());
        Self {
            session: session.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
            request: request.and_then(essence).unwrap_or_default(),
        }
    }

    /// The id that the client gets; `None` if the upstream's is too long. An empty one takes ids back, and says so.
    pub(super) fn seal(&self, gateway: &Gateway, site: &Site, caller: &Caller, id: &str) -> Option<String> {
        if id.is_empty() {
            return Some(String::new());
        }
        let mut payload = Vec::with_capacity(8 + self.session.len() + self.request.len() + id.len());
        for part in [&self.session, &self.request] {
            payload.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
            payload.extend_from_slice(part);
        }
        payload.extend_from_slice(id.as_bytes());
        let expires = gateway::now().saturating_add(SECONDS);
        gateway.sealer().seal(&owner(Purpose::Event, site, caller), expires, &payload).ok()
    }
}

/// A request to be held until its answer comes: a large one reduced to what that is judged by.
pub(super) fn reduced(request: Envelope) -> Envelope {
    if request.body().len() <= SMALL {
        return request;
    }
    let reduced = essence(&request).and_then(|text| Envelope::parse(text, &Limits::CLIENT).ok());
    reduced.unwrap_or(request)
}

/// A request, reduced to what its answer is judged by: id, method and progress token.
fn essence(request: &Envelope) -> Option<Bytes> {
    let mut text = b"{\"jsonrpc\":\"2.0\",\"id\":".to_vec();
    text.extend_from_slice(request.id_raw()?);
    text.extend_from_slice(b",\"method\":");
    serde_json::to_writer(&mut text, request.method()?).ok()?;
    if let Some(token) = request.meta().progress_token_raw() {
        text.extend_from_slice(b",\"params\":{\"_meta\":{\"progressToken\":");
        text.extend_from_slice(token);
        text.extend_from_slice(b"}}");
    }
    text.push(b'}');
    Some(text.into())
}

/// Where a client wants to resume.
pub(super) struct Behind {
    /// The upstream's own event id.
    pub(super) id: HeaderValue,
    /// The request that the stream answers, if it answers one: reduced, never to be sent.
    pub(super) request: Option<Envelope>,
}

/// An id that is not this caller's, of another session, or too old.
pub(super) struct UnknownEvent;

/// The event behind which the client wants to resume, if it does.
pub(super) fn open(
    headers: &HeaderMap,
    gateway: &Gateway,
    site: &Site,
    caller: &Caller,
    session: &Session,
) -> Result<Option<Behind>, UnknownEvent> {
    let mut ids = headers.get_all(LAST_EVENT_ID).iter();
    let id = match (ids.next(), ids.next()) {
        (None, _) => return Ok(None),
        (Some(id), None) => id.to_str().map_err(|_| UnknownEvent)?,
        _ => return Err(UnknownEvent),
    };
    let owner = owner(Purpose::Event, site, caller);
    let opened = gateway.sealer().open(&owner, id, gateway::now()).map_err(|_| UnknownEvent)?;
    let (of_session, rest) = split(&opened).ok_or(UnknownEvent)?;
    let (request, id) = split(rest).ok_or(UnknownEvent)?;
    if of_session != session.upstream.as_ref().map(HeaderValue::as_bytes).unwrap_or_default() {
        return Err(UnknownEvent);
    }
    let request = (!request.is_empty()).then(|| Envelope::parse(Bytes::copy_from_slice(request), &Limits::CLIENT));
    let request = request.transpose().map_err(|_| UnknownEvent)?;
    Ok(Some(Behind { id: HeaderValue::from_bytes(id).map_err(|_| UnknownEvent)?, request }))
}

/// A part with its length before it, and what follows.
fn split(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = payload.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_request_judges_its_answer() {
        let text = br#"{"jsonrpc":"2.0","id":"a\u0062","method":"tools/call","params":{"name":"t","_meta":{"progressToken":7}}}"#;
        let request = Envelope::parse(Bytes::from_static(text), &Limits::CLIENT).unwrap();
        let kept = Envelope::parse(essence(&request).unwrap(), &Limits::CLIENT).unwrap();
        assert_eq!(kept.method(), Some("tools/call"));
        assert_eq!(kept.id_raw(), request.id_raw());
        assert_eq!(kept.meta().progress_token_raw(), Some(&b"7"[..]));
        assert_eq!(kept.name(), None, "nothing else is kept");
        assert_eq!(reduced(request).name(), Some("t"), "a small one is kept whole");
        let large =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{}"}}}}"#, "t".repeat(9));
        let large = large.replacen("{", &format!("{{{}", " ".repeat(SMALL)), 1);
        let large = reduced(Envelope::parse(large.into(), &Limits::CLIENT).unwrap());
        assert!(large.body().len() < 100 && large.id_raw() == Some(b"1") && large.method() == Some("tools/call"));
    }

    #[test]
    fn parts_read_back_and_cut_ones_do_not() {
        assert_eq!(split(b"\0\0\0\x02abc"), Some((&b"ab"[..], &b"c"[..])));
        for cut in [&b""[..], b"\0\0\0", b"\0\0\0\x02a", b"\xff\xff\xff\xffa"] {
            assert_eq!(split(cut), None);
        }
    }
}
