//! From what was found to what it means. No client is needed.

use super::dereference::Raw;
use super::isolation;
use crate::api::v1alpha1::ServiceRef;
use crate::api::{FieldPath, Key, McpServer};
use crate::generated::server::Lock;
use crate::generated::{ObjectId, Server};
use crate::oauth::upstream_trust::{Known, Question};
use crate::resolve::{self, Finding, Findings, Lookup, Reason, Resolved, Settings};
use crate::tools::lock::Required;

/// The tools that were reviewed, as policies are held against them.
#[derive(Debug, PartialEq)]
pub struct Reviewed {
    /// Their digests and classes.
    pub lock: Lock,
    /// Which arguments calls of them must have.
    pub required: Required,
}

impl Reviewed {
    /// What a server's lock says of its tools.
    pub(in crate::controller) fn of(server: &McpServer, resolved: &Server, lookup: &Lookup<'_>) -> Option<Self> {
        let spec = server.spec.tools.as_ref()?.lock.as_ref()?;
        let lock = resolved.lock.clone()?;
        // One that cannot be used has no tools.
        let required = match lock.tools.is_empty() {
            true => Required::new(),
            false => resolve::required(spec, &resolved.id.namespace, lookup),
        };
        Some(Self { lock, required })
    }
}

/// A server that was judged.
pub(super) struct Validated {
    pub(super) key: Key,
    pub(super) id: ObjectId,
    pub(super) outcome: Result<Resolved<Server>, Findings>,
    pub(super) previous: Option<Server>,
    /// Of one that has a lock.
    pub(super) reviewed: Option<Reviewed>,
    pub(super) claimants: Vec<Key>,
    /// The Service whose Pods an accepted server wants closed to others.
    pub(super) closes: Option<ServiceRef>,
    pub(super) isolation: isolation::Found,
    /// What is to be asked of its upstream whom it trusts, and what is known of that.
    pub(super) question: Option<Question>,
    pub(super) trust: Option<Known>,
}

/// Judges a server by what is there of what it refers to.
pub(super) fn validate(raw: Raw, settings: &Settings<'_>) -> Validated {
    let (mut reviewed, mut question) = (None, None);
    let outcome = match (&raw.source.read, raw.server()) {
        (Err(findings), _) => Err(findings.clone()),
        (Ok(_), Some(server)) => {
            let namespace = raw.source.key.namespace.as_str();
            let mut lookup = Lookup::default();
            lookup.namespaces.extend(raw.namespace.clone().map(|labels| (namespace, labels)));
            lookup.authorities.extend(raw.authorities.iter().map(|a| (a.id.name.as_str(), a.as_ref())));
            lookup.secrets.extend(raw.secrets.iter().map(|(name, secret)| ((namespace, name.as_str()), secret)));
            lookup.forbidden_secrets.extend(raw.forbidden.iter().map(|name| (namespace, name.as_str())));
            lookup.config_maps.extend(raw.config_maps.iter().map(|(name, map)| ((namespace, name.as_str()), map)));
            let token = raw.upstream_token.as_ref().map(|token| token.token.clone());
            lookup.upstream_tokens.extend(token.map(|token| ((namespace, raw.source.key.name.as_str()), token)));
            let place = (namespace, raw.source.key.name.as_str());
            if let Some((raw, client)) = raw.client.as_ref().and_then(|raw| Some((raw, raw.source.client()?))) {
                let name = client.metadata.name.as_deref().unwrap_or_default();
                lookup.client_objects.insert((namespace, name), client);
                let authority = client.spec.authorization_server.as_str();
                lookup.registrations.extend(raw.registration.as_deref().map(|one| (authority, one)));
                lookup.client_issuers.extend(raw.issuers().map(|issuers| ((namespace, name), issuers)));
            }
            lookup.discovered = Some(raw.trust.iter().map(|known| (place, known)).collect());
            question = resolve::asked_of(server, settings, &lookup);
            let outcome = resolve::server(server, settings, &lookup);
            reviewed = outcome.as_ref().ok().and_then(|resolved| Reviewed::of(server, &resolved.object, &lookup));
            outcome
        }
        (Ok(_), None) => Err(vec![Finding::new(Reason::TypeMismatch, FieldPath::root(), "not an McpServer")]),
    };
    let closes = raw.server().and_then(|server| isolation::asks(&server.spec)).cloned();
    let Raw { source, previous, claimants, isolation, trust, .. } = raw;
    let (key, id) = (source.key.clone(), source.id.clone());
    Validated { key, id, outcome, previous, reviewed, claimants, closes, isolation, question, trust }
}
