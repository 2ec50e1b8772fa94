//! `McpClient` to what a client is given.
//!
//! Invariant: a client's tokens are accepted in its own namespace only, unless it is one of the system namespace, so
//! whoever may write McpClients in a namespace makes nobody a caller of another one.

use serde::Deserialize as _;
use serde_json::Value;

use super::{
    Finding, Findings, Lookup, Reason, Resolved, Settings, object_id,
    registered::{RegisteredClient, registered},
    value,
};
use crate::{
    api::{
        FieldPath, Key, Kind, McpClient,
        object::{is_dns_label, is_dns_subdomain},
        v1alpha1::{ClientMethod, ClientTokenSpec, McpClientSpec, McpClientStatus},
    },
    generated::{ObjectId, Server, authority::KeySource, client as document},
};

/// A working day.
const DEFAULT_LIFETIME_SECONDS: u32 = 8 * 3600;
/// Long enough for a Secret to reach a Pod's volume well before the earlier token expires.
const MIN_LIFETIME_SECONDS: u32 = 600;
const MAX_LIFETIME_SECONDS: u32 = 90 * 24 * 3600;
/// The most audiences of a token that the gateway reads: `identity` refuses more.
const MAX_AUDIENCES: usize = 64;

/// A resolved `McpClient`.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientKind {
    /// One that the gateway's own issuer gives a token.
    Token(Box<Client>),
    /// One that is registered at an issuer.
    Registered(Box<RegisteredClient>),
}

impl ClientKind {
    /// The object that it was resolved from.
    pub fn id(&self) -> &ObjectId {
        match self {
            ClientKind::Token(client) => &client.id,
            ClientKind::Registered(client) => &client.id,
        }
    }

    /// The McpAuthorizationServer that it belongs to.
    pub fn authority(&self) -> &str {
        match self {
            ClientKind::Token(client) => &client.grant.authority,
            ClientKind::Registered(client) => &client.authority,
        }
    }

    /// The `client_id` of its tokens, as far as it is known.
    pub fn client_id(&self) -> Option<&str> {
        match self {
            ClientKind::Token(client) => Some(&client.client_id),
            ClientKind::Registered(client) => client.client_id.as_deref(),
        }
    }

    /// The client with the id that policies name it by, if that is another than its author says: that by which it is registered
    /// at the issuer that its authority is now.
    pub fn known_as(&self, registered: Option<&RegisteredAs>, issuer: Option<&str>) -> Option<Self> {
        let (ClientKind::Registered(client), Some(known)) = (self, registered) else { return None };
        let is_its = issuer == Some(known.issuer.as_str()) && known.is_given_to(&client.id.uid);
        if client.client_id.is_some() || !is_its {
            return None;
        }
        let client_id = Some(known.client_id.clone());
        Some(ClientKind::Registered(Box::new(RegisteredClient { client_id, ..client.as_ref().clone() })))
    }

    /// The `client_id` that its author gives it: that of whichever client they like.
    pub fn given_id(&self) -> Option<&str> {
        match self {
            ClientKind::Token(_) => None,
            ClientKind::Registered(client) => client.client_id.as_deref(),
        }
    }
}

/// As whom a client is registered, and where: another issuer's client of that id is somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredAs {
    issuer: String,
    client_id: String,
    method: String,
}

impl RegisteredAs {
    /// As an McpClient's status has it, which nobody writes but the controller. What a manifest says there is no proof.
    pub fn of(status: &Value) -> Option<Self> {
        let registration = McpClientStatus::deserialize(status).ok()?.registration?;
        let (issuer, method) = (registration.issuer, registration.method);
        Some(Self { issuer, client_id: registration.client_id?, method })
    }

    /// Whether nobody chose the id but the server, or the controller: whoever changes the method leaves behind what they gave.
    fn is_given_to(&self, uid: &str) -> bool {
        match self.method.as_str() {
            "Preregistered" => false,
            // Documents of its own are elsewhere.
            "CIMD" => self.client_id.ends_with(&document::path(uid)),
            _ => true,
        }
    }
}

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

