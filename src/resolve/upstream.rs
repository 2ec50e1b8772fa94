//! Where calls go, and as whom.
//!
//! Invariant: a Secret's value is only ever resolved into a server whose upstream host the Secret itself names, so
//! whoever may write McpServers cannot post someone else's Secret to a host of theirs.

use http::{HeaderName, HeaderValue};
use url::Url;

use super::{
    Cluster, Finding, Findings, Lookup, Reason, Settings, presumed,
    public_url::{has_user_info, is_loopback},
    server::not_enforced,
    upstream_oauth::{self, Target},
    value,
};
use crate::{
    api::{
        ALLOWED_HOSTS, FieldPath,
        core::Secret,
        object::is_dns_label,
        v1alpha1::{CredentialsSpec, HeaderSpec, Scheme, ServiceRef, UpstreamSpec},
    },
    generated::server::{CredentialHeader, Credentials, Upstream, UpstreamTls},
    oauth::upstream_trust::Question,
    sensitive::Sensitive,
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
    (namespace, name): (&str, &str),
    trusted: &[String],
    settings: &Settings<'_>,
    lookup: &Lookup<'_>,
    errors: &mut Findings,
) -> ResolvedUpstream {
    let mut unserved = Findings::new();
    let mut warnings = Findings::new();
    let url = address(spec, namespace, settings, errors, &mut warnings);
    let tls = tls(spec, namespace, lookup, errors, &mut unserved);
    let headers = headers(&spec.credentials, errors);
    let oauth = spec.credentials.oauth.as_ref().map(|oauth| {
        upstream_oauth::check(oauth, url.as_ref(), errors);
        let target = Target { spec: oauth, server: (namespace, name), trusted, url: url.as_ref(), tls: &tls };
        upstream_oauth::resolve(&target, settings, lookup, &mut warnings)
    });
    let credentials = match headers {
        None if let Some(oauth) = oauth => match oauth {
            Ok(oauth) => Credentials::Oauth(Box::new(oauth)),
            Err(finding) => {
                unserved.push(*finding);
                Credentials::None
            }
        },
        None if spec.credentials.service_account.is_some() => match token(spec, (namespace, name), lookup, errors) {
            Ok(token) => Credentials::ServiceAccount { token },
            Err(finding) => {
                unserved.push(*finding);
                Credentials::None
            }
        },
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

/// What is to be asked of an upstream whom it trusts; `None`: nothing, or a finding says why not.
pub(super) fn asked(
    spec: &UpstreamSpec,
    server: (&str, &str),
    trusted: &[String],
    settings: &Settings<'_>,
    lookup: &Lookup<'_>,
) -> Option<Question> {
    let oauth = spec.credentials.oauth.as_ref()?;
    let (mut errors, mut others) = (Findings::new(), Findings::new());
    let url = address(spec, server.0, settings, &mut errors, &mut others);
    let tls = tls(spec, server.0, lookup, &mut errors, &mut others);
    upstream_oauth::check(oauth, url.as_ref(), &mut errors);
    let target = Target { spec: oauth, server, trusted, url: url.as_ref(), tls: &tls };
    upstream_oauth::asked(&target, settings, lookup).filter(|_| errors.is_empty())
}

fn header_field(index: usize) -> FieldPath {
    FieldPath::of("spec.upstream.credentials.headers").index(index)
}

/// The token of [`super::UPSTREAM_ACCOUNT`] that was got for this server. It is for a Service of the server's own
/// namespace alone: elsewhere it would be somebody's proof of being the gateway.
fn token(
    spec: &UpstreamSpec,
    server: (&str, &str),
    lookup: &Lookup<'_>,
    errors: &mut Findings,
) -> Result<Sensitive, Box<Finding>> {
    let field = FieldPath::of("spec.upstream.credentials.serviceAccount");
    if spec.service.is_none() {
        let message = "tokens of a ServiceAccount are sent to a service only";
        errors.push(Finding::new(Reason::CredentialsInvalid, field.clone(), message).remedy("use service, or headers"));
    }
    lookup.upstream_tokens.get(&server).cloned().ok_or_else(|| {
        let message = "there is no token for this upstream yet";
        Box::new(Finding::new(Reason::UpstreamTokenMissing, field, message))
    })
}

fn address(
    spec: &UpstreamSpec,
    namespace: &str,
    settings: &Settings<'_>,
    errors: &mut Findings,
    warnings: &mut Findings,
) -> Option<Url> {
    match (&spec.url, &spec.service) {
        (Some(text), None) => {
            let url = url(text, errors, warnings);
            let foreign =
                |cluster: &Cluster| url.as_ref().is_some_and(|url| is_foreign(url, namespace, &cluster.dns_domain));
            if settings.cluster.is_some_and(foreign) {
                let message = "a Service or Pod of another namespace";
                let finding = Finding::new(Reason::UpstreamInvalid, FieldPath::of("spec.upstream.url"), message);
                errors.push(finding.remedy("write the McpServer in the namespace of the Service"));
            }
            url
        }
        (None, Some(service)) if settings.cluster.is_some() => {
            let sends = spec.credentials.none.is_none();
            service_url(service, namespace, sends, errors, warnings)
        }
        (None, Some(_)) => {
            let message = "a gateway that stands alone calls upstreams by URL only";
            let finding = Finding::new(Reason::ClusterNeeded, FieldPath::of("spec.upstream.service"), message);
            errors.push(finding.remedy("write url: http://<name>.<namespace>.svc:<port>/<path>"));
            None
        }
        (Some(_), Some(_)) | (None, None) => {
            let field = FieldPath::of("spec.upstream");
            errors.push(Finding::new(Reason::ChoiceInvalid, field, "give exactly one of url and service"));
            None
        }
    }
}

/// The Service's name within the cluster, which its DNS completes.
fn service_url(
    service: &ServiceRef,
    namespace: &str,
    sends_credentials: bool,
    errors: &mut Findings,
    warnings: &mut Findings,
) -> Option<Url> {
    let field = FieldPath::of("spec.upstream.service");
    let mut refuse = |name: &str, message: &str| {
        errors
            .push(Finding::new(Reason::UpstreamInvalid, field.field(name), message).remedy("write it as the Service"));
    };
    let scheme = match service.scheme {
        None | Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
    };
    let path = service.path.as_deref().unwrap_or("/mcp");
    if !is_dns_label(&service.name) {
        refuse("name", "not the name of a Service");
        return None;
    }
    if u16::try_from(service.port).map_or(true, |port| port == 0) {
        refuse("port", "not the number of a port");
        return None;
    }
    let url = Url::parse(&format!("{scheme}://{}.{namespace}.svc:{}{path}", service.name, service.port)).ok();
    // What is sent is what was written: nothing to normalize, neither query nor fragment.
    let Some(url) = url.filter(|url| path.starts_with('/') && url.path() == path) else {
        refuse("path", "not an absolute path as it is sent, without query and fragment");
        return None;
    };
    if scheme == "http" && sends_credentials {
        let message = "credentials travel unencrypted within the cluster";
        warnings.push(Finding::new(Reason::PlaintextUpstream, field.field("scheme"), message));
    }
    Some(url)
}

/// Whether the host is a name that cluster DNS gives to a Service or Pod of another namespace. Its owner may let the gateway
/// in, and means callers that the policies of that namespace have judged.
fn is_foreign(url: &Url, namespace: &str, dns_domain: &str) -> bool {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    let within = host.strip_suffix(dns_domain).and_then(|rest| rest.strip_suffix('.'));
    let host = within.unwrap_or(host);
    let mut labels = host.rsplit('.');
    matches!(labels.next(), Some("svc" | "pod")) && labels.next().is_some_and(|of| of != namespace)
}

fn url(text: &str, errors: &mut Findings, warnings: &mut Findings) -> Option<Url> {
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

/// The longest value of a header: more than any key has, and less than servers take.
const LONGEST_VALUE: usize = 8 * 1024;

fn value_of(
    header: &HeaderSpec,
    namespace: &str,
    url: Option<&Url>,
    field: &FieldPath,
    lookup: &Lookup<'_>,
) -> Result<Sensitive, Box<Finding>> {
    if lookup.secrets_presumed {
        return Ok(presumed());
    }
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
    match whole.filter(|whole| whole.len() <= LONGEST_VALUE && HeaderValue::from_str(whole).is_ok()) {
        Some(whole) => Ok(Sensitive::new(whole)),
        None => {
            let (key, secret) = (&reference.key, &reference.name);
            let message =
                format!("key {key} of Secret {secret} cannot be sent in a header of at most {LONGEST_VALUE} bytes");
            Err(finding(Reason::SecretInvalid, message))
        }
    }
}

/// Whether a Secret's annotation names the host of `url`: as `host` for https on its own port, else as `host:port`. What was
/// meant for https is not sent in the clear because somebody else wrote `http`.
fn names_host(secret: &Secret, url: &Url) -> bool {
    let annotations = secret.metadata.annotations.as_ref();
    let Some(allowed) = annotations.and_then(|a| a.get(ALLOWED_HOSTS)) else { return false };
    let Some(host) = url.host_str() else { return false };
    allowed.split(',').map(str::trim).any(|entry| {
        let with_port = entry.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
        match with_port {
            Some((name, port)) => name.eq_ignore_ascii_case(host) && url.port_or_known_default() == Some(port),
            None => entry.eq_ignore_ascii_case(host) && url.scheme() == "https" && url.port().is_none(),
        }
    })
}
