//! A response's body as one piece, for what has to be judged whole.
//!
//! Invariant: bounded in size and time, whatever the upstream announced; a body that comes in one frame is not copied.

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;

use super::UpstreamError;
use crate::egress::root_cause;

/// Reads `body` to its end: at most `max_bytes`, in at most `within`.
///
/// # Errors
/// If it is larger or slower than that, or breaks off.
pub async fn whole<B>(body: B, max_bytes: usize, within: Duration) -> Result<Bytes, UpstreamError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error + 'static,
{
    match tokio::time::timeout(within, read(body, max_bytes)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(UpstreamError::BodyTimeout { seconds: within.as_secs() }),
    }
}

async fn read<B>(mut body: B, max_bytes: usize) -> Result<Bytes, UpstreamError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error + 'static,
{
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| UpstreamError::Http { detail: root_cause(&e) })?;
        // Trailers say nothing that MCP knows.
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > max_bytes {
            return Err(UpstreamError::TooLarge { max_bytes });
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::testing::{endless, full, stuck};

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_body_in_one_frame_is_handed_on_uncopied() {
        let text = Bytes::from_static(b"{\"a\":1}");
        let read = whole(full(text.clone()), 7, LONG).await.unwrap();
        assert_eq!(read.as_ptr(), text.as_ptr());
    }

    #[tokio::test]
    async fn frames_are_joined_in_order_up_to_the_limit() {
        let frames = |texts: &'static [&'static str]| {
            let frame = |text: &&'static str| {
                Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from_static(text.as_bytes())))
            };
            http_body_util::StreamBody::new(futures_util::stream::iter(texts.iter().map(frame)))
        };
        assert_eq!(whole(frames(&["a", "", "bc", "d"]), 4, LONG).await.unwrap(), "abcd");
        assert_eq!(whole(frames(&[]), 0, LONG).await.unwrap(), "");
        assert_eq!(whole(frames(&["a", "bc", "d"]), 3, LONG).await.unwrap_err().reason(), "UpstreamTooLarge");
    }

    #[tokio::test]
    async fn endless_and_stuck_bodies_are_given_up() {
        assert_eq!(whole(endless("x"), 10_000, LONG).await.unwrap_err().reason(), "UpstreamTooLarge");
        let error = whole(stuck("{"), 100, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.reason(), "UpstreamBodyTimeout");
    }
}
