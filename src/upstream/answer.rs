//! What an upstream's response is, judged by its head alone.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

use super::UpstreamError;

/// What an acceptable response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One JSON document, whatever the status: protocol errors have bodies too.
    Json,
    /// Server-sent events, status 200.
    Events,
    /// A status whose body, if any, means nothing to MCP and is not passed on: 202, 204, a 2xx that claims no type, or a
    /// 4xx that is no JSON. Right for a notification; for a request, the caller still needs an answer.
    Bare,
}

impl Answer {
    /// Judges status and headers. Does not look at the body: whether JSON is JSON is found by whoever parses it.
    ///
    /// # Errors
    /// For 401, 403, 407, every redirect, 5xx without JSON, compressed bodies, and bodies of another type.
    pub fn judge(status: StatusCode, headers: &HeaderMap) -> Result<Self, UpstreamError> {
        let code = status.as_u16();
        match code {
            401 | 403 | 407 => return Err(UpstreamError::CredentialsRefused { status: code }),
            300..=399 => return Err(UpstreamError::Redirected { status: code }),
            200..=299 | 400..=599 => {}
            _ => return Err(UpstreamError::Failed { status: code }),
        }
        let identity = |coding: &http::HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
        let encoded = !headers.get_all(CONTENT_ENCODING).iter().all(identity);
        match (content_type(headers), code) {
            (_, 202 | 204 | 205) => Ok(Answer::Bare),
            (Some(Kind::Json), _) if !encoded => Ok(Answer::Json),
            (Some(Kind::Events), 200) if !encoded => Ok(Answer::Events),
            (None, 200..=299) if !headers.contains_key(CONTENT_TYPE) => Ok(Answer::Bare),
            (_, 400..=499) => Ok(Answer::Bare),
            (_, 500..=599) => Err(UpstreamError::Failed { status: code }),
            _ => Err(UpstreamError::ContentType),
        }
    }
}

enum Kind {
    Json,
    Events,
}

fn content_type(headers: &HeaderMap) -> Option<Kind> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    let essence = value.split(|b| *b == b';').next()?.trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        Some(Kind::Json)
    } else if essence.eq_ignore_ascii_case(b"text/event-stream") {
        Some(Kind::Events)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(status: u16, pairs: &[(&'static str, &'static str)]) -> Result<Answer, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        Answer::judge(StatusCode::from_u16(status).unwrap(), &headers).map_err(|e| e.reason())
    }

    #[test]
    fn heads_are_judged() {
        const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
        const EVENTS: (&str, &str) = ("content-type", "Text/Event-Stream");
        const HTML: (&str, &str) = ("content-type", "text/html");
        assert_eq!(judge(200, &[JSON]), Ok(Answer::Json));
        assert_eq!(judge(200, &[EVENTS]), Ok(Answer::Events));
        assert_eq!(judge(202, &[]), Ok(Answer::Bare));
        assert_eq!(judge(202, &[HTML]), Ok(Answer::Bare));
        assert_eq!(judge(202, &[JSON]), Ok(Answer::Bare));
        assert_eq!(judge(200, &[]), Ok(Answer::Bare));
        assert_eq!(judge(404, &[JSON]), Ok(Answer::Json));
        assert_eq!(judge(404, &[HTML]), Ok(Answer::Bare));
        assert_eq!(judge(500, &[JSON]), Ok(Answer::Json));
        for status in [401, 403, 407] {
            assert_eq!(judge(status, &[JSON]), Err("UpstreamCredentialsRefused"));
        }
        for status in [301, 302, 304, 307, 308] {
            assert_eq!(judge(status, &[JSON]), Err("UpstreamRedirected"));
        }
        assert_eq!(judge(502, &[HTML]), Err("UpstreamFailed"));
        assert_eq!(judge(500, &[EVENTS]), Err("UpstreamFailed"));
        for lie in [
            &[HTML][..],
            &[JSON, HTML],
            &[JSON, ("content-encoding", "gzip")],
            &[JSON, ("content-encoding", "identity"), ("content-encoding", "gzip")],
            &[("content-type", "application/jsonx")],
        ] {
            assert_eq!(judge(200, lie), Err("UpstreamContentType"), "{lie:?}");
        }
    }
}
