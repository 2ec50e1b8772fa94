//! A trust anchor, prepared for use: whose tokens are believed, with which keys, by which rules.
//!
//! Invariant: an [`Anchor`] allows asymmetric algorithms only, its keys are parsed and fit them, and its [`Stamp`]
//! changes whenever anything changes that a signature check or the reading of claims depended on.

use std::collections::{HashMap, HashSet};
use std::fmt;

use aws_lc_rs::digest;

use super::keys::{Algorithm, KeySetError, KeySetParsed};
use crate::generated::authority::{Authority, Revocation, TokenRules, TypRule};

/// The largest clock skew that a configuration may allow, in seconds.
pub const MAX_SKEW_SECONDS: u32 = 60;

/// Identifies an authority's configuration and keys by content. Equal stamps: a verified token is still verified.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp([u8; 32]);

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stamp(")?;
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// An `McpAuthorizationServer`, prepared for verifying tokens. Made again when the object or its keys change.
#[derive(Debug)]
pub struct Anchor {
    name: Box<str>,
    issuer: Box<str>,
    rules: TokenRules,
    algorithms: Box<[Algorithm]>,
    keys: Option<TimedKeys>,
    revoked_tokens: HashSet<Box<str>>,
    revoked_subjects: HashMap<Box<str>, i64>,
    clients: Option<HashMap<Box<str>, i64>>,
    stamp: Stamp,
}

/// See [`Anchor::valid_after`].
pub(super) enum ValidAfter {
    /// Whenever it was issued.
    Always,
    /// Issued at this time (Unix seconds) or later.
    Time(i64),
    /// The client is not among those of the authority.
    Never,
}

#[derive(Debug)]
struct TimedKeys {
    set: KeySetParsed,
    valid_until: i64,
}

/// Why an authority cannot be used. Its tokens are then refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// An empty issuer, or one with control characters.
    #[error("authority {authority}: the issuer is empty or has control characters")]
    Issuer {
        /// The authority's name.
        authority: String,
    },
    /// No algorithm is allowed, or one that is unknown or symmetric.
    #[error("authority {authority}: algorithm {algorithm:?} is not one of {}", Algorithm::NAMES.join(", "))]
    Algorithm {
        /// The authority's name.
        authority: String,
        /// The offending name; empty if the list is.
        algorithm: String,
    },
    /// More clock skew than [`MAX_SKEW_SECONDS`].
    #[error("authority {authority}: a clock skew of {seconds} s exceeds {MAX_SKEW_SECONDS} s")]
    Skew {
        /// The authority's name.
        authority: String,
        /// What was asked for.
        seconds: u32,
    },
    /// No claim identifies the client, so that users and clients could not be told apart.
    #[error("authority {authority}: clientClaims is empty")]
    ClientClaims {
        /// The authority's name.
        authority: String,
    },
    /// The key set is not acceptable.
    #[error("authority {authority}: {source}")]
    Keys {
        /// The authority's name.
        authority: String,
        /// What is wrong with it.
        source: KeySetError,
    },
}

impl AnchorError {
    /// A stable word for conditions, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            AnchorError::Issuer { .. } => "IssuerInvalid",
            AnchorError::Algorithm { .. } => "AlgorithmNotAllowed",
            AnchorError::Skew { .. } => "SkewTooLarge",
            AnchorError::ClientClaims { .. } => "ClientClaimsEmpty",
            AnchorError::Keys { source, .. } => source.reason(),
        }
    }
}

impl Anchor {
    /// Prepares a resolved authority: parses its keys, checks its rules, indexes its revocations.
    pub fn compile(authority: &Authority) -> Result<Anchor, AnchorError> {
        let named = || authority.id.name.clone();
        if authority.issuer.is_empty() || authority.issuer.chars().any(char::is_control) {
            return Err(AnchorError::Issuer { authority: named() });
        }
        let rules = &authority.rules;
        if rules.skew_seconds > MAX_SKEW_SECONDS {
            return Err(AnchorError::Skew { authority: named(), seconds: rules.skew_seconds });
        }
        if rules.client_claims.is_empty() && !matches!(rules.typ, TypRule::ServiceAccount { .. }) {
            return Err(AnchorError::ClientClaims { authority: named() });
        }
        let algorithms = algorithms(authority)?;
        let keys = match &authority.key_set {
            Some(keys) => Some(TimedKeys {
                set: KeySetParsed::parse(&keys.jwks, &algorithms)
                    .map_err(|source| AnchorError::Keys { authority: named(), source })?,
                valid_until: keys.valid_until,
            }),
            None => None,
        };
        let (revoked_tokens, revoked_subjects) = revocations(&authority.revoked);
        Ok(Anchor {
            name: authority.id.name.as_str().into(),
            issuer: authority.issuer.as_str().into(),
            rules: rules.clone(),
            algorithms,
            keys,
            revoked_tokens,
            revoked_subjects,
            clients: authority.clients.as_ref().map(|clients| {
                clients.iter().map(|(client, valid_after)| (client.as_str().into(), *valid_after)).collect()
            }),
            stamp: stamp(authority),
        })
    }

    /// The name of the McpAuthorizationServer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The exact `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// How its tokens are judged.
    pub fn rules(&self) -> &TokenRules {
        &self.rules
    }

    /// Its configuration and keys, by content; revocations and the list of clients are not part of it, for they are
    /// looked up on every call.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether keys are present and may still be used at `now` (Unix seconds).
    pub fn is_available(&self, now: i64) -> bool {
        self.keys(now).is_some()
    }

