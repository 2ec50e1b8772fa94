//! `McpClient` to the client that is to be registered.
//!
//! Invariant: a method that the issuer's administrator has not allowed is never among those that can be used, and what is
//! wanted names secrets and holds none: what an author gives of their own stands beside it.

use super::{
    Finding, Findings, Lookup, Reason, Settings,
    client::named_servers,
    client_metadata::{Form, is_https},
    presumed, value,
};
use crate::{
    api::{
        FieldPath,
        object::is_dns_subdomain,
        v1alpha1::{ClientMethod, ClientRegistrationSpec, DeletionPolicySpec, McpClientSpec, OnUnavailableSpec},
    },
    generated::{ObjectId, Server},
    oauth::{
        client_registration::{AuthMethod, ClientMetadata, Keys},
        identifier::Identifier,
    },
    registration::audience::Target,
    registration::desired::{Deletion, DeletionPolicy, Desired, Method, OnUnavailable, Profile, Rotation, SecretKey},
    sensitive::Sensitive,
};

const HOUR: u32 = 3600;
const DAY: u32 = 24 * HOUR;
const MAX_PERIOD_SECONDS: u32 = 365 * DAY;
/// How long an authorization server is waited for when a client goes.
const DEFAULT_TIMEOUT_SECONDS: u32 = 600;
const MAX_TIMEOUT_SECONDS: u32 = 7 * DAY;

/// A resolved `McpClient` that is registered at an issuer.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisteredClient {
    /// The object that this was resolved from.
    pub id: ObjectId,
    /// The McpAuthorizationServer that it belongs to.
    pub authority: String,
    /// Its id there, as far as it is known: as its author gives it.
    pub client_id: Option<String>,
    /// What is wanted of it, or why nothing can be done for it now.
    pub desired: Result<Desired, Finding>,
    /// The secret that its author gives it.
    pub given: Option<Sensitive>,
    /// What becomes of the registration when the object is deleted, whatever else can be done for it.
    pub deletion: Deletion,
    /// The servers that it is for, as far as they take tokens of its authority.
    pub targets: Vec<Target>,
}

/// Resolves what is to be registered. With findings in `errors`, what is returned is not to be used.
pub(super) fn registered(
    id: ObjectId,
    spec: &McpClientSpec,
    registration: &ClientRegistrationSpec,
    (settings, lookup): (&Settings<'_>, &Lookup<'_>),
    (errors, warnings): (&mut Findings, &mut Findings),
) -> RegisteredClient {
    let mut form = Form { spec: registration, method: spec.method.and_then(method), errors };
    let client_id = client_id(&mut form);
    let mut metadata = form.metadata(&id, warnings);
    form.scopes();
    let secret_name = secret_name(&mut form, &id.name);
    let rotation = rotation(&mut form, &metadata);
    let deletion = deletion(&mut form);

    let authority = spec.authorization_server.clone();
    let names = registration.servers.as_deref().unwrap_or_default();
    let at = (Form::at("servers"), "the client is not registered for it");
    let (servers, _) = named_servers(names, at, (&id.namespace, &authority), lookup, warnings);
    let mut resources: Vec<String> = servers.iter().map(|server| server.resource.clone()).collect();
    let asked = servers.iter().flat_map(|server| &server.scopes.baseline);
    let mut scopes: Vec<String> = registration.scopes.iter().chain(asked).cloned().collect();
    for list in [&mut resources, &mut scopes] {
        list.sort_unstable();
        list.dedup();
    }
    metadata.scopes = scopes;

    let client_secret = registration.client_secret_ref.as_ref();
    let client_secret = client_secret.map(|at| SecretKey { name: at.name.clone(), key: at.key.clone() });
    let found =
        client_secret.as_ref().map(|at| given(at, &id.namespace, lookup, Form::at("clientSecretRef"))).transpose();
    let asks_for_scopes = !registration.scopes.is_empty();
    let usable = usable(form.method, (&metadata, asks_for_scopes), deletion, &authority, lookup);
    let usable = usable.and_then(|usable| found.clone().map(|_| usable));
    let desired = usable.map(|usable| Desired {
        owner: id.clone(),
        authority: authority.clone(),
        issuer: usable.issuer.to_owned(),
        profile: usable.profile,
        methods: usable.methods,
        asked: form.method,
        gateway: settings.public_url.is_https().then(|| settings.public_url.as_str().to_owned()),
        client_id: client_id.clone(),
        client_secret,
        metadata,
        resources,
        secret_name,
        rotation,
        deletion,
    });
    warnings.extend(desired.as_ref().err().cloned());
    let targets = targets(&servers, &authority, lookup);
    RegisteredClient { id, authority, client_id, desired, given: found.ok().flatten(), deletion, targets }
}

