//! What a client is to be at the server, in full: as its author wants it, with our marks and its keys.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

use super::claim::Claimed;
use super::desired::Desired;
use super::ledger::{Key, Ledger};
use crate::generated::Digest;
use crate::oauth::client_registration::{AuthMethod, ClientMetadata, Keys};

/// What a client is to be at the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What is registered.
    pub metadata: ClientMetadata,
    /// Resource identifiers of the servers that it is for.
    pub resources: Vec<String>,
    /// The issuer.
    pub issuer: String,
    /// What tells it from others.
    pub marks: Marks,
    /// Ids of its keys that were made here.
    pub kids: Vec<String>,
}

/// What tells a client from others at the server: whose it is, and of which installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Its id, where it can be chosen.
    pub client_id: String,
    /// Whose it is: in `software_id`, or where the vendor keeps such things.
    pub owner: String,
    /// The client that is being taken over, which may bear another mark.
    pub claimed: Option<Claimed>,
}

impl Marks {
    /// The marks of what a ledger tells of.
    pub fn of(ledger: &Ledger) -> Self {
        let (uid, cluster) = (&ledger.owner.uid, short(&ledger.cluster));
        // All of the UID: two objects never share an id.
        let client_id = format!("portcullis-{cluster}-{}", plain(uid).collect::<String>());
        Self { client_id, owner: format!("{}{uid}", mark_prefix(&ledger.cluster)), claimed: None }
    }

    /// Those of the client that there is, if there is one: one that was taken over has kept its id.
    pub(super) fn of_current(ledger: &Ledger) -> Self {
        let marks = Self::of(ledger);
        let known = ledger.current.as_ref().map(|current| current.client_id.clone());
        Self { client_id: known.unwrap_or(marks.client_id), ..marks }
    }

    /// Whether a client with this mark is ours, or is to be.
    pub(super) fn are_of(&self, mark: Option<&str>) -> bool {
        mark == Some(&self.owner) || self.claimed.as_ref().is_some_and(|claimed| claimed.accepts(mark))
    }
}

impl Wanted {
    /// What `desired` comes to, with the keys that were made for it.
    pub fn new(desired: &Desired, ledger: &Ledger) -> Self {
        let marks = Marks::of(ledger);
        let mut metadata = desired.metadata.clone();
        let mut kids = Vec::new();
        if needs_keys(desired) {
            let keys: Vec<_> = ledger.keys.iter().map(|key| key.public.clone()).collect();
            metadata.keys = Keys::Inline(json!({ "keys": keys }));
            kids = ledger.keys.iter().map(|key| key.kid.clone()).collect();
        }
        metadata.software_id.clone_from(&marks.owner);
        metadata.software_version = ledger.attempts.to_string();
        Self { metadata, resources: desired.resources.clone(), issuer: desired.issuer.clone(), marks, kids }
    }

    /// What tells one wish from another.
    pub fn digest(&self) -> String {
        let text = json!([self.metadata.create_body(), self.resources]).to_string();
        let bytes = digest(&SHA256, text.as_bytes());
        bytes.as_ref().try_into().map(|bytes| Digest(bytes).hex()).unwrap_or_default()
    }
}

/// What the marks of everything begin with that is an installation's.
pub(super) fn mark_prefix(cluster: &str) -> String {
    format!("portcullis:{}:", short(cluster))
}

fn short(cluster: &str) -> String {
    plain(cluster).take(8).collect()
}

fn plain(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(char::is_ascii_alphanumeric)
}

/// Whether the client authenticates by a key that is made for it.
pub(super) fn needs_keys(desired: &Desired) -> bool {
    let is_ours = desired.client_id.is_none() && desired.metadata.keys == Keys::None;
    is_ours && desired.metadata.auth_method == AuthMethod::PrivateKeyJwt
}

/// Whether the client authenticates by a secret that its server gives it.
pub(super) fn needs_secret(desired: &Desired) -> bool {
    desired.metadata.auth_method.shares_secret()
}

/// The key that the client signs with: the newest that the server was told of.
pub fn signing(ledger: &Ledger) -> Option<&Key> {
    let known = &ledger.current.as_ref()?.kids;
    ledger.keys.iter().rev().find(|key| known.contains(&key.kid))
}
