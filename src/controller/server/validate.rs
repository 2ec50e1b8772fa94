//! From what was found to what it means. No client is needed.

use super::dereference::Raw;
use super::isolation;
use crate::api::v1alpha1::ServiceRef;
use crate::api::{FieldPath, Key};
use crate::generated::{ObjectId, Server};
use crate::resolve::{self, Finding, Findings, Lookup, Reason, Resolved, Settings};

/// A server that was judged.
pub(super) struct Validated {
    pub(super) key: Key,
    pub(super) id: ObjectId,
    pub(super) outcome: Result<Resolved<Server>, Findings>,
    pub(super) previous: Option<Server>,
    pub(super) claimants: Vec<Key>,
    /// The Service whose Pods an accepted server wants closed to others.
    pub(super) closes: Option<ServiceRef>,
    pub(super) isolation: isolation::Found,
}

/// Judges a server by what is there of what it refers to.
pub(super) fn validate(raw: Raw, settings: &Settings<'_>) -> Validated {
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
            resolve::server(server, settings, &lookup)
        }
        (Ok(_), None) => Err(vec![Finding::new(Reason::TypeMismatch, FieldPath::root(), "not an McpServer")]),
    };
    let closes = raw.server().and_then(|server| isolation::asks(&server.spec)).cloned();
    let Raw { source, previous, claimants, isolation, .. } = raw;
    Validated { key: source.key.clone(), id: source.id.clone(), outcome, previous, claimants, closes, isolation }
}
