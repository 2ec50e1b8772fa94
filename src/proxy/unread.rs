//! What is left of a request once its answer is known.
//!
//! Invariant: an answer of HTTP/1.1 that comes before its request has ended is either sent after that end, or says that it is
//! the last on its connection (RFC 9112 section 9.6). Otherwise a client sends its next request where nobody reads it: those
//! who are answered 401, as every client is at first, would fail by chance, since a head and a body often come apart.

use std::time::Duration;

use http::header::EXPECT;
use http::{HeaderMap, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

/// How long the rest of a body is waited for: what was sent together arrives together.
const PATIENCE: Duration = Duration::from_millis(500);
/// How much of it is read (bytes). A new connection costs less than more.
const MOST: usize = 256 * 1024;

/// How much of a body its client still means to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Requests have streams of their own (RFC 9113 section 8.1).
    None,
    /// What was announced.
    Announced,
    /// Nothing before it is asked for (RFC 9110 section 10.1.1), and nobody asks for it any more.
    Expecting,
}

impl Rest {
    pub(super) fn of(version: Version, headers: &HeaderMap) -> Self {
        match version {
            Version::HTTP_2 | Version::HTTP_3 => Self::None,
            _ if headers.contains_key(EXPECT) => Self::Expecting,
            _ => Self::Announced,
        }
    }

    /// Reads what is left of `body`, if it comes soon and is not much. Whether another request can follow it.
    pub(super) async fn is_over(self, body: &mut Incoming) -> bool {
        if self == Self::None || body.is_end_stream() {
            return true;
        }
        let read = async {
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame.ok()?.data_ref().map_or(0, bytes::Bytes::len);
                (bytes <= MOST).then_some(())?;
            }
            Some(())
        };
        self == Self::Announced && matches!(tokio::time::timeout(PATIENCE, read).await, Ok(Some(())))
    }
}
