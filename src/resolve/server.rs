//! `McpServer` to a generated server.

use std::collections::BTreeMap;

use super::{Finding, Findings, Lookup, Reason, Resolved, Settings, lock, object_id, pattern, upstream, value};
use crate::{
    api::{
        FieldPath, Key, Kind, McpServer,
        v1alpha1::{
            AuditLevelSpec, AuditSpec, ClientFeaturesSpec, DeliverySpec, FeatureAccess, RiskClass, ScopesSpec,
            ServerState, ToolsSpec,
        },
    },
    generated::{
        Risk, Server,
        authority::KeySource,
        codec::{self, Generated, MOST_BYTES},
        server::Credentials,
        server::{Audit, AuditLevel, Delivery, Lock, RiskRule, Scopes, State, ToolScopes},
    },
    oauth::{protected_resource::ProtectedResource, upstream_trust::Question},
};

/// Resolves a server. What is wrong in the object itself is an error; what is missing elsewhere makes the server
/// [`State::Unserved`], with a warning. Whether another server claims the same path is judged by [`super::tree`].
pub fn server(server: &McpServer, settings: &Settings<'_>, lookup: &Lookup<'_>) -> Result<Resolved<Server>, Findings> {
    let namespace = server.metadata.namespace.as_deref().unwrap_or("default");
    let name = server.metadata.name.as_deref().unwrap_or_default();
    let key = Key { kind: Kind::McpServer, namespace: namespace.to_owned(), name: name.to_owned() };
    let spec = &server.spec;
    let mut errors = Findings::new();

    if name.len() > 63 {
        let finding = Finding::new(Reason::BoundsExceeded, FieldPath::of("metadata.name"), "longer than 63 characters");
        errors.push(finding.remedy("choose a shorter name"));
    }
    if spec.gateway != "default" {
        let finding = not_enforced("spec.gateway", "this build has one gateway, default");
        errors.push(finding.remedy("set gateway: default, or leave it out"));
    }
    let path = path(spec.path.as_deref(), namespace, name, &mut errors);
    let tools = spec.tools.as_ref();
    let risk = risk(tools, &mut errors);
    client_features(spec.client_features.as_ref(), &mut errors);
    let audit = audit(spec.audit.as_ref(), &mut errors);
    let scopes = scopes(spec.authorization.scopes.as_ref(), &mut errors);
    let field = FieldPath::of("spec.authorization.audiences");
    value::audiences(&spec.authorization.audiences, &field, &mut errors);
    let servers = &spec.authorization.servers;
    let upstream = upstream::resolve(&spec.upstream, (namespace, name), servers, settings, lookup, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }

    let mut warnings = upstream.warnings;
    let lock =
        tools.and_then(|tools| tools.lock.as_ref()).map(|spec| lock::resolve(spec, namespace, lookup, &mut warnings));
    let trusted = trusted(servers, lookup);
    // What no Secret and no ConfigMap mends comes first: the admission webhook sees neither, and goes by the first reason.
    let unserved: Findings = trusted.unserved.into_iter().chain(upstream.unserved).collect();
    warnings.extend(trusted.warnings);
    warnings.extend(scopes_not_carried(&scopes, &trusted.names, lookup));
    let audiences = audiences(&spec.authorization.audiences, &trusted.names, lookup, &mut warnings);
    let state = match (unserved.first(), spec.state) {
        (Some(why), _) => State::Unserved { reason: why.reason.as_str().to_owned(), message: why.to_string() },
        (None, ServerState::Disabled) => State::Disabled,
        (None, ServerState::Enabled) => State::Enabled,
    };
    warnings.extend(unserved);
    let resource = settings.public_url.join(&path);
    let mut object = Server {
        id: object_id(&key, &server.metadata),
        labels: server.metadata.labels.clone().unwrap_or_default(),
        namespace_labels: lookup.namespaces.get(namespace).cloned(),
        metadata: metadata_document(&resource, &trusted.issuers, &scopes.baseline),
        path,
        resource,
        upstream: upstream.upstream,
        authorities: trusted.names,
        audiences,
        scopes,
        risk,
        lock,
        audit,
        state,
    };
    warnings.extend(fit(&mut object));
    Ok(Resolved { object, warnings })
}

/// What is to be asked of a server's upstream whom it trusts; `None`: nothing, or a finding says why not.
pub fn asked_of(server: &McpServer, settings: &Settings<'_>, lookup: &Lookup<'_>) -> Option<Question> {
    let namespace = server.metadata.namespace.as_deref().unwrap_or("default");
    let name = server.metadata.name.as_deref().unwrap_or_default();
    let spec = &server.spec;
    upstream::asked(&spec.upstream, (namespace, name), &spec.authorization.servers, settings, lookup)
}

