//! Reads a request's body.
//!
//! Invariant: type, coding and size are judged before a byte is parsed; the one scan that follows is the only reading,
//! and the bytes that it read are the bytes that are forwarded (mcp-obligations 4-6, 21).

use std::future::Future;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;

use super::config::Limits;
use super::respond::{self, Refused};
use super::room::{Room, SMALL, Taken};
use super::unread::Arriving;
use crate::mcp::answer::Own;
use crate::mcp::envelope::Envelope;
use crate::mcp::malformed::{Fault, Malformed};
use crate::mcp::scan;

/// Why no message was received.
pub(super) enum Unreceived {
    /// It is not acceptable.
    Refused(Refused),
    /// The client went away.
    Gone,
}

/// Reads the message that a POST carries.
pub(super) async fn message(
    headers: &HeaderMap,
    body: &mut Arriving,
    limits: &Limits,
    room: &Room,
) -> Result<Envelope, Unreceived> {
    check_type(headers).map_err(Unreceived::Refused)?;
    // Nobody waits for room with half a message sent: there are others to be read meanwhile.
    let read = read(body, limits.body_bytes, |bytes| std::future::ready(room.try_take(bytes)));
    let bytes = match tokio::time::timeout(limits.body_timeout, read).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(ReadError::NoRoom)) => {
            let answer = Own::TooMany.answer(None, "too many large messages at once: try again in a moment");
            return Err(Unreceived::Refused(Refused::with("NoRoom", respond::retry(respond::answer(answer), 1))));
        }
        Ok(Err(ReadError::TooLarge)) => {
            let malformed = Malformed { fault: Fault::TooLarge, offset: limits.body_bytes, id: None };
            return Err(refused(&malformed));
        }
        Ok(Err(ReadError::Broken)) => return Err(Unreceived::Gone),
        Err(_) => {
            let mut answer = Own::BadRequest.answer(None, "the request body did not arrive in time");
            answer.status = StatusCode::REQUEST_TIMEOUT;
            return Err(Unreceived::Refused(Refused::new("BodyTimeout", answer)));
        }
    };
    let scan = scan::Limits { body: limits.body_bytes, ..scan::Limits::CLIENT };
    Envelope::parse(bytes, &scan).map_err(|malformed| refused(&malformed))
}

fn refused(malformed: &Malformed) -> Unreceived {
    Unreceived::Refused(Refused::new(malformed.reason(), malformed.answer()))
}

/// `application/json`, UTF-8, without content coding: an upstream could decode anything else differently.
fn check_type(headers: &HeaderMap) -> Result<(), Refused> {
    let refuse = |reason, message| Err(Refused::new(reason, Own::UnsupportedMediaType.answer(None, message)));
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(value), None) if is_json(value) => {}
        _ => return refuse("MediaType", "Content-Type must be application/json, in UTF-8"),
    }
    let identity = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(identity) {
        Ok(())
    } else {
        refuse("ContentCoding", "Content-Encoding is not accepted: send the message as it is")
    }
}

fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    json && parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    })
}

/// Why a body could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    /// Longer than the limit.
    TooLarge,
    /// The peer went away.
    Broken,
    /// Too many large ones are held already.
    NoRoom,
}

/// Reads a body of at most `most` bytes: without copying, where it comes in one frame. One that is not small needs room
/// for as much as was announced, or else for `most`.
pub(super) async fn read<B, F>(mut body: B, most: usize, room: impl Fn(usize) -> F) -> Result<Bytes, ReadError>
where
    B: Body<Data = Bytes> + Unpin,
    F: Future<Output = Option<Taken>>,
{
    let hint = body.size_hint();
    if hint.lower() > most as u64 {
        return Err(ReadError::TooLarge);
    }
    let announced = hint.exact().and_then(|exact| usize::try_from(exact).ok());
    let mut taken = None;
    if announced.is_some_and(|bytes| bytes > SMALL) {
        taken = Some(room(announced.unwrap_or(most)).await.ok_or(ReadError::NoRoom)?);
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else { continue };
        let total = rest.len() + first.as_ref().map_or(0, Bytes::len) + data.len();
        if total > most {
            return Err(ReadError::TooLarge);
        }
        if total > SMALL && taken.is_none() {
            taken = Some(room(most).await.ok_or(ReadError::NoRoom)?);
        }
        match first.take() {
            None if rest.is_empty() => first = Some(data),
            None => rest.extend_from_slice(&data),
            Some(begun) => {
                rest.reserve(begun.len() + data.len());
                rest.extend_from_slice(&begun);
                rest.extend_from_slice(&data);
            }
        }
    }
    let bytes = first.unwrap_or_else(|| rest.freeze());
    Ok(match taken {
        Some(taken) => taken.hold(bytes),
        None => bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        check_type(&headers).is_ok()
    }

    #[test]
    fn duty_4_only_utf8_json_is_read() {
        const TYPE: &str = "content-type";
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""] {
            assert!(checked(&[(TYPE, good)]), "{good}");
        }
        for bad in
            ["text/json", "application/json; charset=utf-16", "application/jsonx", "application/json, text/plain"]
        {
            assert!(!checked(&[(TYPE, bad)]), "{bad}");
        }
        assert!(!checked(&[]));
        assert!(!checked(&[(TYPE, "application/json"), (TYPE, "application/json")]));
    }

    #[tokio::test]
    async fn duty_6_a_large_body_needs_room_and_a_small_one_does_not() {
        use futures_util::stream;
        use http_body_util::{Full, StreamBody};
        use hyper::body::Frame;

        let limit = 4 * SMALL;
        let room = Room::new(limit, limit);
        let take = |bytes| std::future::ready(room.try_take(bytes));
        let announced = |bytes: usize| Full::new(Bytes::from(vec![b'x'; bytes]));
        let unannounced = |pieces: usize| {
            let piece = || Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![b'x'; SMALL])));
            StreamBody::new(stream::iter((0..pieces).map(move |_| piece())))
        };
        let large = read(announced(2 * SMALL), limit, take).await.unwrap();
        assert_eq!(large.len(), 2 * SMALL);
        assert_eq!(read(announced(3 * SMALL), limit, take).await, Err(ReadError::NoRoom));
        // What may become as large as can be needs room for that.
        assert_eq!(read(unannounced(2), limit, take).await, Err(ReadError::NoRoom));
        assert_eq!(read(announced(SMALL), limit, take).await.map(|small| small.len()), Ok(SMALL));
        assert_eq!(read(unannounced(1), limit, take).await.map(|small| small.len()), Ok(SMALL));
        drop(large);
        assert_eq!(read(unannounced(2), limit, take).await.map(|large| large.len()), Ok(2 * SMALL));
        assert_eq!(read(unannounced(5), limit, take).await, Err(ReadError::TooLarge));
        assert_eq!(read(announced(limit), limit, take).await.map(|large| large.len()), Ok(limit), "all came back");
    }

    #[test]
    fn duty_5_content_codings_are_refused() {
        let json = ("content-type", "application/json");
        assert!(checked(&[json, ("content-encoding", "identity")]));
        for coding in ["gzip", "br", "identity, gzip", ""] {
            assert!(!checked(&[json, ("content-encoding", coding)]), "{coding:?}");
        }
    }
}
