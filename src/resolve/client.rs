//! `McpClient` to what a client is given.
//!
//! Invariant: a client's tokens are accepted in its own namespace only, unless it is one of the system namespace, so
//! whoever may write McpClients in a namespace makes nobody a caller of another one.

use super::{Finding, Findings, Lookup, Reason, Resolved, Settings, object_id, server::not_enforced, value};
use crate::{
    api::{
        FieldPath, Key, Kind, McpClient,
        object::{is_dns_label, is_dns_subdomain},
        v1alpha1::{ClientMethod, ClientTokenSpec},
    },
    generated::{ObjectId, authority::KeySource},
};

/// A working day.
const DEFAULT_LIFETIME_SECONDS: u32 = 8 * 3600;
/// Long enough for a Secret to reach a Pod's volume well before the earlier token expires.
const MIN_LIFETIME_SECONDS: u32 = 600;
const MAX_LIFETIME_SECONDS: u32 = 90 * 24 * 3600;
/// The most audiences of a token that the gateway reads: `identity` refuses more.
const MAX_AUDIENCES: usize = 64;

/// A resolved `McpClient` of the method `Token`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The object that this was resolved from.
    pub id: ObjectId,
    /// The `client_id` of its tokens.
    pub client_id: String,
    /// What its token says.
    pub grant: Grant,
    /// How long one token lasts.
    pub lifetime_seconds: u32,
    /// The Secret that holds it.
    pub secret_name: String,
    /// Unix seconds; tokens issued earlier are refused.
    pub valid_after: i64,
    /// Why no token can be given now.
    pub hindrance: Option<Finding>,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The McpAuthorizationServer that issues it.
    pub authority: String,
    /// For whom it speaks.
    pub subject: String,
    /// The subject's groups, sorted.
    pub groups: Vec<String>,
    /// Scopes, sorted.
    pub scopes: Vec<String>,
    /// Where it is accepted, sorted.
    pub audiences: Vec<String>,
}

impl Grant {
    /// Whether nothing of `earlier` is left out: its tokens say no more than they may.
    pub fn covers(&self, earlier: &Grant) -> bool {
        let all = |earlier: &[String], now: &[String]| earlier.iter().all(|one| now.contains(one));
        self.authority == earlier.authority
            && self.subject == earlier.subject
            && all(&earlier.groups, &self.groups)
            && all(&earlier.scopes, &self.scopes)
            && all(&earlier.audiences, &self.audiences)
    }
}

/// The `client_id` of an McpClient's tokens: its name, and enough of its UID to be told from one of the same name that
/// was deleted.
pub fn client_id(id: &ObjectId) -> String {
    let short: String = id.uid.chars().take(8).collect();
    format!("{}/{}/{short}", id.namespace, id.name)
}

