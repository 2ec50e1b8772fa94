//! What is known of one registration: kept in a Secret of the system namespace, and the only memory that there is.
//!
//! Invariant: it is written before anything is sent that could not be taken back, and again before anything else is sent once
//! an answer has changed it; so a controller that dies at any point finds out, from this alone, what it may have done. It
//! belongs to one issuer, and nothing in it is ever sent to another. Nothing is written that would not be read again.

use serde::{Deserialize, Serialize};

use super::desired::{Deletion, Desired, Method, Profile};
use crate::oauth::client_registration::AuthMethod;
use crate::sensitive::Sensitive;

/// The version of what is written.
const VERSION: u32 = 1;
/// So many lost registrations are named; the rest is counted.
pub(super) const MOST_LOST: usize = 16;
/// So many clients of before are kept.
pub(super) const MOST_RETIRED: usize = 4;
/// The most bytes of a ledger: more than the largest one has that servers' answers can make.
const MOST_BYTES: usize = 512 * 1024;

/// One registration, with everything that is needed to manage it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    version: u32,
    /// Whose it is.
    pub owner: Owner,
    /// What tells this installation from others at the same server.
    pub cluster: String,
    /// The McpAuthorizationServer.
    pub authority: String,
    /// Its exact issuer.
    pub issuer: String,
    /// The product behind it.
    pub profile: Profile,
    /// Where its tokens are asked for, as it said last: what its metadata says is not known at all times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
    /// How it is registered: chosen once, and changed by no failure.
    pub method: Method,
    /// What becomes of it when its owner is gone.
    pub deletion: Deletion,
    /// The client's own keys, if they were made here; the newest is the last.
    pub keys: Vec<Key>,
    /// How many times a registration was begun: what tells one attempt from another at the server.
    pub attempts: u64,
    /// What is under way.
    pub step: Step,
    /// The client, once there is one.
    pub current: Option<Registration>,
    /// Clients of before, which are deleted when their time has come.
    pub retired: Vec<Retired>,
    /// What may be left at the server, and cannot be removed from here.
    pub lost: Vec<Lost>,
    /// How many more were lost than are named.
    pub lost_besides: u64,
    /// By which word its owner last said that nothing of those is left.
    pub forgotten: Option<String>,
    /// Since when its owner does not wait for it any more: it is a tombstone (Unix seconds).
    pub released: Option<i64>,
    /// Whether there was a client once: nothing keeps its owner from having another one in its place.
    #[serde(default)]
    pub had_client: bool,
}

/// Whose registration it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A key pair of the client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its id.
    pub kid: String,
    /// The private key: PKCS#8 in Base64.
    pub pkcs8: Sensitive,
    /// The public key: a JSON Web Key.
    pub public: serde_json::Value,
    /// When it was made (Unix seconds).
    pub made: i64,
    /// Since when every proxy serves it, where the gateway serves the client's keys (Unix seconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<i64>,
    /// Since when its owner has it, where the gateway serves the client's keys (Unix seconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<i64>,
}

/// What is under way at the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Step {
    /// Nothing.
    Idle,
    /// A client is being registered; no answer is known.
    Creating {
        /// Since when (Unix seconds).
        since: i64,
    },
    /// The client is being brought to what this is the digest of.
    Updating {
        /// Of what is asked for.
        digest: String,
        /// Whether that is to give it another secret.
        renews: bool,
    },
    /// The client is being deleted.
    Deleting,
}

/// A client at the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Its id.
    pub client_id: String,
    /// Its secret, if it has one.
    pub client_secret: Option<Sensitive>,
    /// When the secret expires (Unix seconds).
    pub secret_expires_at: Option<i64>,
    /// Since when it has this secret (Unix seconds).
    pub secret_since: i64,
    /// When it was registered (Unix seconds).
    pub registered_at: i64,
    /// When what was asked for was changed last (Unix seconds).
    pub updated_at: i64,
    /// How it is managed.
    pub handle: Handle,
    /// How it authenticates, as far as that is known.
    #[serde(default = "unsaid")]
    pub auth_method: AuthMethod,
    /// Whether somebody has switched it off at the server.
    #[serde(default)]
    pub is_disabled: bool,
    /// Of what was asked for last, and answered.
    pub digest: String,
    /// Ids of the keys that were asked for, or, where the gateway serves them, that may be signed with.
    pub kids: Vec<String>,
    /// What the server answered instead of what was asked for (RFC 7591 section 3.2.1).
    pub substituted: Vec<Substitution>,
}

impl Registration {
    /// Whether somebody else has registered it, nobody here knows when.
    pub fn is_given(&self) -> bool {
        matches!(self.handle, Handle::Given { .. })
    }
}

/// RFC 7591 section 2.
fn unsaid() -> AuthMethod {
    AuthMethod::ClientSecretBasic
}

/// How a client is managed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Handle {
    /// By RFC 7592.
    Protocol {
        /// Where (`registration_client_uri`).
        uri: String,
        /// By which token (`registration_access_token`).
        token: Sensitive,
    },
    /// By the vendor's administrative API, under its own id there.
    Admin {
        /// The id.
        id: String,
    },
    /// Its id is a document that the gateway serves: the server keeps nothing that could be managed.
    Document {
        /// Whether it was served once by every proxy.
        is_served: bool,
        /// Whether the server believed the client when it was asked last.
        is_believed: bool,
    },
    /// Somebody else has registered it, and manages it.
    Given {
        /// Whether the server believed the client when it was asked last.
        is_believed: bool,
    },
    /// Not at all: the server gave no means.
    Unmanaged,
}

