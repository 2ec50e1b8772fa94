//! Where calls go, and as whom.
//!
//! Invariant: a Secret's value is only ever resolved into a server whose upstream host the Secret itself names, so
//! whoever may write McpServers cannot post someone else's Secret to a host of theirs.

use http::{HeaderName, HeaderValue};
use url::Url;

use super::{
    Finding, Findings, Lookup, Reason,
    public_url::{has_user_info, is_loopback},
    server::not_enforced,
    value,
};
use crate::{
    api::{
        ALLOWED_HOSTS, FieldPath,
        core::Secret,
        v1alpha1::{CredentialsSpec, HeaderSpec, UpstreamSpec},
    },
    generated::{
        Sensitive,
        server::{CredentialHeader, Credentials, Upstream, UpstreamTls},
    },
};

/// An upstream, and what keeps it from being called.
pub(super) struct ResolvedUpstream {
    pub(super) upstream: Upstream,
    pub(super) unserved: Findings,
    pub(super) warnings: Findings,
}

/// Resolves an upstream. With findings in `errors`, what is returned is not to be used.
pub(super) fn resolve(
    spec: &UpstreamSpec,
    namespace: &str,
    lookup: &Lookup<'_>,
    errors: &mut Findings,
) -> ResolvedUpstream {
    let mut unserved = Findings::new();
    let mut warnings = Findings::new();
    let url = url(spec, errors, &mut warnings);
    let tls = tls(spec, namespace, lookup, errors, &mut unserved);
    let headers = headers(&spec.credentials, errors);
    let credentials = match headers {
        None => Credentials::None,
        Some(headers) => {
            let mut resolved = Vec::with_capacity(headers.len());
            for (i, header) in headers.iter().enumerate() {
                let field = header_field(i).field("secretKeyRef");
                match value_of(header, namespace, url.as_ref(), &field, lookup) {
                    Ok(value) => resolved.push(CredentialHeader { name: header.name.to_ascii_lowercase(), value }),
                    Err(finding) => unserved.push(*finding),
                }
            }
            Credentials::Headers(resolved)
        }
    };
    let url = url.map(String::from).unwrap_or_default();
    ResolvedUpstream { upstream: Upstream { url, tls, credentials }, unserved, warnings }
}

fn header_field(index: usize) -> FieldPath {
    FieldPath::of("spec.upstream.credentials.headers").index(index)
}

fn url(spec: &UpstreamSpec, errors: &mut Findings, warnings: &mut Findings) -> Option<Url> {
    if spec.url.is_some() == spec.service.is_some() {
        let field = FieldPath::of("spec.upstream");
        errors.push(Finding::new(Reason::ChoiceInvalid, field, "give exactly one of url and service"));
        return None;
    }
    let Some(text) = &spec.url else {
        let finding = not_enforced("spec.upstream.service", "this build calls upstreams by URL only");
        errors.push(finding.remedy("write url: http://<name>.<namespace>.svc:<port>/<path>"));
        return None;
    };
    let field = FieldPath::of("spec.upstream.url");
    let mut refuse = |message: &str| errors.push(Finding::new(Reason::UpstreamInvalid, field.clone(), message));
    let Ok(url) = Url::parse(text) else {
        refuse("not an absolute URL");
        return None;
    };
    let host = url.host();
    match (url.scheme(), &host) {
        ("https", Some(_)) => {}
        ("http", Some(host)) => {
            if !is_loopback(host) {
                let message = "calls and their answers travel unencrypted";
                warnings.push(Finding::new(Reason::PlaintextUpstream, field.clone(), message));
            }
        }
        _ => {
            refuse("neither https nor http, or without a host");
            return None;
        }
    }
    if has_user_info(&url) {
        refuse("user information in the URL");
        return None;
    }
    if url.fragment().is_some() {
        refuse("a fragment in the URL");
        return None;
    }
    Some(url)
}

fn tls(
    spec: &UpstreamSpec,
    namespace: &str,
    lookup: &Lookup<'_>,
    errors: &mut Findings,
    unserved: &mut Findings,
) -> UpstreamTls {
    let Some(tls) = &spec.tls else { return UpstreamTls::default() };
    if tls.client_cert_ref.is_some() {
        errors.push(not_enforced("spec.upstream.tls.clientCertRef", "this build presents no client certificates"));
    }
    if let Some(name) = &tls.server_name
        && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
    {
        let field = FieldPath::of("spec.upstream.tls.serverName");
        errors.push(Finding::new(Reason::UpstreamInvalid, field, "not a host name").remedy("write a DNS name"));
    }
    let field = FieldPath::of("spec.upstream.tls.caRef");
    let ca_pem = tls
        .ca_ref
        .as_ref()
        .and_then(|ca| value::ca(ca, namespace, &field, lookup).map_err(|finding| unserved.push(*finding)).ok());
    UpstreamTls { ca_pem, server_name: tls.server_name.clone() }
}

