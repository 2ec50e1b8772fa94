//! Requests to an authorization server as data, and what their answers mean.
//!
//! Invariant: nothing here is sent; a request names the credential that it needs, and whoever sends it puts that in.

use serde_json::{Map, Value};

use super::ledger::{Handle, Registration};
use crate::oauth::Refusal;
use crate::oauth::client_registration::{AuthMethod, Difference, refusal};
use crate::sensitive::Sensitive;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it is for.
    pub purpose: Purpose,
    /// The HTTP method.
    pub verb: Verb,
    /// Where to.
    pub url: String,
    /// As whom.
    pub auth: Auth,
    /// The body.
    pub body: Body,
    /// A secret that the body says.
    pub says: Option<Sensitive>,
}

impl Call {
    /// The secrets that it carries as it is.
    pub fn secrets(&self) -> Vec<Sensitive> {
        let token = match &self.auth {
            Auth::Registration(token) => Some(token.clone()),
            Auth::Initial | Auth::Admin | Auth::Client => None,
        };
        token.into_iter().chain(self.says.clone()).collect()
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A client is registered.
    Create,
    /// The client of our id is looked for.
    Find,
    /// The client that is to be taken over is looked at.
    Adopt,
    /// The current client is read back.
    Read,
    /// The current client is brought to what is wanted.
    Update,
    /// The current client is given another secret.
    Renew,
    /// The current client is deleted.
    Delete,
    /// The oldest of the clients of before is deleted.
    DeleteRetired,
    /// Whether the current client is still believed.
    Probe,
}

impl Purpose {
    /// For logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Create => "create",
            Purpose::Find => "find",
            Purpose::Adopt => "adopt",
            Purpose::Read => "read",
            Purpose::Update => "update",
            Purpose::Renew => "renew",
            Purpose::Delete => "delete",
            Purpose::DeleteRetired => "delete_retired",
            Purpose::Probe => "probe",
        }
    }
}

/// The HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
}

/// As whom a request is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// With the initial access token, if the administrator gave one (RFC 7591 section 3).
    Initial,
    /// With this registration access token (RFC 7592 section 2).
    Registration(Sensitive),
    /// As the administrative client of the authority.
    Admin,
    /// As the current client itself.
    Client,
}

/// A request's body. None of them is shown: each may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// None.
    None,
    /// A JSON text.
    Json(Sensitive),
    /// A token request: a grant that is asked for in order to learn whether the client is believed.
    Grant,
}

/// An answer, as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, bounded.
    pub body: Vec<u8>,
    /// The server asks to be left alone for so long (seconds).
    pub retry_after: Option<u32>,
    /// Whether its challenge says that the token is not good (RFC 6750 section 3.1).
    pub denies_token: bool,
    /// The secrets that the request carried: what a server repeats of them is not passed on.
    pub sent: Vec<Sensitive>,
}

