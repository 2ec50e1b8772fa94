//! A compact JWS taken apart (RFC 7515 section 3.1): nothing is proven yet.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::super::bearer::MAX_HEADER_BYTES;
use super::error::{Part, TokenError};
use crate::oauth::json;

/// The decoded segments, and the bytes that were signed.
pub(super) struct Compact<'t> {
    pub(super) header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
    pub(super) signed: &'t [u8],
    pub(super) signature: Vec<u8>,
}

impl<'t> Compact<'t> {
    pub(super) fn parse(token: &'t str) -> Result<Compact<'t>, TokenError> {
        if token.len() > MAX_HEADER_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Segments)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Segments)?;
        if claims.contains('.') {
            return Err(TokenError::Segments);
        }
        Ok(Compact {
            header: object(Part::Header, header)?,
            claims: object(Part::Claims, claims)?,
            signed: signed.as_bytes(),
            signature: decode(Part::Signature, signature)?,
        })
    }

    /// A header member that is a string, if it is present.
    pub(super) fn header_text(&self, member: &'static str) -> Result<Option<&str>, TokenError> {
        match self.header.get(member) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenError::Header(member)),
        }
    }
}

/// Unpadded base64url without whitespace, and with zero trailing bits: one text per value (RFC 7515 section 2).
fn decode(part: Part, segment: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| TokenError::Encoding(part))
}

fn object(part: Part, segment: &str) -> Result<Map<String, Value>, TokenError> {
    json::object(&decode(part, segment)?).map_err(|cause| TokenError::Json { part, cause })
}
