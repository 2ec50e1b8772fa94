//! From what was found to what it means. No client is needed.

use super::dereference::Raw;
use crate::api::{FieldPath, Key};
use crate::controller::client::next::Listed;
use crate::generated::{Authority, ObjectId};
use crate::resolve::{self, Finding, Findings, Lookup, Reason, Resolved, Settings};

/// A trust anchor that was judged. It has no keys yet.
pub(super) struct Validated {
    pub(super) key: Key,
    pub(super) id: ObjectId,
    pub(super) outcome: Result<Resolved<Authority>, Findings>,
    pub(super) previous: Option<Authority>,
    /// Its clients.
    pub(super) clients: Vec<Listed>,
}

impl Validated {
    /// The trust anchor, if it is valid in itself.
    pub(super) fn authority(&self) -> Option<&Authority> {
        self.outcome.as_ref().ok().map(|resolved| &resolved.object)
    }
}

/// Judges a trust anchor by what is there of what it refers to.
pub(super) fn validate(raw: Raw, settings: &Settings<'_>) -> Validated {
    let outcome = match (&raw.source.read, raw.source.authorization_server()) {
        (Err(findings), _) => Err(findings.clone()),
        (Ok(_), Some(server)) => {
            let mut lookup = Lookup::default();
            let certificates = raw.certificates.iter();
            lookup
                .config_maps
                .extend(certificates.map(|(name, map)| ((settings.system_namespace, name.as_str()), map)));
            resolve::authority(server, settings, &lookup)
        }
        (Ok(_), None) => {
            Err(vec![Finding::new(Reason::TypeMismatch, FieldPath::root(), "not an McpAuthorizationServer")])
        }
    };
    let Raw { source, previous, clients, .. } = raw;
    Validated { key: source.key.clone(), id: source.id.clone(), outcome, previous, clients }
}