/// What the servers want of tokens of this authority.
pub(super) fn targets(servers: &[&Server], authority: &str, lookup: &Lookup<'_>) -> Vec<Target> {
    let allowed = lookup.authorities.get(authority).map(|authority| authority.rules.allowed_audiences.as_slice());
    let trusting = servers.iter().filter(|server| server.authorities.iter().any(|trusted| trusted == authority));
    let target = |server: &&Server| {
        let besides = server.audiences.iter().filter(|one| allowed.unwrap_or_default().contains(one));
        Target {
            server: server.id.name.clone(),
            resource: server.resource.clone(),
            accepted: std::iter::once(&server.resource).chain(besides).cloned().collect(),
            scopes: server.scopes.baseline.clone(),
        }
    };
    trusting.map(target).collect()
}

/// The longest client secret that is taken.
const LONGEST_SECRET: usize = 4096;

/// The secret that an author gives, as the object of `field` needs it. A line's end is an editor's, and no part of it.
pub(super) fn given(
    at: &SecretKey,
    namespace: &str,
    lookup: &Lookup<'_>,
    field: FieldPath,
) -> Result<Sensitive, Finding> {
    if lookup.secrets_presumed {
        return Ok(presumed());
    }
    let finding = |reason, message| Err(Finding::new(reason, field.clone(), message));
    if lookup.forbidden_secrets.contains(&(namespace, at.name.as_str())) {
        return finding(
            Reason::SecretForbidden,
            format!("the controller may not read the Secret {namespace}/{}", at.name),
        );
    }
    let Some(secret) = lookup.secrets.get(&(namespace, at.name.as_str())) else {
        return finding(Reason::SecretNotFound, format!("no Secret {namespace}/{}", at.name));
    };
    let Some(value) = secret.data.get(&at.key) else {
        return finding(Reason::SecretNotFound, format!("the Secret {} has no key {}", at.name, at.key));
    };
    // RFC 6749 appendix A.2.
    let is_secret = |text: &&str| {
        (1..=LONGEST_SECRET).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    match std::str::from_utf8(value).ok().map(|text| text.trim_end_matches(['\r', '\n'])).filter(is_secret) {
        Some(text) => Ok(Sensitive::new(text)),
        None => {
            let message = format!("what key {} of Secret {} holds is no client secret", at.key, at.name);
            finding(Reason::SecretInvalid, message)
        }
    }
}

/// `Token` is none of registration.
fn method(method: ClientMethod) -> Option<Method> {
    match method {
        ClientMethod::Token => None,
        ClientMethod::Preregistered => Some(Method::Preregistered),
        ClientMethod::Admin => Some(Method::Admin),
        ClientMethod::Cimd => Some(Method::Cimd),
        ClientMethod::Dcr => Some(Method::Dcr),
    }
}

/// The id that its author gives it.
fn client_id(form: &mut Form<'_>) -> Option<String> {
    let given = form.spec.client_id.clone();
    let wrong: Option<(&str, &'static str)> = match (form.method, &given) {
        (Some(Method::Preregistered), None) => {
            Some(("Preregistered, and nothing says as what", "write the id that it is registered with"))
        }
        // RFC 6749 appendix A.1.
        (Some(Method::Preregistered), Some(id)) => (id.is_empty() || id.bytes().any(|b| !matches!(b, b' '..=b'~')))
            .then_some(("not an id in visible ASCII", "write it exactly as the authorization server does")),
        (Some(Method::Cimd), Some(url)) => (!is_document(url)).then_some((
            "not the URL of a document: https, with a path, and without query and fragment",
            "write the URL at which the client serves its own document, or leave it out",
        )),
        (Some(Method::Admin | Method::Dcr), Some(_)) => {
            Some(("the id comes of the registration", "remove it, or use method: Preregistered"))
        }
        (None, Some(_)) => {
            Some(("an id, and no method", "set method: Preregistered; or CIMD, if it is the URL of its own document"))
        }
        (Some(Method::Admin | Method::Dcr | Method::Cimd) | None, None) => None,
    };
    if let Some((message, remedy)) = wrong {
        form.refuse(Reason::ClientIdInvalid, "clientId", message, remedy);
    }
    given
}

/// A URL that can be a client's id (draft-ietf-oauth-client-id-metadata-document, "Client Identifier").
fn is_document(url: &str) -> bool {
    let identifier = Identifier::resource(url).ok();
    is_https(url) && !url.contains('?') && identifier.is_some_and(|parts| !matches!(parts.path(), "" | "/"))
}

fn secret_name(form: &mut Form<'_>, name: &str) -> String {
    let secret_name = form.spec.secret_name.clone().unwrap_or_else(|| format!("{name}-client"));
    let given = form.spec.client_secret_ref.as_ref().map(|reference| reference.name.clone());
    let mut refuse = |at: &str, message: &str, remedy| form.refuse(Reason::ValueInvalid, at, message, remedy);
    if !is_dns_subdomain(&secret_name) {
        refuse("secretName", "not a name that a Secret can have", "use lower-case letters, digits, - and .");
    }
    if given.as_ref().is_some_and(|given| !is_dns_subdomain(given)) {
        refuse("clientSecretRef", "not a name that a Secret can have", "name the Secret that holds its client secret");
    }
    if given.is_some_and(|given| given == secret_name) {
        let message = "the Secret that holds its client secret would be written over";
        refuse("secretName", message, "choose another name");
    }
    secret_name
}

fn rotation(form: &mut Form<'_>, metadata: &ClientMetadata) -> Option<Rotation> {
    let spec = form.spec.rotation.as_ref()?;
    if metadata.auth_method == AuthMethod::None || metadata.keys != Keys::None {
        let message = "the gateway gives it nothing that could be replaced";
        form.refuse(Reason::ChoiceInvalid, "rotation", message, "remove it");
    }
    let field = Form::at("rotation");
    let period_seconds = value::duration(&spec.period, &field.field("period"), form.errors)?;
    if !(HOUR..=MAX_PERIOD_SECONDS).contains(&period_seconds) {
        let finding = Finding::new(Reason::BoundsExceeded, field.field("period"), "shorter than 1h, or than 8760h");
        form.errors.push(finding.remedy("use at least 1h and at most 8760h, which is a year"));
    }
    let most = period_seconds / 2;
    let overlap = spec.overlap.as_deref().map(|text| value::duration(text, &field.field("overlap"), form.errors));
    let overlap_seconds = overlap.unwrap_or(Some(DAY.min(most)))?;
    if overlap_seconds > most {
        let finding = Finding::new(Reason::BoundsExceeded, field.field("overlap"), "more than half of the period");
        form.errors.push(finding.remedy("use at most half of the period"));
    }
    Some(Rotation { period_seconds, overlap_seconds })
}

fn deletion(form: &mut Form<'_>) -> Deletion {
    let spec = form.spec.deletion.clone().unwrap_or_default();
    let field = Form::at("deletion");
    let timeout = spec.timeout.as_deref().and_then(|text| value::duration(text, &field.field("timeout"), form.errors));
    if timeout.is_some_and(|seconds| !(1..=MAX_TIMEOUT_SECONDS).contains(&seconds)) {
        let finding = Finding::new(Reason::BoundsExceeded, field.field("timeout"), "no time at all, or more than 168h");
        form.errors.push(finding.remedy("use at least 1s and at most 168h, which is a week"));
    }
    let policy = match spec.policy {
        DeletionPolicySpec::Delete => DeletionPolicy::Delete,
        DeletionPolicySpec::Retain => DeletionPolicy::Retain,
    };
    if policy == DeletionPolicy::Retain && (spec.timeout.is_some() || spec.on_unavailable.is_some()) {
        let message = "nobody is waited for where the registration stays";
        form.refuse(
            Reason::ChoiceInvalid,
            "deletion",
            message,
            "remove timeout and onUnavailable, or use policy: Delete",
        );
    }
    if policy == DeletionPolicy::Retain && form.method == Some(Method::Cimd) {
        let message = "the gateway serves the document as long as the McpClient is there, and nothing else could stay";
        form.refuse(Reason::ChoiceInvalid, "deletion", message, "remove policy: Retain");
    }
    Deletion {
        policy,
        timeout_seconds: timeout.unwrap_or(DEFAULT_TIMEOUT_SECONDS),
        on_unavailable: match spec.on_unavailable {
            None | Some(OnUnavailableSpec::Orphan) => OnUnavailable::Orphan,
            Some(OnUnavailableSpec::Block) => OnUnavailable::Block,
        },
    }
}

/// Where it can be registered, and how.
struct Usable<'a> {
    issuer: &'a str,
    profile: Profile,
    methods: Vec<Method>,
}

