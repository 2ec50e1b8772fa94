//! From what was found to what it means. No client of the API server is needed.

use super::dereference::Raw;
use crate::api::FieldPath;
use crate::controller::fetch::Fetched;
use crate::generated::Server;
use crate::resolve::{self, ClientKind, Finding, Findings, Lookup, Reason, Resolved, Settings};

/// Judges a client by what is there of what it refers to.
pub(super) fn validate(raw: &Raw, settings: &Settings<'_>) -> Result<Resolved<ClientKind>, Findings> {
    let client = match (&raw.source.read, raw.source.client()) {
        (Err(findings), _) => return Err(findings.clone()),
        (Ok(_), Some(client)) => client,
        (Ok(_), None) => return Err(vec![Finding::new(Reason::TypeMismatch, FieldPath::root(), "not an McpClient")]),
    };
    let mut lookup = Lookup::default();
    lookup.authorities.extend(raw.authorities.iter().map(|a| (a.id.name.as_str(), a.as_ref())));
    let registration = raw.registration.as_deref();
    lookup.registrations.extend(registration.map(|one| (client.spec.authorization_server.as_str(), one)));
    let namespace = raw.source.key.namespace.as_str();
    match &raw.given {
        Some((name, Fetched::Found(secret))) => drop(lookup.secrets.insert((namespace, name.as_str()), secret)),
        Some((name, Fetched::Forbidden)) => drop(lookup.forbidden_secrets.insert((namespace, name.as_str()))),
        Some((_, Fetched::Absent)) | None => {}
    }
    // Where a server is, and whom it trusts, depends on no Secret.
    let resolved = |server| resolve::server(server, settings, &lookup).ok().map(|resolved| resolved.object);
    let servers: Vec<Server> = raw.servers.iter().filter_map(|source| source.server()).filter_map(resolved).collect();
    lookup.resolved.extend(servers.iter().map(|s| ((s.id.namespace.as_str(), s.id.name.as_str()), s)));
    resolve::client(client, settings, &lookup)
}