/// The headers that are asked for; `None` if nothing is to be sent.
fn headers<'a>(spec: &'a CredentialsSpec, errors: &mut Findings) -> Option<&'a [HeaderSpec]> {
    let given = [spec.none.is_some(), spec.headers.is_some(), spec.oauth.is_some(), spec.service_account.is_some()];
    if given.iter().filter(|g| **g).count() != 1 {
        let field = FieldPath::of("spec.upstream.credentials");
        let message = "give exactly one of none, headers, oauth and serviceAccount";
        errors.push(Finding::new(Reason::ChoiceInvalid, field, message));
    }
    if spec.oauth.is_some() {
        errors.push(not_enforced("spec.upstream.credentials.oauth", "this build is no OAuth client"));
    }
    if spec.service_account.is_some() {
        let field = "spec.upstream.credentials.serviceAccount";
        errors.push(not_enforced(field, "this build asks for no ServiceAccount tokens"));
    }
    let headers = spec.headers.as_deref()?;
    let mut seen = std::collections::HashSet::new();
    for (i, header) in headers.iter().enumerate() {
        let at = header_field(i).field("name");
        let mut refuse = |message: &str| {
            errors.push(Finding::new(Reason::CredentialsInvalid, at.clone(), message));
        };
        match HeaderName::from_bytes(header.name.as_bytes()) {
            Err(_) => refuse("not a header name"),
            Ok(name) if is_gateways(name.as_str()) => refuse("this header is the gateway's own to write"),
            Ok(name) if !seen.insert(name.clone()) => refuse("another entry has this header"),
            Ok(_) => {}
        }
        if header.prefix.as_deref().is_some_and(|p| HeaderValue::from_str(p).is_err()) {
            let at = header_field(i).field("prefix");
            errors.push(Finding::new(Reason::CredentialsInvalid, at, "not sendable in a header"));
        }
    }
    Some(headers)
}

/// Headers that frame, route or describe a request: a credential there would change what the upstream reads.
fn is_gateways(name: &str) -> bool {
    const OWN: [&str; 20] = [
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "last-event-id",
        "origin",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "traceparent",
        "tracestate",
    ];
    const PREFIXES: [&str; 4] = ["mcp-", "proxy-", "sec-", "x-forwarded-"];
    OWN.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn value_of(
    header: &HeaderSpec,
    namespace: &str,
    url: Option<&Url>,
    field: &FieldPath,
    lookup: &Lookup<'_>,
) -> Result<Sensitive, Box<Finding>> {
    let reference = &header.secret_key_ref;
    let finding = |reason, message| Box::new(Finding::new(reason, field.clone(), message));
    if lookup.forbidden_secrets.contains(&(namespace, reference.name.as_str())) {
        let message = format!("the controller may not read the Secret {namespace}/{}", reference.name);
        return Err(finding(Reason::SecretForbidden, message));
    }
    let Some(secret) = lookup.secrets.get(&(namespace, reference.name.as_str())) else {
        return Err(finding(Reason::SecretNotFound, format!("no Secret {namespace}/{}", reference.name)));
    };
    // Before the key is looked for: its presence is nobody's business but the owner's.
    if !url.is_some_and(|url| names_host(secret, url)) {
        let message = format!("the Secret {} does not name the host of this upstream", reference.name);
        return Err(finding(Reason::SecretHostNotAllowed, message));
    }
    let Some(value) = secret.data.get(&reference.key) else {
        let message = format!("the Secret {} has no key {}", reference.name, reference.key);
        return Err(finding(Reason::SecretNotFound, message));
    };
    let whole = std::str::from_utf8(value).ok().filter(|text| !text.is_empty()).map(|text| {
        let prefix = header.prefix.as_deref().unwrap_or_default();
        format!("{prefix}{text}")
    });
    match whole.filter(|whole| HeaderValue::from_str(whole).is_ok()) {
        Some(whole) => Ok(Sensitive::new(whole)),
        None => {
            let message = format!("key {} of Secret {} cannot be sent in a header", reference.key, reference.name);
            Err(finding(Reason::SecretInvalid, message))
        }
    }
}

/// Whether a Secret's annotation names the host of `url`, as `host` for the scheme's own port or as `host:port`.
fn names_host(secret: &Secret, url: &Url) -> bool {
    let annotations = secret.metadata.annotations.as_ref();
    let Some(allowed) = annotations.and_then(|a| a.get(ALLOWED_HOSTS)) else { return false };
    let Some(host) = url.host_str() else { return false };
    allowed.split(',').map(str::trim).any(|entry| {
        let with_port = entry.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
        match with_port {
            Some((name, port)) => name.eq_ignore_ascii_case(host) && url.port_or_known_default() == Some(port),
            None => entry.eq_ignore_ascii_case(host) && url.port().is_none(),
        }
    })
}