    pub(super) fn keys(&self, now: i64) -> Option<&KeySetParsed> {
        self.keys.as_ref().filter(|keys| now <= keys.valid_until).map(|keys| &keys.set)
    }

    pub(super) fn algorithm(&self, name: &str) -> Option<Algorithm> {
        self.algorithms.iter().copied().find(|algorithm| algorithm.name() == name)
    }

    pub(super) fn is_revoked(&self, jti: Option<&str>, subject: &str, iat: Option<i64>) -> bool {
        jti.is_some_and(|jti| self.revoked_tokens.contains(jti))
            || self.revoked_subjects.get(subject).is_some_and(|before| iat.is_none_or(|iat| iat < *before))
    }

    /// From which time on a client's tokens must have been issued to be believed; none of a client without one.
    pub(super) fn valid_after(&self, client: Option<&str>) -> ValidAfter {
        let Some(clients) = &self.clients else { return ValidAfter::Always };
        client.and_then(|client| clients.get(client)).map_or(ValidAfter::Never, |time| ValidAfter::Time(*time))
    }
}

fn algorithms(authority: &Authority) -> Result<Box<[Algorithm]>, AnchorError> {
    let refuse =
        |name: &str| AnchorError::Algorithm { authority: authority.id.name.clone(), algorithm: name.to_owned() };
    if authority.rules.algorithms.is_empty() {
        return Err(refuse(""));
    }
    authority.rules.algorithms.iter().map(|name| Algorithm::from_name(name).ok_or_else(|| refuse(name))).collect()
}

fn revocations(revoked: &[Revocation]) -> (HashSet<Box<str>>, HashMap<Box<str>, i64>) {
    let mut tokens = HashSet::new();
    let mut subjects: HashMap<Box<str>, i64> = HashMap::new();
    for revocation in revoked {
        match revocation {
            Revocation::Token { jti } => {
                tokens.insert(jti.as_str().into());
            }
            Revocation::Subject { subject, issued_before } => {
                let before = subjects.entry(subject.as_str().into()).or_insert(*issued_before);
                *before = (*before).max(*issued_before);
            }
        }
    }
    (tokens, subjects)
}

/// Digest of everything that the reading of a token depends on. `TokenRules` is plain data whose `Debug` text is a
/// complete and unambiguous rendering within one process, which is as long as a stamp lives.
fn stamp(authority: &Authority) -> Stamp {
    let mut context = digest::Context::new(&digest::SHA256);
    let rules = format!("{:?}", authority.rules);
    let jwks = authority.key_set.as_ref().map_or("", |keys| keys.jwks.as_str());
    for part in [&authority.id.uid, &authority.id.name, &authority.issuer, rules.as_str(), jwks] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Stamp(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::ObjectId;
    use crate::generated::authority::{KeySet, KeySource, TypRule};

    fn authority() -> Authority {
        Authority {
            id: ObjectId { uid: "uid".into(), namespace: String::new(), name: "corp".into(), generation: 1 },
            issuer: "https://as.example".into(),
            rules: TokenRules {
                typ: TypRule::AccessTokenJwt,
                algorithms: vec!["ES256".into()],
                skew_seconds: 30,
                max_lifetime_seconds: None,
                subject_claim: "sub".into(),
                tenant_claim: None,
                client_claims: vec!["client_id".into()],
                groups_claim: None,
                allowed_audiences: Vec::new(),
            },
            keys: KeySource::Local,
            key_set: None,
            revoked: Vec::new(),
            clients: None,
        }
    }

    fn reason(change: impl Fn(&mut Authority)) -> Option<&'static str> {
        let mut authority = authority();
        change(&mut authority);
        Anchor::compile(&authority).err().map(|error| error.reason())
    }

    #[test]
    fn unsafe_rules_are_refused() {
        assert_eq!(reason(|_| {}), None);
        for algorithms in [vec![], vec!["none"], vec!["HS256"], vec!["ES256", "HS256"], vec!["es256"], vec![""]] {
            let refused = reason(|a| a.rules.algorithms = algorithms.iter().map(|name| (*name).into()).collect());
            assert_eq!(refused, Some("AlgorithmNotAllowed"), "{algorithms:?}");
        }
        assert_eq!(reason(|a| a.issuer.clear()), Some("IssuerInvalid"));
        assert_eq!(reason(|a| a.issuer.push('\n')), Some("IssuerInvalid"));
        assert_eq!(reason(|a| a.rules.skew_seconds = 60), None);
        assert_eq!(reason(|a| a.rules.skew_seconds = 61), Some("SkewTooLarge"));
        assert_eq!(reason(|a| a.rules.client_claims.clear()), Some("ClientClaimsEmpty"));
        let bad_keys = |a: &mut Authority| a.key_set = Some(KeySet { jwks: "{}".into(), valid_until: 0 });
        assert_eq!(reason(bad_keys), Some("KeySetMalformed"));
    }

    #[test]
    fn keys_serve_until_their_time_and_not_longer() {
        let mut authority = authority();
        assert!(!Anchor::compile(&authority).unwrap().is_available(0), "never fetched");
        authority.key_set = Some(KeySet { jwks: r#"{"keys":[]}"#.into(), valid_until: 100 });
        let anchor = Anchor::compile(&authority).unwrap();
        assert!(anchor.is_available(100) && !anchor.is_available(101));
    }
}
