//! As whom, where and how the gateway gets tokens for an upstream.
//!
//! Invariant: what proves the client is resolved only into a server whose tokens are asked of the issuer of the client's own
//! McpAuthorizationServer, at the endpoint that this issuer's metadata names, and only while the upstream names that issuer
//! (RFC 9728). Whoever may write McpServers sends nobody's credentials to a place of theirs.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use url::Url;

use super::{
    ClientKind, Finding, Findings, Lookup, Reason, RegisteredClient, Settings, client::client, presumed, registered,
    value,
};
use crate::{
    api::{
        FieldPath,
        core::Secret,
        schema::nearest,
        v1alpha1::{ClientMethod, McpServerSpec, OauthGrant, OauthSpec},
    },
    generated::{
        authority::KeySource,
        server::{Grant, Oauth, Proof, UpstreamTls},
    },
    oauth::{
        client_key::ClientKey,
        client_registration::AuthMethod,
        identifier::{Identifier, is_above},
        upstream_trust::{Question, Trust},
    },
    registration::{Desired, Profile},
    sensitive::Sensitive,
};

/// Keys of the Secret in which a client's credentials are.
const CLIENT_ID: &str = "client_id";
const CLIENT_SECRET: &str = "client_secret";
const ISSUER: &str = "issuer";
const PRIVATE_KEY: &str = "private_key.pem";
/// The longest credential that is read, in bytes.
const LONGEST: usize = 8 * 1024;

fn at(name: &str) -> FieldPath {
    FieldPath::of("spec.upstream.credentials.oauth").field(name)
}

fn unfit(message: impl Into<String>) -> Box<Finding> {
    Box::new(Finding::new(Reason::UpstreamClientUnfit, at("client"), message))
}

/// A server's upstream, as far as tokens for it are concerned.
pub(super) struct Target<'t> {
    pub(super) spec: &'t OauthSpec,
    pub(super) server: (&'t str, &'t str),
    /// Names of the McpAuthorizationServers whose tokens callers have.
    pub(super) trusted: &'t [String],
    /// `None`: an error says why.
    pub(super) url: Option<&'t Url>,
    pub(super) tls: &'t UpstreamTls,
}

/// What is wrong with it in itself.
pub(super) fn check(spec: &OauthSpec, url: Option<&Url>, errors: &mut Findings) {
    value::scopes(&spec.scopes, &at("scopes"), errors);
    let Some(url) = url else { return };
    let mut refuse = |name: &str, message: &str, remedy: &'static str| {
        errors.push(Finding::new(Reason::CredentialsInvalid, at(name), message).remedy(remedy));
    };
    if Identifier::resource(url.as_str()).is_err() {
        // RFC 6750 section 5.3, RFC 9728 section 1.2.
        refuse("client", "the upstream's URL is no resource identifier: https, in visible ASCII", "use https");
    }
    if spec.resource.as_ref().is_some_and(|resource| !is_above(resource, url.as_str())) {
        let message = "not the upstream's URL, nor a parent of it at the same scheme, host and port";
        refuse("resource", message, "leave it out, or write the resource of the upstream's own metadata");
    }
}

/// The client that the gateway is there, as it is registered.
struct Chosen {
    client: RegisteredClient,
    desired: Desired,
    method: Option<ClientMethod>,
    issuer_ca_pem: Option<String>,
}

