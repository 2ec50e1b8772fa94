//! One client whose id is a document that the proxies serve, resolved: what it says of itself, and its public keys.
//!
//! Invariant: nothing in it is secret; and where it is served is made of its source's UID alone, so no other client is ever
//! found there, and it stays there for as long as its source is there.

use serde::{Deserialize, Serialize};

use super::ObjectId;

/// Below which paths documents of clients are served. No server has a path there: no namespace begins with a hyphen.
pub const PREFIX: &str = "/-/clients/";
/// What follows on the path of a document where its keys are.
const KEYS: &str = "/jwks.json";
/// How long what is served may be kept by whoever fetched it. Keys are made known for longer before they are used.
pub const MAX_AGE_SECONDS: u32 = 60;

/// A resolved `McpClient` that is known by a Client ID Metadata Document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The object that this was resolved from.
    pub id: ObjectId,
    /// The document, as the JSON text that is served at [`path`].
    pub document: String,
    /// The keys that were made for it, as the JSON Web Key Set that is served at [`keys_path`]; `None`: it has none of ours.
    #[serde(deserialize_with = "super::present")]
    pub key_set: Option<String>,
}

/// Where the document of the client with this UID is.
pub fn path(uid: &str) -> String {
    format!("{PREFIX}{uid}")
}

/// Where its keys are.
pub fn keys_path(uid: &str) -> String {
    format!("{PREFIX}{uid}{KEYS}")
}

/// What a path asks for: of which client, and whether its keys.
pub fn of_path(path: &str) -> Option<(&str, bool)> {
    let rest = path.strip_prefix(PREFIX)?;
    let (uid, keys) = rest.strip_suffix(KEYS).map_or((rest, false), |uid| (uid, true));
    (!uid.is_empty() && !uid.contains('/')).then_some((uid, keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_back_and_nothing_else_is_one() {
        assert_eq!(of_path(&path("u-1")), Some(("u-1", false)));
        assert_eq!(of_path(&keys_path("u-1")), Some(("u-1", true)));
        for other in
            ["/-/clients/", "/-/clients", "/-/clients//jwks.json", "/-/clients/u/", "/-/clients/u/other", "/-/x/u"]
        {
            assert_eq!(of_path(other), None, "{other}");
        }
    }
}