/// Resolves a client. What is missing elsewhere hinders its token or its registration, or a part of it, with a warning.
pub fn client(
    client: &McpClient,
    settings: &Settings<'_>,
    lookup: &Lookup<'_>,
) -> Result<Resolved<ClientKind>, Findings> {
    let namespace = client.metadata.namespace.as_deref().unwrap_or("default");
    let name = client.metadata.name.as_deref().unwrap_or_default();
    let key = Key { kind: Kind::McpClient, namespace: namespace.to_owned(), name: name.to_owned() };
    let id = object_id(&key, &client.metadata);
    let spec = &client.spec;
    let is_token = spec.method == Some(ClientMethod::Token);
    let (mut errors, mut warnings) = (Findings::new(), Findings::new());
    // One that is registered already needs nobody who looks after it.
    if settings.cluster.is_none() && spec.method != Some(ClientMethod::Preregistered) {
        errors.push(cluster_needed(is_token));
    }
    if !is_dns_label(name) {
        let message = "longer than 63 characters, or with a dot";
        let finding = Finding::new(Reason::BoundsExceeded, FieldPath::of("metadata.name"), message);
        errors.push(finding.remedy("choose a shorter name without dots"));
    }
    let valid_after = valid_after(spec, is_token, &mut errors);
    let object = match (&spec.token, &spec.registration) {
        (Some(asked), None) if is_token => {
            let (lifetime_seconds, secret_name) = check(asked, name, namespace, settings, &mut errors);
            let (grant, hindrance) = token(asked, &spec.authorization_server, namespace, lookup, &mut warnings);
            let client_id = client_id(&id);
            let client = Client { id, client_id, grant, lifetime_seconds, secret_name, valid_after, hindrance };
            ClientKind::Token(Box::new(client))
        }
        (None, Some(asked)) if !is_token => {
            let findings = (&mut errors, &mut warnings);
            ClientKind::Registered(Box::new(registered(id, spec, asked, (settings, lookup), findings)))
        }
        _ => {
            errors.extend(wrong_choice(spec, is_token));
            return Err(errors);
        }
    };
    if errors.is_empty() { Ok(Resolved { object, warnings }) } else { Err(errors) }
}

fn cluster_needed(is_token: bool) -> Finding {
    let (message, remedy) = if is_token {
        ("a gateway that stands alone gives clients no tokens", "use portcullis token issue")
    } else {
        (
            "a gateway that stands alone registers no clients",
            "register the client by hand, and use method: Preregistered",
        )
    };
    Finding::new(Reason::ClusterNeeded, FieldPath::of("spec.method"), message).remedy(remedy)
}

/// From which time on (Unix seconds) tokens must have been issued. Of others than its own issuer's, the gateway keeps no list
/// by client.
fn valid_after(spec: &McpClientSpec, is_token: bool, errors: &mut Findings) -> i64 {
    let field = FieldPath::of("spec.validAfter");
    let Some(text) = &spec.valid_after else { return 0 };
    if !is_token {
        let finding = Finding::new(Reason::ChoiceInvalid, field.clone(), "validAfter belongs to the method Token");
        let remedy = "remove it; end tokens at their issuer, or by revoked of the McpAuthorizationServer";
        errors.push(finding.remedy(remedy));
    }
    value::time(text, &field, errors).unwrap_or(0)
}

/// What is wrong if there is not exactly what the method needs.
fn wrong_choice(spec: &McpClientSpec, is_token: bool) -> Findings {
    let mut findings = Findings::new();
    if spec.token.is_some() != is_token {
        let message = "token belongs to the method Token, and the other way round";
        findings.push(Finding::new(Reason::ChoiceInvalid, FieldPath::of("spec.token"), message));
    }
    if spec.registration.is_some() == is_token {
        let message = "registration belongs to every method but Token, and to no method";
        findings.push(Finding::new(Reason::ChoiceInvalid, FieldPath::of("spec.registration"), message));
    }
    findings
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

/// What the token says, as far as its servers exist; and what hinders it, if none does or nobody issues it.
fn token(
    token: &ClientTokenSpec,
    authority: &str,
    namespace: &str,
    lookup: &Lookup<'_>,
    warnings: &mut Findings,
) -> (Grant, Option<Finding>) {
    let names = token.servers.as_deref().unwrap_or_default();
    let at = (FieldPath::of("spec.token.servers"), "the token is not for it");
    let (servers, missing) = named_servers(names, at, (namespace, authority), lookup, warnings);
    let mut audiences = token.audiences.clone().unwrap_or_default();
    audiences.extend(servers.iter().map(|server| server.resource.clone()));
    let mut scopes = token.scopes.clone();
    scopes.extend(servers.iter().flat_map(|server| server.scopes.baseline.iter().cloned()));
    let mut groups = token.groups.clone();
    for list in [&mut audiences, &mut scopes, &mut groups] {
        list.sort_unstable();
        list.dedup();
    }
    let mut hindrance = missing.filter(|_| audiences.is_empty());
    if let Some(finding) = issuer(authority, lookup) {
        warnings.push(finding.clone());
        hindrance = Some(finding);
    }
    (Grant { authority: authority.to_owned(), subject: token.subject.clone(), groups, scopes, audiences }, hindrance)
}

/// The servers that a client names and that are there; and the first that is not. `without` says what that means.
pub(super) fn named_servers<'a>(
    names: &[String],
    (field, without): (FieldPath, &str),
    (namespace, authority): (&str, &str),
    lookup: &Lookup<'a>,
    warnings: &mut Findings,
) -> (Vec<&'a Server>, Option<Finding>) {
    let mut missing = None;
    let mut servers = Vec::with_capacity(names.len());
    for (i, name) in names.iter().enumerate() {
        let Some(server) = lookup.resolved.get(&(namespace, name.as_str())).copied() else {
            let message = format!("no valid McpServer {namespace}/{name}: {without}");
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
        servers.push(server);
    }
    (servers, missing)
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