/// Resolves a client. What is missing elsewhere hinders its token, or a part of it, with a warning.
pub fn client(client: &McpClient, settings: &Settings<'_>, lookup: &Lookup<'_>) -> Result<Resolved<Client>, Findings> {
    let namespace = client.metadata.namespace.as_deref().unwrap_or("default");
    let name = client.metadata.name.as_deref().unwrap_or_default();
    let key = Key { kind: Kind::McpClient, namespace: namespace.to_owned(), name: name.to_owned() };
    let spec = &client.spec;
    let mut errors = Findings::new();
    if settings.cluster.is_none() {
        let message = "a gateway that stands alone gives clients no tokens";
        let finding = Finding::new(Reason::ClusterNeeded, FieldPath::of("spec.method"), message);
        errors.push(finding.remedy("use portcullis token issue"));
    }
    if !is_dns_label(name) {
        let message = "longer than 63 characters, or with a dot";
        let finding = Finding::new(Reason::BoundsExceeded, FieldPath::of("metadata.name"), message);
        errors.push(finding.remedy("choose a shorter name without dots"));
    }
    if spec.method != ClientMethod::Token {
        let finding = not_enforced("spec.method", "this build registers no clients");
        errors.push(finding.remedy("use Token with an McpAuthorizationServer that has local: {}"));
    }
    let field = FieldPath::of("spec.validAfter");
    let valid_after = spec.valid_after.as_deref().and_then(|text| value::time(text, &field, &mut errors));
    let Some(token) = spec.token.as_ref().filter(|_| spec.method == ClientMethod::Token) else {
        if spec.method == ClientMethod::Token || spec.token.is_some() {
            let message = "token belongs to the method Token, and the other way round";
            errors.push(Finding::new(Reason::ChoiceInvalid, FieldPath::of("spec.token"), message));
        }
        return Err(errors);
    };
    let (lifetime_seconds, secret_name) = check(token, name, namespace, settings, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut warnings = Findings::new();
    let (grant, mut hindrance) = grant(token, &spec.authorization_server, namespace, lookup, &mut warnings);
    if let Some(finding) = issuer(&spec.authorization_server, lookup) {
        warnings.push(finding.clone());
        hindrance = Some(finding);
    }
    let id = object_id(&key, &client.metadata);
    let object = Client {
        client_id: client_id(&id),
        id,
        grant,
        lifetime_seconds,
        secret_name,
        valid_after: valid_after.unwrap_or(0),
        hindrance,
    };
    Ok(Resolved { object, warnings })
}

/// What is wrong in the token itself; its lifetime and its Secret.
fn check(
    token: &ClientTokenSpec,
    name: &str,
    namespace: &str,
    settings: &Settings<'_>,
    errors: &mut Findings,
) -> (u32, String) {
    let at = |field: &str| FieldPath::of("spec.token").field(field);
    if token.servers.is_none() && token.audiences.is_none() {
        let message = "neither servers nor audiences: the token would be accepted nowhere";
        errors.push(Finding::new(Reason::ChoiceInvalid, FieldPath::of("spec.token"), message));
    }
    let names = [("subject", std::slice::from_ref(&token.subject)), ("groups", &token.groups[..])];
    for (field, list) in names {
        if list.iter().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
            errors.push(Finding::new(Reason::ValueInvalid, at(field), "empty, or with control characters"));
        }
    }
    value::scopes(&token.scopes, &at("scopes"), errors);
    let audiences = token.audiences.as_deref().unwrap_or_default();
    value::audiences(audiences, &at("audiences"), errors);
    if token.servers.as_ref().map_or(0, Vec::len) + audiences.len() > MAX_AUDIENCES {
        let message = format!("more than {MAX_AUDIENCES} servers and audiences");
        let finding = Finding::new(Reason::BoundsExceeded, FieldPath::of("spec.token"), message);
        errors.push(finding.remedy("make several McpClients"));
    }
    let own = settings.public_url.join(&format!("/{namespace}/"));
    for (i, audience) in audiences.iter().enumerate() {
        if namespace != settings.system_namespace && !audience.starts_with(&own) {
            let message = format!("not below {own}, where the servers of this namespace are");
            errors.push(Finding::new(Reason::AudienceForeign, at("audiences").index(i), message));
        }
    }
    let lifetime = token.lifetime.as_deref().and_then(|text| value::duration(text, &at("lifetime"), errors));
    if lifetime.is_some_and(|seconds| !(MIN_LIFETIME_SECONDS..=MAX_LIFETIME_SECONDS).contains(&seconds)) {
        let finding = Finding::new(Reason::BoundsExceeded, at("lifetime"), "shorter than 10m, or longer than 2160h");
        errors.push(finding.remedy("use at least 10m and at most 2160h, which are 90 days"));
    }
    let secret_name = token.secret_name.clone().unwrap_or_else(|| format!("{name}-token"));
    if !is_dns_subdomain(&secret_name) {
        let message = "not a name that a Secret can have";
        errors.push(Finding::new(Reason::ValueInvalid, at("secretName"), message));
    }
    (lifetime.unwrap_or(DEFAULT_LIFETIME_SECONDS), secret_name)
}

/// What the token says, as far as its servers exist; and what hinders it if none does.
fn grant(
    token: &ClientTokenSpec,
    authority: &str,
    namespace: &str,
    lookup: &Lookup<'_>,
    warnings: &mut Findings,
) -> (Grant, Option<Finding>) {
    let field = FieldPath::of("spec.token.servers");
    let mut audiences = token.audiences.clone().unwrap_or_default();
    let mut scopes = token.scopes.clone();
    let mut missing = None;
    for (i, name) in token.servers.iter().flatten().enumerate() {
        let Some(server) = lookup.resolved.get(&(namespace, name.as_str())) else {
            let message = format!("no valid McpServer {namespace}/{name}: the token is not for it");
            let finding = Finding::new(Reason::ServerNotFound, field.index(i), message);
            warnings.push(finding.clone());
            missing = missing.or(Some(finding));
            continue;
        };
        if !server.authorities.iter().any(|trusted| trusted == authority) {
            let message = format!("{namespace}/{name} does not accept tokens of {authority}");
            let finding = Finding::new(Reason::AuthorityNotTrusted, field.index(i), message);
            warnings.push(finding.remedy(format!("add {authority} to spec.authorization.servers of the McpServer")));
        }
        audiences.push(server.resource.clone());
        scopes.extend(server.scopes.baseline.iter().cloned());
    }
    let mut groups = token.groups.clone();
    for list in [&mut audiences, &mut scopes, &mut groups] {
        list.sort_unstable();
        list.dedup();
    }
    let hindrance = missing.filter(|_| audiences.is_empty());
    (Grant { authority: authority.to_owned(), subject: token.subject.clone(), groups, scopes, audiences }, hindrance)
}

/// Why the authority issues no tokens.
fn issuer(name: &str, lookup: &Lookup<'_>) -> Option<Finding> {
    let field = FieldPath::of("spec.authorizationServer");
    match lookup.authorities.get(name).map(|authority| &authority.keys) {
        Some(KeySource::Local) => None,
        Some(_) => {
            let message = format!("McpAuthorizationServer {name} is not the gateway's own issuer");
            Some(Finding::new(Reason::AuthorityNotLocal, field, message))
        }
        None => {
            let message = format!("no valid McpAuthorizationServer {name}");
            Some(Finding::new(Reason::AuthorityNotFound, field, message))
        }
    }
}