/// Keeps what is written within what the API server takes: a server that is too large is written without what makes it so,
/// and takes no calls.
fn fit(server: &mut Server) -> Option<Finding> {
    let bytes = codec::encode(&Generated::Server(server.clone())).map_or(0, |encoded| encoded.len());
    if bytes <= MOST_BYTES {
        return None;
    }
    let message = format!("what is resolved from it has {bytes} bytes, and {MOST_BYTES} are allowed");
    let finding = Finding::new(Reason::ServerTooLarge, FieldPath::of("spec"), message);
    server.state = State::Unserved { reason: finding.reason.as_str().to_owned(), message: finding.to_string() };
    server.upstream.tls.ca_pem = None;
    server.upstream.credentials = Credentials::None;
    server.lock = server.lock.take().map(|lock| Lock { tools: BTreeMap::new(), ..lock });
    server.risk.clear();
    server.scopes.tools.clear();
    Some(finding)
}

pub(super) fn not_enforced(field: &str, message: &str) -> Finding {
    Finding::new(Reason::NotYetEnforced, FieldPath::of(field), message)
}

/// The path that is served: inside the namespace, so that nobody can take another namespace's, and spelled so that no
/// two spellings mean the same path.
fn path(path: Option<&str>, namespace: &str, name: &str, errors: &mut Findings) -> String {
    let Some(path) = path else { return format!("/{namespace}/{name}") };
    let segment = |s: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-');
        !s.is_empty() && !s.starts_with('.') && s.bytes().all(plain)
    };
    let mut problem = |message: String| {
        let finding = Finding::new(Reason::PathInvalid, FieldPath::of("spec.path"), message);
        errors.push(finding.remedy(format!("leave path out, or write /{namespace}/{name}")));
    };
    match path.strip_prefix('/') {
        None => problem("the path does not start with /".into()),
        Some(rest) if !rest.split('/').all(segment) => problem(
            "segments hold letters, digits and . _ ~ -, do not start with a dot, and are not empty (no trailing /)"
                .into(),
        ),
        Some(rest) => match rest.split_once('/') {
            Some((first, _)) if first == namespace => {}
            _ => problem(format!("the path is not inside /{namespace}/")),
        },
    }
    path.to_owned()
}

fn risk(tools: Option<&ToolsSpec>, errors: &mut Findings) -> Vec<RiskRule> {
    let Some(tools) = tools else { return Vec::new() };
    let field = FieldPath::of("spec.tools.risk");
    tools
        .risk
        .iter()
        .enumerate()
        .map(|(i, entry)| RiskRule {
            name: entry.name.clone(),
            patterns: pattern::patterns(&entry.patterns, &field.index(i).field("match"), errors),
            class: risk_class(entry.class),
        })
        .collect()
}

/// The class that is meant.
pub fn risk_class(class: RiskClass) -> Risk {
    match class {
        RiskClass::ReadOnly => Risk::ReadOnly,
        RiskClass::Write => Risk::Write,
        RiskClass::Destructive => Risk::Destructive,
    }
}

fn client_features(features: Option<&ClientFeaturesSpec>, errors: &mut Findings) {
    let Some(features) = features else { return };
    for (name, access) in
        [("sampling", features.sampling), ("elicitation", features.elicitation), ("roots", features.roots)]
    {
        if access != FeatureAccess::Deny {
            let finding = not_enforced(
                &format!("spec.clientFeatures.{name}"),
                "this build denies whatever an upstream asks of a client",
            );
            errors.push(finding.remedy("set Deny, or leave it out"));
        }
    }
}

fn audit(spec: Option<&AuditSpec>, errors: &mut Findings) -> Audit {
    let spec = spec.cloned().unwrap_or_default();
    let level = match spec.level {
        AuditLevelSpec::Metadata => AuditLevel::Metadata,
        AuditLevelSpec::Arguments => AuditLevel::Arguments,
        AuditLevelSpec::Full => {
            let finding = not_enforced("spec.audit.level", "results are not recorded by this build");
            errors.push(finding.remedy("use Arguments"));
            AuditLevel::Arguments
        }
    };
    let delivery = match spec.delivery {
        DeliverySpec::BestEffort => Delivery::BestEffort,
        DeliverySpec::Durable => Delivery::Durable,
        DeliverySpec::Strict => {
            let finding = not_enforced("spec.audit.delivery", "this build has no remote sinks");
            errors.push(finding.remedy("use Durable"));
            Delivery::Durable
        }
    };
    let field = FieldPath::of("spec.audit.redact");
    let mut redact = Vec::with_capacity(spec.redact.len());
    for (i, pointer) in spec.redact.iter().enumerate() {
        match pointer.strip_prefix("/args").filter(|rest| is_json_pointer(rest)) {
            Some(_) => redact.push(pointer.clone()),
            None => errors.push(Finding::new(Reason::RedactInvalid, field.index(i), "not a pointer below /args")),
        }
    }
    Audit { level, delivery, redact }
}

