//! What identifies the gateway to an upstream, ready to be put on requests.
//!
//! Invariant: prepared values are marked sensitive, so neither `Debug` nor HPACK shows or indexes them, and no
//! credential can take the place of a header that frames, routes or describes the message.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::UpstreamError;
use crate::generated::server::Credentials;

/// Names that describe the message rather than its sender.
static NEVER: [HeaderName; 12] = [
    ACCEPT,
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Header values ready to be inserted.
#[derive(Clone, Debug, Default)]
pub(super) struct Prepared(Vec<(HeaderName, HeaderValue)>);

impl Prepared {
    /// Parses the configured credentials, as far as they are the same for every request.
    pub(super) fn new(credentials: &Credentials) -> Result<Self, UpstreamError> {
        match credentials {
            Credentials::None | Credentials::Oauth(_) => Ok(Vec::new()),
            Credentials::Headers(headers) => {
                headers.iter().map(|header| prepare(&header.name, header.value.expose())).collect::<Result<_, _>>()
            }
            Credentials::ServiceAccount { token } => {
                prepare(AUTHORIZATION.as_str(), &format!("Bearer {}", token.expose())).map(|header| vec![header])
            }
        }
        .map(Self)
    }

    /// Puts them on a request, in place of whatever has their names.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name.clone(), value.clone());
        }
    }
}

fn prepare(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), UpstreamError> {
    let error = |why| UpstreamError::Credential { name: name.to_owned(), why };
    let name: HeaderName = name.parse().map_err(|_| error("has no proper name"))?;
    if NEVER.contains(&name) || name.as_str().starts_with("mcp-") {
        return Err(error("would replace a header of the protocol"));
    }
    let mut value = HeaderValue::from_str(value).map_err(|_| error("holds characters that no header may"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::server::CredentialHeader;
    use crate::sensitive::Sensitive;

    fn prepare(name: &str, value: &str) -> Result<Prepared, UpstreamError> {
        let header = CredentialHeader { name: name.to_owned(), value: Sensitive::new(value) };
        Prepared::new(&Credentials::Headers(vec![header]))
    }

    #[test]
    fn values_replace_and_are_never_printed() {
        let prepared = prepare("authorization", "Bearer canary-7f").unwrap();
        let mut headers = HeaderMap::new();
        headers.append("authorization", HeaderValue::from_static("Bearer of-the-caller"));
        headers.append("authorization", HeaderValue::from_static("Bearer twice"));
        prepared.apply(&mut headers);
        assert_eq!(headers.get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer canary-7f"]);
        assert!(!format!("{prepared:?}{headers:?}").contains("canary"));
    }

    #[test]
    fn protocol_headers_and_broken_values_are_refused_without_showing_the_value() {
        for (name, value) in
            [("host", "a"), ("mcp-method", "a"), ("Content-Length", "1"), ("a b", "x"), ("x-key", "canary\r\nevil: 1")]
        {
            let error = prepare(name, value).unwrap_err();
            assert_eq!(error.reason(), "UpstreamCredentialInvalid", "{name}");
            assert!(!error.to_string().contains("canary"));
        }
    }
}