impl Answer {
    /// Why the server refused.
    pub(super) fn refusal(&self) -> Refusal {
        let sent: Vec<&Sensitive> = self.sent.iter().collect();
        refusal(self.status, &self.body, &sent)
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A client, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub client_id: String,
    /// Its secret, where the answer says it.
    pub client_secret: Option<Sensitive>,
    /// When the secret expires (Unix seconds).
    pub secret_expires_at: Option<i64>,
    /// How it is managed, where the answer says it.
    pub handle: Option<Handle>,
    /// How it authenticates, where the answer says it and this build knows it.
    pub auth_method: Option<AuthMethod>,
    /// Whether somebody has switched it off at the server.
    pub is_disabled: bool,
    /// Where it is not what is wanted.
    pub differences: Vec<Difference>,
    /// What an update is to keep of it. It holds no secret.
    pub found: Option<Map<String, Value>>,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// There is a client, and it is ours.
    Client(Box<Client>),
    /// It has this secret now.
    Secret(Sensitive),
    /// There is one of our id, not described: it is to be looked at.
    Exists,
    /// There is one of our id, and it is somebody else's.
    Foreign,
    /// There is none (any more).
    Absent,
    /// The client itself is not believed: in words.
    Unbelieved(String),
    /// What we manage the client with is not believed: it is dead, or the client is gone.
    Unmanageable,
    /// Nothing is found where the client is managed: the client is gone, or only that place is.
    Missing,
    /// Something was made, and nobody can use it as it was answered.
    Unusable {
        /// Its id, if the answer says that.
        client_id: Option<String>,
        /// Why, in words.
        detail: String,
    },
    /// The client itself is believed.
    Alive,
    /// It deletes the client for nobody.
    NotDeleted(String),
    /// It does not take the request as it is, however often it comes.
    Refused(String),
    /// It does not take it from us.
    Denied(String),
    /// Not now.
    Later {
        /// After so long (seconds), if it says so.
        retry_after: Option<u32>,
        /// The status.
        status: u16,
    },
    /// Whether it was done is not known.
    Unknown(String),
    /// It was not sent.
    Unsent(String),
    /// It was not sent: what an administrator has to lend us for it is not there.
    Lacking(String),
}

impl Heard {
    /// An answer that says neither yes nor no.
    pub(super) fn neither(answer: &Answer) -> Self {
        let status = answer.status;
        match status {
            // It refused to begin.
            429 | 503 => Heard::Later { retry_after: answer.retry_after, status },
            // It may have failed after it had begun.
            500.. => Heard::Unknown(format!("it answered with status {status}")),
            300..=399 => Heard::Refused(format!("it answered with a redirect ({status}), which is not followed")),
            _ => Heard::Unknown(format!("its answer with status {status} cannot be read")),
        }
    }
}

/// What is needed of the surroundings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Where clients are registered (RFC 7591), if the issuer says so.
    pub registration_endpoint: Option<String>,
    /// Where tokens are asked for.
    pub token_endpoint: Option<String>,
    /// Whether it takes Client ID Metadata Documents, if it says anything.
    pub takes_documents: Option<bool>,
    /// The base of the administrative API, if there are credentials for it.
    pub admin: Option<String>,
}

impl Registration {
    /// One that the server was not asked for.
    pub(super) fn without_answer(client_id: &str, handle: Handle, auth_method: AuthMethod, now: i64) -> Self {
        Self {
            client_id: client_id.to_owned(),
            client_secret: None,
            secret_expires_at: None,
            secret_since: now,
            registered_at: now,
            updated_at: now,
            handle,
            auth_method,
            is_disabled: false,
            digest: String::new(),
            kids: Vec::new(),
            substituted: Vec::new(),
        }
    }

    /// A registration, as first described. `auth_method`: as it was asked for.
    pub(super) fn of(client: Client, auth_method: AuthMethod, now: i64) -> Self {
        // A server may have chosen another (RFC 7591 section 3.2.1).
        let auth_method = client.auth_method.unwrap_or(auth_method);
        let mut registration = Self::without_answer(&client.client_id, Handle::Unmanaged, auth_method, now);
        registration.take(client, now);
        registration
    }

    /// How it authenticates from now on. A secret that it does not use is not kept.
    pub(super) fn authenticates_by(&mut self, auth_method: AuthMethod) {
        self.auth_method = auth_method;
        if !auth_method.shares_secret() {
            (self.client_secret, self.secret_expires_at) = (None, None);
        }
    }

    /// Takes over what an answer says. Whatever is new replaces what was there: of what a server has given anew, the old is
    /// dead (RFC 7592 section 2.1 and 2.2).
    pub(super) fn take(&mut self, client: Client, now: i64) {
        if let Some(handle) = client.handle {
            self.handle = handle;
        }
        self.is_disabled = client.is_disabled;
        if let Some(secret) = client.client_secret.filter(|_| self.auth_method.shares_secret()) {
            if self.client_secret.as_ref() != Some(&secret) || self.secret_expires_at < client.secret_expires_at {
                self.secret_since = now;
            }
            self.client_secret = Some(secret);
            self.secret_expires_at = client.secret_expires_at;
        }
    }
}