/// RFC 6901 section 3, without the empty pointer, which would be all arguments.
fn is_json_pointer(text: &str) -> bool {
    let mut parts = text.split('~');
    text.starts_with('/') && parts.next().is_some() && parts.all(|rest| rest.starts_with(['0', '1']))
}

fn scopes(spec: Option<&ScopesSpec>, errors: &mut Findings) -> Scopes {
    let Some(spec) = spec else { return Scopes::default() };
    let field = FieldPath::of("spec.authorization.scopes");
    let tools = spec.tools.iter().enumerate().map(|(i, entry)| {
        let at = field.field("tools").index(i);
        ToolScopes {
            name: entry.name.clone(),
            patterns: pattern::patterns(&entry.patterns, &at.field("match"), errors),
            scopes: value::scopes(&entry.scopes, &at.field("scopes"), errors),
        }
    });
    let tools = tools.collect();
    Scopes { baseline: value::scopes(&spec.baseline, &field.field("baseline"), errors), tools }
}

/// Whose tokens a server accepts, as far as they exist.
#[derive(Default)]
struct Trusted {
    names: Vec<String>,
    issuers: Vec<String>,
    unserved: Option<Finding>,
    warnings: Findings,
}

fn trusted(servers: &[String], lookup: &Lookup<'_>) -> Trusted {
    let field = FieldPath::of("spec.authorization.servers");
    let mut trusted = Trusted::default();
    let mut by_issuer: BTreeMap<&str, &str> = BTreeMap::new();
    // Clients take the first that the metadata names, and log in there: whoever logs nobody in comes last.
    let (mut local, mut cluster) = (Vec::new(), None);
    for (i, name) in servers.iter().enumerate() {
        let Some(authority) = lookup.authorities.get(name.as_str()) else {
            let message = format!("no valid McpAuthorizationServer {name}");
            trusted.warnings.push(Finding::new(Reason::AuthorityNotFound, field.index(i), message));
            continue;
        };
        if let Some(other) = by_issuer.insert(&authority.issuer, name) {
            let message = format!("{other} and {name} have the same issuer, {}", authority.issuer);
            trusted.unserved = Some(Finding::new(Reason::AuthorityAmbiguous, field.index(i), message));
            continue;
        }
        trusted.names.push(name.clone());
        match authority.keys {
            KeySource::Kubernetes => cluster = Some(authority.issuer.clone()),
            KeySource::Local => local.push(authority.issuer.clone()),
            KeySource::Discovery { .. } => trusted.issuers.push(authority.issuer.clone()),
        }
    }
    trusted.issuers.extend(local);
    // No OAuth client gets a token from the cluster: the metadata names it only where there is nobody else to name.
    trusted.issuers.extend(cluster.filter(|_| trusted.issuers.is_empty()));
    if trusted.names.is_empty() && trusted.unserved.is_none() {
        // MCP requires at least one authorization server in the metadata, and nobody could authenticate anyway.
        trusted.unserved = trusted.warnings.pop();
    }
    trusted
}

/// ServiceAccounts have no scopes, so a server that asks every caller for some cannot be called by them.
fn scopes_not_carried(scopes: &Scopes, trusted: &[String], lookup: &Lookup<'_>) -> Option<Finding> {
    let of_cluster =
        |name: &&String| lookup.authorities.get(name.as_str()).is_some_and(|one| one.keys == KeySource::Kubernetes);
    let name = trusted.iter().find(of_cluster).filter(|_| !scopes.baseline.is_empty())?;
    let message = format!("tokens of {name} carry no scopes: ServiceAccounts cannot call this server");
    Some(Finding::new(Reason::ScopesNotCarried, FieldPath::of("spec.authorization.scopes.baseline"), message))
}

fn audiences(audiences: &[String], trusted: &[String], lookup: &Lookup<'_>, warnings: &mut Findings) -> Vec<String> {
    let allowed = |audience: &String| {
        trusted
            .iter()
            .filter_map(|name| lookup.authorities.get(name.as_str()))
            .any(|authority| authority.rules.allowed_audiences.contains(audience))
    };
    let mut accepted = Vec::with_capacity(audiences.len());
    for (i, audience) in audiences.iter().enumerate() {
        if allowed(audience) {
            accepted.push(audience.clone());
        } else {
            let field = FieldPath::of("spec.authorization.audiences").index(i);
            let message = format!("no McpAuthorizationServer of this server allows the audience {audience}");
            warnings.push(Finding::new(Reason::AudienceNotAllowed, field, message));
        }
    }
    accepted
}

/// The protected-resource metadata document (RFC 9728). One without authorization servers is no such document; the server
/// is unserved then, and has none.
fn metadata_document(resource: &str, issuers: &[String], scopes: &[String]) -> String {
    ProtectedResource::new(resource, issuers.to_vec(), scopes.to_vec())
        .map(|document| document.to_json())
        .unwrap_or_default()
}