fn chosen(target: &Target<'_>, settings: &Settings<'_>, lookup: &Lookup<'_>) -> Result<Chosen, Box<Finding>> {
    let (namespace, name) = (target.server.0, target.spec.client.as_str());
    let Some(object) = lookup.client_objects.get(&(namespace, name)) else {
        let others = lookup.client_objects.keys().filter(|(place, _)| *place == namespace).map(|(_, other)| *other);
        let finding = unfit(format!("no McpClient {namespace}/{name} that can be read"));
        return Err(match nearest(name, others) {
            Some(meant) => Box::new(finding.remedy(format!("did you mean {meant:?}?"))),
            None => finding,
        });
    };
    let invalid = |finding: &Finding| {
        let of = format!("McpClient {namespace}/{name}");
        match finding.reason {
            // What compares manifests, which come without Secrets, passes over this alone.
            Reason::SecretNotFound | Reason::SecretForbidden | Reason::SecretInvalid => {
                let message = format!("{of}: {}: {}", finding.field, finding.message);
                Box::new(Finding::new(finding.reason, at("client"), message).remedy(finding.remedy.clone()))
            }
            _ => unfit(format!("{of}: {finding}")),
        }
    };
    let resolved = client(object, settings, lookup).map_err(|errors| match errors.first() {
        Some(first) => invalid(first),
        None => unfit(format!("McpClient {namespace}/{name} is invalid")),
    })?;
    let ClientKind::Registered(client) = resolved.object else {
        let remedy = "name an McpClient that is registered at the upstream's issuer";
        let message = format!("McpClient {namespace}/{name} has the method Token, which is for callers of the gateway");
        return Err(Box::new(unfit(message).remedy(remedy)));
    };
    let desired = client.desired.clone().map_err(|finding| invalid(&finding))?;
    let authority = lookup.authorities.get(desired.authority.as_str());
    let Some(KeySource::Discovery { ca_pem }) = authority.map(|authority| &authority.keys) else {
        return Err(unfit(format!("McpAuthorizationServer {} is no issuer", desired.authority)));
    };
    let issuer_ca_pem = ca_pem.clone();
    let chosen = Chosen { desired, method: object.spec.method, issuer_ca_pem, client: *client };
    fits(&chosen, target)?;
    Ok(chosen)
}

/// Whether it can be what it is to be.
fn fits(chosen: &Chosen, target: &Target<'_>) -> Result<(), Box<Finding>> {
    let (metadata, authority) = (&chosen.desired.metadata, &chosen.desired.authority);
    let name = &target.spec.client;
    if metadata.auth_method == AuthMethod::None {
        return Err(unfit(format!("McpClient {name} is a public client: nothing would prove the gateway")));
    }
    let grants = &metadata.grant_types;
    let speaks_for_itself = grants.is_empty() || grants.iter().any(|grant| grant == "client_credentials");
    if target.spec.grant == OauthGrant::ClientCredentials && !speaks_for_itself {
        return Err(unfit(format!("McpClient {name} logs persons in, and does not speak for itself")));
    }
    if target.spec.grant != OauthGrant::ClientCredentials && !target.trusted.contains(authority) {
        let message =
            format!("callers have no tokens of {authority}, and a caller's token is exchanged at its own issuer only");
        let finding = Finding::new(Reason::UpstreamClientUnfit, at("grant"), message);
        let remedy = format!("add {authority} to spec.authorization.servers, or use ClientCredentials");
        return Err(Box::new(finding.remedy(remedy)));
    }
    Ok(())
}

fn question(target: &Target<'_>, chosen: &Chosen) -> Option<Question> {
    let url = target.url?.as_str();
    Some(Question {
        url: url.to_owned(),
        resource: target.spec.resource.clone().unwrap_or_else(|| url.to_owned()),
        ca_pem: target.tls.ca_pem.clone(),
        server_name: target.tls.server_name.clone(),
        issuer: chosen.desired.issuer.clone(),
        issuer_ca_pem: chosen.issuer_ca_pem.clone(),
    })
}

/// What is to be asked of the upstream; `None`: nothing, or a finding says why not.
pub(super) fn asked(target: &Target<'_>, settings: &Settings<'_>, lookup: &Lookup<'_>) -> Option<Question> {
    chosen(target, settings, lookup).ok().and_then(|chosen| question(target, &chosen))
}