/// What the server answered instead of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Substitution {
    /// The member.
    pub field: String,
    /// What was asked for.
    pub wanted: String,
    /// What was answered.
    pub got: String,
    /// Whether the client is less safe by it.
    pub weakens: bool,
}

/// A client of before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// The client.
    pub registration: Registration,
    /// Until when it is kept (Unix seconds).
    pub until: i64,
}

/// What may be left at the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// Its id, if that is known.
    pub client_id: Option<String>,
    /// The attempt that may have made it: its `software_version`.
    pub attempt: u64,
    /// When it was lost (Unix seconds).
    pub at: i64,
    /// How.
    pub why: WhyLost,
}

/// How a registration was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhyLost {
    /// A registration was sent, or may have been, and no answer is known.
    NoAnswer,
    /// The server gave no means to manage it, or does not take them any more.
    Unmanageable,
}

/// Why a ledger cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// It is not one.
    #[error("it is not a ledger of a registration")]
    Malformed,
    /// A later build wrote it.
    #[error("a later version of Portcullis wrote it")]
    Later,
    /// It is too large.
    #[error("it is larger than {MOST_BYTES} bytes")]
    TooLarge,
}

impl LedgerError {
    /// A stable word.
    pub fn reason(self) -> &'static str {
        match self {
            LedgerError::Malformed => "LedgerMalformed",
            LedgerError::Later => "LedgerOfLaterVersion",
            LedgerError::TooLarge => "LedgerTooLarge",
        }
    }
}

impl Ledger {
    /// Nothing is registered yet, and `method` was chosen.
    pub fn new(desired: &Desired, kind: &str, method: Method, cluster: &str) -> Self {
        let owner = &desired.owner;
        Self {
            version: VERSION,
            owner: Owner {
                kind: kind.to_owned(),
                namespace: owner.namespace.clone(),
                name: owner.name.clone(),
                uid: owner.uid.clone(),
            },
            cluster: cluster.to_owned(),
            authority: desired.authority.clone(),
            issuer: desired.issuer.clone(),
            profile: desired.profile,
            token_endpoint: None,
            method,
            deletion: desired.deletion,
            keys: Vec::new(),
            attempts: 0,
            step: Step::Idle,
            current: None,
            retired: Vec::new(),
            lost: Vec::new(),
            lost_besides: 0,
            forgotten: None,
            released: None,
            had_client: false,
        }
    }

    /// Reads what [`Ledger::encode`] wrote.
    ///
    /// # Errors
    /// If it is something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, LedgerError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if bytes.len() > MOST_BYTES {
            return Err(LedgerError::TooLarge);
        }
        match serde_json::from_slice::<Version>(bytes) {
            Ok(Version { version }) if version > VERSION => Err(LedgerError::Later),
            _ => {
                let ledger: Self = serde_json::from_slice(bytes).map_err(|_| LedgerError::Malformed)?;
                // Earlier versions wrote nothing of that.
                Ok(Self { had_client: ledger.had_client || ledger.current.is_some(), ..ledger })
            }
        }
    }

    /// The text that is stored. It holds credentials.
    ///
    /// # Errors
    /// If it is larger than what [`Ledger::decode`] reads.
    pub fn encode(&self) -> Result<Vec<u8>, LedgerError> {
        let text = serde_json::to_vec(self).map_err(|_| LedgerError::Malformed)?;
        if text.len() > MOST_BYTES { Err(LedgerError::TooLarge) } else { Ok(text) }
    }

    /// Whether nothing of it is made, changed or deleted at the server.
    pub fn is_only_told(&self) -> bool {
        matches!(self.method, Method::Preregistered | Method::Cimd)
    }

    /// Whether nothing is left at the server that could be removed.
    pub fn is_empty(&self) -> bool {
        self.current.is_none() && self.retired.is_empty() && !matches!(self.step, Step::Creating { .. })
    }

    /// Whether what was registered has ended: what is registered next begins anew.
    pub fn is_at_an_end(&self) -> bool {
        self.released.is_some() && self.is_empty()
    }

    /// Whether it is kept for what was lost alone.
    pub fn is_over(&self) -> bool {
        self.is_at_an_end() && self.losses() > 0
    }

    /// Notes what may be left at the server.
    pub(super) fn lose(&mut self, client_id: Option<String>, at: i64, why: WhyLost) {
        let lost = Lost { client_id, attempt: self.attempts, at, why };
        if self.lost.len() < MOST_LOST {
            self.lost.push(lost);
        } else {
            self.lost_besides = self.lost_besides.saturating_add(1);
        }
    }

    /// Keeps a client of before among the others, of which the first is the next to go. That one is answered if there is no
    /// room for it any more.
    pub(super) fn retire(&mut self, retired: Retired) -> Option<Registration> {
        self.retired.push(retired);
        self.retired.sort_by_key(|retired| retired.until);
        (self.retired.len() > MOST_RETIRED).then(|| self.retired.remove(0).registration)
    }

    /// How many registrations may be left at the server.
    pub fn losses(&self) -> u64 {
        self.lost_besides.saturating_add(self.lost.len() as u64)
    }
}
