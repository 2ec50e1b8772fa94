//! Server-side apply, for whatever text there is in an object.
//!
//! Invariant: what is stored is what was given, byte for byte. The API server reads what is applied as YAML, which refuses
//! some characters that JSON takes, and folds others into blanks (YAML 1.2 sections 5.1 and 5.4): a name that an upstream gave
//! to a tool, or a policy's message, could keep an object from being written, or from ever being as it should be. As JSON
//! escapes, all of them are read as they are.

use std::fmt::{Debug, Write as _};

use kube::api::{Patch, PatchParams};
use kube::core::Request;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Applies an object.
///
/// # Errors
/// If the API server did not do it.
pub async fn apply<K>(api: &Api<K>, name: &str, params: &PatchParams, object: &impl Serialize) -> kube::Result<K>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    send(api, Request::new(api.resource_url()).patch(name, params, &Patch::Apply(object))).await
}

/// Applies an object's status.
///
/// # Errors
/// If the API server did not do it.
pub async fn apply_status<K>(api: &Api<K>, name: &str, params: &PatchParams, object: &impl Serialize) -> kube::Result<K>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    send(api, Request::new(api.resource_url()).patch_subresource("status", name, params, &Patch::Apply(object))).await
}

type Built = Result<http::Request<Vec<u8>>, kube::core::request::Error>;

async fn send<K: Resource + Clone + Debug + DeserializeOwned>(api: &Api<K>, request: Built) -> kube::Result<K> {
    let request = request.map_err(kube::Error::BuildRequest)?.map(escaped);
    api.clone().into_client().request(request).await
}

/// The same JSON, which YAML reads alike.
fn escaped(json: Vec<u8>) -> Vec<u8> {
    if json.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return json;
    }
    let Ok(text) = std::str::from_utf8(&json) else { return json };
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // Outside of strings there is nothing but ASCII, and all of these lie below the surrogates or right above them.
        if is_read_alike(c) {
            out.push(c);
        } else {
            // Writing to a string cannot fail.
            write!(out, "\\u{:04x}", u32::from(c)).unwrap_or_default();
        }
    }
    out.into_bytes()
}

/// Whether YAML takes a character in a quoted text, and for what it is: neither for a line break nor for a byte order mark.
fn is_read_alike(c: char) -> bool {
    match c {
        '\u{feff}' | '\u{2028}' | '\u{2029}' => false,
        ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_refuses_or_folds_is_escaped_and_nothing_else() {
        for (text, sent) in [
            ("plain", "plain"),
            ("caf\u{e9} \u{1f980}", "caf\u{e9} \u{1f980}"),
            ("\u{7f}", "\\u007f"),
            ("a\u{85}b\u{9f}", "a\\u0085b\\u009f"),
            ("\u{2028}\u{2029}\u{feff}\u{fffe}\u{ffff}", "\\u2028\\u2029\\ufeff\\ufffe\\uffff"),
        ] {
            let json = serde_json::to_vec(text).unwrap();
            assert_eq!(String::from_utf8(escaped(json)).unwrap(), format!("\"{sent}\""));
        }
    }

    #[test]
    fn every_character_means_the_same_afterwards() {
        let all: String = ('\0'..=char::MAX).collect();
        let sent = escaped(serde_json::to_vec(&all).unwrap());
        assert_eq!(serde_json::from_slice::<String>(&sent).unwrap(), all);
    }
}