/// Resolves it; or says why the server cannot be served. A warning says what is served by what was known before.
pub(super) fn resolve(
    target: &Target<'_>,
    settings: &Settings<'_>,
    lookup: &Lookup<'_>,
    warnings: &mut Findings,
) -> Result<Oauth, Box<Finding>> {
    let chosen = chosen(target, settings, lookup)?;
    let question = question(target, &chosen).ok_or_else(|| unfit("the upstream has no URL"))?;
    let token_endpoint = token_endpoint(target, &question, lookup, warnings)?;
    let (client_id, proof) = proof(target, &chosen, lookup)?;
    let authority = chosen.desired.authority;
    Ok(Oauth {
        issuer: question.issuer,
        ca_pem: question.issuer_ca_pem,
        token_endpoint,
        client_id,
        proof,
        grant: match target.spec.grant {
            OauthGrant::ClientCredentials => Grant::ClientCredentials,
            OauthGrant::TokenExchange => Grant::TokenExchange { authority },
            OauthGrant::JwtBearer => Grant::JwtBearer { authority },
        },
        scopes: target.spec.scopes.clone(),
        resource: question.resource,
        // Keycloak answers `resource` with an error unless a client stands for it, and `client_credentials` with 500 even then.
        says_resource: chosen.desired.profile != Profile::Keycloak,
    })
}

fn token_endpoint(
    target: &Target<'_>,
    question: &Question,
    lookup: &Lookup<'_>,
    warnings: &mut Findings,
) -> Result<String, Box<Finding>> {
    // Whoever only answers questions asks nobody.
    let Some(discovered) = &lookup.discovered else { return Ok(question.issuer.clone()) };
    let field = FieldPath::of("spec.upstream.credentials.oauth");
    let known = discovered.get(&target.server).filter(|known| known.question == *question);
    let failure = known.and_then(|known| known.failure.as_ref());
    match known.and_then(|known| known.trust.as_ref()) {
        Some(Trust::Holds { token_endpoint }) => {
            warnings.extend(failure.map(|(reason, detail)| {
                let message = format!("what the upstream trusts could not be asked again ({reason}): {detail}");
                Finding::new(Reason::UpstreamTrustUnconfirmed, field, message)
            }));
            Ok(token_endpoint.clone())
        }
        Some(Trust::Changed { issuers }) => {
            let message = format!(
                "the upstream's metadata names {}, and not {}, of which McpClient {} is: nothing is sent there",
                issuers.join(", "),
                question.issuer,
                target.spec.client
            );
            Err(Box::new(Finding::new(Reason::IssuerChanged, field, message)))
        }
        None => {
            let message = match failure {
                Some((reason, detail)) => format!("the upstream does not say whom it trusts ({reason}): {detail}"),
                None => "the upstream was not asked yet whom it trusts".to_owned(),
            };
            Err(Box::new(Finding::new(Reason::UpstreamNotDiscovered, field, message)))
        }
    }
}

/// The client's id, and what proves it.
fn proof(target: &Target<'_>, chosen: &Chosen, lookup: &Lookup<'_>) -> Result<(String, Proof), Box<Finding>> {
    let desired = &chosen.desired;
    let namespace = target.server.0;
    let shares = desired.metadata.auth_method != AuthMethod::PrivateKeyJwt;
    if let Some(from) = desired.client_secret.as_ref().filter(|_| shares) {
        is_meant(target, desired, lookup)?;
        let secret = registered::given(from, namespace, lookup, at("client")).map_err(Box::new)?;
        let client_id = chosen.client.client_id.clone();
        let client_id = client_id.ok_or_else(|| unfit("the McpClient has a secret and no clientId"))?;
        return Ok((client_id, by_secret(desired.metadata.auth_method, secret)));
    }
    let (name, key) = (desired.secret_name.as_str(), if shares { CLIENT_SECRET } else { PRIVATE_KEY });
    let is_made = chosen.method != Some(ClientMethod::Preregistered);
    // A controller makes it; whoever only answers questions does not see it.
    let is_to_come = is_made && lookup.discovered.is_none() && !lookup.secrets.contains_key(&(namespace, name));
    if is_to_come || lookup.secrets_presumed {
        return Ok(("presumed".to_owned(), Proof::Basic(presumed())));
    }
    let secret = secret(namespace, name, lookup)?;
    let text = text(secret, name, key)?;
    let own = |key: &str| secret.data.get(key).and_then(|value| std::str::from_utf8(value).ok());
    if own(ISSUER).is_some_and(|issuer| issuer != desired.issuer) {
        return Err(unfit(format!("the credentials in Secret {name} are not for {}", desired.issuer)));
    }
    let client_id = chosen.client.client_id.clone().or_else(|| own(CLIENT_ID).map(str::to_owned));
    let client_id = client_id.ok_or_else(|| unfit(format!("Secret {name} does not say which id the client has")))?;
    let proof = match desired.metadata.auth_method {
        AuthMethod::PrivateKeyJwt => key_of(text).map(Proof::Key).ok_or_else(|| {
            let message = format!("key {key} of Secret {name} is no private key for ES256 (PKCS#8, PEM)");
            Box::new(
                Finding::new(Reason::SecretInvalid, at("client"), message).remedy("store an EC key of the curve P-256"),
            )
        })?,
        method => by_secret(method, Sensitive::new(text)),
    };
    Ok((client_id, proof))
}

