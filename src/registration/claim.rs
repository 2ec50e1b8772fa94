//! A client that is at its server and in no ledger, as an administrator names it so that it is taken over.
//!
//! Invariant: a client is taken over only if it is surely meant: at the issuer and under the id that were named, managed in a way
//! that is allowed, not another owner's, and bearing our mark or exactly the one that was named; and never into a ledger that has
//! another client.

use std::collections::BTreeMap;

use url::Url;

use super::desired::{Desired, Method};
use super::ledger::{Handle, Ledger, Step};
use super::profile;
use super::wanted::Marks;
use crate::oauth::identifier::Identifier;
use crate::sensitive::Sensitive;

/// What says that a client bears no mark.
const NO_MARK: &str = "none";
/// The longest id and mark.
const MOST_BYTES: usize = 2048;
/// The longest registration access token: it is sent in a header.
const MOST_TOKEN_BYTES: usize = 8000;

/// A client that is to be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which, and whose it may be.
    pub claimed: Claimed,
    /// The issuer at which it is.
    pub issuer: String,
    /// How it is managed.
    pub means: Means,
}

/// Which client, and whose it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Its id.
    pub client_id: String,
    /// The mark that it may bear besides ours.
    pub mark: Option<Mark>,
}

/// What a client says of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing: nobody has marked it.
    None,
    /// This.
    Owner(String),
}

/// How a client that is to be taken over is managed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// By RFC 7592.
    Protocol {
        /// Where (`registration_client_uri`).
        uri: String,
        /// By which token (`registration_access_token`).
        token: Sensitive,
    },
    /// By the vendor's administrative API.
    Admin,
}

/// Why a client is not taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A member is missing, or cannot be one.
    #[error("the request has no usable `{0}`")]
    Malformed(&'static str),
    /// It is at another issuer.
    #[error("it is asked for at the issuer {named}, and the McpClient's is {is}")]
    OtherIssuer {
        /// Which.
        named: String,
        /// The McpClient's own.
        is: String,
    },
    /// The URL to manage it at is not the issuer's: the token must not go there.
    #[error("its registration_client_uri is not at the origin of its issuer {0}")]
    Elsewhere(String),
    /// There is a client already.
    #[error(
        "the McpClient has the client {0} already; delete the McpClient, and make it anew with the annotation \
         portcullis.dev/adopt-registration, which keeps it from being registered"
    )]
    HasClient(String),
    /// One may have been registered, under the id that is known before.
    #[error(
        "a client {0} may have been registered for the McpClient: take over that one, or delete it at its server first"
    )]
    Begun(String),
    /// Somebody else of this installation has it.
    #[error("it belongs to the McpClient {0}, whose ledger is here")]
    Held(String),
    /// The administrator allows another way.
    #[error("it would be managed by {}, which neither spec.registration.methods of the McpAuthorizationServer nor the McpClient allows", .0.as_str())]
    NotAllowed(Method),
}

impl ClaimError {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            ClaimError::Malformed(_) => "ClaimMalformed",
            ClaimError::OtherIssuer { .. } => "ClaimOtherIssuer",
            ClaimError::Elsewhere(_) => "ClaimElsewhere",
            ClaimError::HasClient(_) => "ClaimHasClient",
            ClaimError::Begun(_) => "ClaimBegun",
            ClaimError::Held(_) => "ClaimHeld",
            ClaimError::NotAllowed(_) => "ClaimNotAllowed",
        }
    }
}

impl Claim {
    /// Reads the members of a request.
    ///
    /// # Errors
    /// If one of them is missing, or cannot be one.
    pub fn parse(members: &BTreeMap<&str, &str>) -> Result<Self, ClaimError> {
        let text = |name: &'static str, longest: usize| match members.get(name) {
            None => Ok(None),
            Some(text) => {
                let text = text.trim_end_matches('\n');
                let is_usable = (1..=longest).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'!'..=b'~'));
                if is_usable { Ok(Some(text.to_owned())) } else { Err(ClaimError::Malformed(name)) }
            }
        };
        let needed =
            |name| text(name, MOST_BYTES).and_then(|found: Option<String>| found.ok_or(ClaimError::Malformed(name)));
        let token = text("registration_access_token", MOST_TOKEN_BYTES)?.map(Sensitive::new);
        let means = match (text("registration_client_uri", MOST_BYTES)?, token) {
            (Some(uri), Some(token)) => Means::Protocol { uri, token },
            (None, None) => Means::Admin,
            (Some(_), None) => return Err(ClaimError::Malformed("registration_access_token")),
            (None, Some(_)) => return Err(ClaimError::Malformed("registration_client_uri")),
        };
        let mark = text("mark", MOST_BYTES)?;
        let mark = mark.map(|mark| if mark == NO_MARK { Mark::None } else { Mark::Owner(mark) });
        Ok(Self { claimed: Claimed { client_id: needed("client_id")?, mark }, issuer: needed("issuer")?, means })
    }

    /// By which method it is managed.
    pub fn method(&self) -> Method {
        match self.means {
            Means::Protocol { .. } => Method::Dcr,
            Means::Admin => Method::Admin,
        }
    }

    /// How it is managed, as far as that is known before its server is asked.
    pub(super) fn handle(&self) -> Option<Handle> {
        match &self.means {
            Means::Protocol { uri, token } => Some(Handle::Protocol { uri: uri.clone(), token: token.clone() }),
            Means::Admin => None,
        }
    }

    /// Whether it may be asked for. `holder`: whom it belongs to already, in this installation.
    ///
    /// # Errors
    /// If it may not.
    pub fn check(&self, desired: &Desired, ledger: &Ledger, holder: Option<String>) -> Result<(), ClaimError> {
        let id = &self.claimed.client_id;
        if self.issuer != desired.issuer {
            return Err(ClaimError::OtherIssuer { named: self.issuer.clone(), is: desired.issuer.clone() });
        }
        if let Means::Protocol { uri, .. } = &self.means {
            let is_issuers = match (Identifier::resource(uri), Url::parse(uri), Url::parse(&self.issuer)) {
                (Ok(_), Ok(uri), Ok(issuer)) => uri.origin() == issuer.origin(),
                _ => false,
            };
            if !is_issuers {
                return Err(ClaimError::Elsewhere(self.issuer.clone()));
            }
        }
        if !desired.methods.contains(&self.method()) {
            return Err(ClaimError::NotAllowed(self.method()));
        }
        if let Some(holder) = holder {
            return Err(ClaimError::Held(holder));
        }
        match &ledger.current {
            Some(current) if current.client_id != *id => return Err(ClaimError::HasClient(current.client_id.clone())),
            _ => {}
        }
        let begun = Marks::of(ledger).client_id;
        let is_in_doubt = matches!(ledger.step, Step::Creating { .. })
            && profile::of(ledger.profile, ledger.method).is_repeatable()
            && *id != begun;
        if is_in_doubt { Err(ClaimError::Begun(begun)) } else { Ok(()) }
    }
}

impl Claimed {
    /// Whether a client with this mark may be taken over.
    pub fn accepts(&self, mark: Option<&str>) -> bool {
        match (&self.mark, mark) {
            (Some(Mark::None), None) => true,
            (Some(Mark::Owner(owner)), Some(mark)) => owner == mark,
            _ => false,
        }
    }
}

/// A mark as people are told it: a stranger's text, on one line.
pub(super) fn shown(mark: Option<&str>) -> String {
    let plain = |text: &str| text.chars().filter(|c| c.is_ascii_graphic()).take(200).collect::<String>();
    mark.map_or_else(|| NO_MARK.to_owned(), plain)
}