/// What the McpAuthorizationServer allows of what its author asks for; or why nothing is left.
fn usable<'a>(
    asked: Option<Method>,
    (metadata, asks_for_scopes): (&ClientMetadata, bool),
    deletion: Deletion,
    authority: &str,
    lookup: &Lookup<'a>,
) -> Result<Usable<'a>, Finding> {
    let at_authority = |reason, message| Finding::new(reason, FieldPath::of("spec.authorizationServer"), message);
    if !lookup.authorities.contains_key(authority) {
        let message = format!("no valid McpAuthorizationServer {authority}");
        return Err(at_authority(Reason::AuthorityNotFound, message));
    }
    let Some(registration) = lookup.registrations.get(authority) else {
        let message = format!("McpAuthorizationServer {authority} has no issuer at which clients are registered");
        return Err(at_authority(Reason::AuthorityRegistersNobody, message));
    };
    // Everybody can read a Client ID Metadata Document: it is for no shared secret.
    let shares = metadata.auth_method.shares_secret();
    // And it is there as long as its object is.
    let stays = deletion.policy == DeletionPolicy::Retain;
    let fits = |method: &Method| match method {
        Method::Cimd => !shares && !stays,
        // A realm's scopes are given to all of its clients.
        Method::Admin => !asks_for_scopes,
        Method::Preregistered | Method::Dcr => true,
    };
    let allows = |method: Method| method == Method::Preregistered || registration.methods.contains(&method);
    let methods: Vec<Method> = match asked {
        Some(method) => [method].into_iter().filter(|method| allows(*method)).collect(),
        None => registration.methods.iter().copied().filter(fits).collect(),
    };
    if !methods.is_empty() {
        return Ok(Usable { issuer: &registration.issuer, profile: registration.profile, methods });
    }
    Err(match asked {
        Some(method) => {
            let message = format!("McpAuthorizationServer {authority} does not allow the method {}", method.as_str());
            Finding::new(Reason::MethodNotAllowed, FieldPath::of("spec.method"), message)
        }
        None if registration.methods.is_empty() => {
            let message = format!("McpAuthorizationServer {authority} allows no method but Preregistered");
            at_authority(Reason::MethodNotAllowed, message)
        }
        None => {
            let (at, why, remedy) = if asks_for_scopes && registration.methods.contains(&Method::Admin) {
                ("scopes", "Admin gives a client no scopes of its own", "remove scopes")
            } else if shares {
                ("tokenEndpointAuthMethod", "CIMD has no shared secret", "use private_key_jwt or none")
            } else {
                ("deletion", "CIMD leaves nothing that could stay", "remove policy: Retain")
            };
            let message = format!("McpAuthorizationServer {authority} allows no method that fits: {why}");
            Finding::new(Reason::MethodNotAllowed, Form::at(at), message).remedy(remedy)
        }
    })
}