/// A secret that its author gave says not for which issuer: it goes to no other than that at which the client is registered.
fn is_meant(target: &Target<'_>, desired: &Desired, lookup: &Lookup<'_>) -> Result<(), Box<Finding>> {
    let (place, issuer) = ((target.server.0, target.spec.client.as_str()), &desired.issuer);
    let Some(issuers) = lookup.client_issuers.get(&place).filter(|issuers| !issuers.contains(issuer)) else {
        return Ok(());
    };
    let (name, known) = (place.1, issuers.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    let message = format!(
        "the secret of McpClient {name} is for {known}, and its McpAuthorizationServer names {issuer} by now: nothing is sent \
         there"
    );
    let remedy = format!("if that is meant, annotate the McpClient with portcullis.dev/issuer={issuer}");
    Err(Box::new(unfit(message).remedy(remedy)))
}

fn by_secret(method: AuthMethod, secret: Sensitive) -> Proof {
    match method {
        AuthMethod::ClientSecretPost => Proof::Post(secret),
        AuthMethod::ClientSecretBasic | AuthMethod::None | AuthMethod::PrivateKeyJwt => Proof::Basic(secret),
    }
}

fn secret<'l>(namespace: &str, name: &str, lookup: &Lookup<'l>) -> Result<&'l Secret, Box<Finding>> {
    let finding = |reason, message: String| Box::new(Finding::new(reason, at("client"), message));
    if lookup.forbidden_secrets.contains(&(namespace, name)) {
        return Err(finding(
            Reason::SecretForbidden,
            format!("the controller may not read the Secret {namespace}/{name}"),
        ));
    }
    let found = lookup.secrets.get(&(namespace, name)).copied();
    found.ok_or_else(|| {
        let message = format!("no Secret {namespace}/{name}, in which the credentials of the McpClient are");
        finding(Reason::SecretNotFound, message)
    })
}

fn text<'s>(secret: &'s Secret, name: &str, key: &str) -> Result<&'s str, Box<Finding>> {
    let finding = |reason, message: String| Box::new(Finding::new(reason, at("client"), message));
    let Some(value) = secret.data.get(key) else {
        return Err(finding(Reason::SecretNotFound, format!("the Secret {name} has no key {key}")));
    };
    let text = std::str::from_utf8(value).ok().map(str::trim_end);
    text.filter(|text| (1..=LONGEST).contains(&text.len())).ok_or_else(|| {
        finding(Reason::SecretInvalid, format!("key {key} of Secret {name} is no text of at most {LONGEST} bytes"))
    })
}

/// PKCS#8 in Base64, of a PEM text.
fn key_of(pem: &str) -> Option<Sensitive> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    let bytes = key.secret_pkcs8_der();
    ClientKey::new(bytes).ok().map(|_| Sensitive::new(BASE64_STANDARD.encode(bytes)))
}

/// The Secrets of its namespace that a server's client may have its credentials in.
pub fn secrets_of(spec: &McpServerSpec, client: &crate::api::McpClient) -> Vec<String> {
    if spec.upstream.credentials.oauth.is_none() {
        return Vec::new();
    }
    let Some(registration) = &client.spec.registration else { return Vec::new() };
    let given = registration.client_secret_ref.as_ref().map(|given| given.name.clone());
    let name = client.metadata.name.as_deref().unwrap_or_default();
    let own = registration.secret_name.clone().unwrap_or_else(|| format!("{name}-client"));
    vec![given.unwrap_or(own)]
}
