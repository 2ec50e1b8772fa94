//! `McpAuthorizationServer` to a generated authority.

use url::Url;

use super::{
    Finding, Findings, Lookup, Reason, Resolved, Settings, object_id,
    public_url::{has_user_info, is_loopback},
    registration::registration,
    value,
};
use crate::{
    api::{
        FieldPath, Key, Kind, McpAuthorizationServer,
        v1alpha1::{Algorithm, RevokedSpec, TypSpec, ValidationSpec},
    },
    generated::{
        Authority,
        authority::{KeySource, Revocation, TokenRules, TypRule},
    },
    oauth::identifier::Identifier,
};

/// The longest clock skew that may be allowed (identity-audit 1.4), in seconds.
const MAX_SKEW: u32 = 60;

/// Resolves a trust anchor. What comes out has no keys yet.
pub fn authority(
    server: &McpAuthorizationServer,
    settings: &Settings<'_>,
    lookup: &Lookup<'_>,
) -> Result<Resolved<Authority>, Findings> {
    let name = server.metadata.name.as_deref().unwrap_or_default();
    let key = Key { kind: Kind::McpAuthorizationServer, namespace: String::new(), name: name.to_owned() };
    let spec = &server.spec;
    let mut errors = Findings::new();
    let choices = [spec.issuer.is_some(), spec.local.is_some(), spec.kubernetes.is_some()];
    if choices.iter().filter(|c| **c).count() != 1 {
        let message = "give exactly one of issuer, local and kubernetes";
        errors.push(Finding::new(Reason::ChoiceInvalid, FieldPath::of("spec"), message));
    }
    errors.extend(registration(server).err().into_iter().flatten());
    if spec.issuer.is_none() {
        for (field, given) in [("validation", spec.validation.is_some()), ("caRef", spec.ca_ref.is_some())] {
            if given {
                let at = FieldPath::of("spec").field(field);
                let finding = Finding::new(Reason::ChoiceInvalid, at, format!("{field} belongs to an issuer"));
                errors.push(finding.remedy("remove it"));
            }
        }
    }
    let (issuer, rules) = match (&spec.issuer, &spec.kubernetes) {
        (Some(issuer), _) => {
            check_issuer(issuer, &FieldPath::of("spec.issuer"), &mut errors);
            (issuer.clone(), rules(spec.validation.as_ref(), &spec.allowed_audiences, &mut errors))
        }
        (None, Some(asked)) => kubernetes(settings, asked.token_review, &spec.allowed_audiences, &mut errors),
        (None, None) => (local_issuer(settings, name), local_rules(&spec.allowed_audiences)),
    };
    let revoked = revocations(&spec.revoked, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }

    let mut warnings = Findings::new();
    let keys = match (&spec.issuer, &spec.ca_ref) {
        (None, _) if spec.kubernetes.is_some() => KeySource::Kubernetes,
        (None, _) => KeySource::Local,
        (Some(_), None) => KeySource::Discovery { ca_pem: None },
        (Some(_), Some(ca)) => {
            match value::ca(ca, settings.system_namespace, &FieldPath::of("spec.caRef"), lookup) {
                Ok(pem) => KeySource::Discovery { ca_pem: Some(pem) },
                Err(finding) => {
                    warnings.push(*finding);
                    // Trusting nobody: the author meant not to trust the system's authorities.
                    KeySource::Discovery { ca_pem: Some(String::new()) }
                }
            }
        }
    };
    let id = object_id(&key, &server.metadata);
    let object = Authority { id, issuer, rules, keys, key_set: None, revoked, clients: None };
    Ok(Resolved { object, warnings })
}

/// The issuer identifier of the gateway's own issuer: below `/-/`, where everything lies that the gateway serves for
/// itself. Its metadata is at `/.well-known/oauth-authorization-server` followed by this path (RFC 8414 section 3).
fn local_issuer(settings: &Settings<'_>, name: &str) -> String {
    settings.public_url.join(&format!("/-/issuer/{name}"))
}

/// RFC 8414 section 2: an https URL without query and fragment. The text itself is kept: tokens must carry it exactly.
fn check_issuer(issuer: &str, field: &FieldPath, errors: &mut Findings) {
    let sound = Url::parse(issuer).is_ok_and(|url| {
        let secure = match url.scheme() {
            "https" => true,
            "http" => url.host().is_some_and(|host| is_loopback(&host)),
            _ => false,
        };
        secure && url.host().is_some() && url.query().is_none() && url.fragment().is_none() && !has_user_info(&url)
    });
    if !sound || Identifier::issuer(issuer).is_err() {
        let message = "not an https URL without query, fragment and user information";
        errors.push(Finding::new(Reason::IssuerInvalid, field.clone(), message));
    }
}

fn rules(spec: Option<&ValidationSpec>, audiences: &[String], errors: &mut Findings) -> TokenRules {
    let spec = spec.cloned().unwrap_or_default();
    let field = FieldPath::of("spec.validation");
    let skew = spec.skew.as_deref().and_then(|text| value::duration(text, &field.field("skew"), errors)).unwrap_or(30);
    if skew > MAX_SKEW {
        let finding = Finding::new(Reason::BoundsExceeded, field.field("skew"), "more than 60s of clock skew");
        errors.push(finding.remedy("use at most 60s, and keep clocks in step"));
    }
    let max_lifetime = spec
        .max_lifetime
        .as_deref()
        .and_then(|text| value::duration(text, &field.field("maxLifetime"), errors).filter(|seconds| *seconds > 0));
    if spec.max_lifetime.is_some() && max_lifetime.is_none() && errors.is_empty() {
        let finding = Finding::new(Reason::BoundsExceeded, field.field("maxLifetime"), "no token lives for no time");
        errors.push(finding.remedy("use at least 1s, or leave it out"));
    }
    TokenRules {
        typ: match spec.typ {
            TypSpec::AccessTokenJwt => TypRule::AccessTokenJwt,
            TypSpec::Compatible => TypRule::Compatible,
        },
        algorithms: match &spec.algorithms {
            Some(algorithms) => algorithms.iter().map(|a| algorithm(*a).to_owned()).collect(),
            None => ["ES256", "EdDSA", "PS256", "RS256"].map(str::to_owned).to_vec(),
        },
        skew_seconds: skew,
        max_lifetime_seconds: max_lifetime,
        subject_claim: spec.subject_claim.unwrap_or_else(|| "sub".to_owned()),
        tenant_claim: spec.tenant_claim,
        client_claims: spec.client_id_claims.unwrap_or_else(|| vec!["client_id".to_owned(), "azp".to_owned()]),
        groups_claim: spec.groups.map(|groups| groups.claim),
        allowed_audiences: audiences.to_vec(),
    }
}

/// The cluster's own issuer, and what its API server mints. What is wrong with it is nobody's fault who writes manifests.
fn kubernetes(
    settings: &Settings<'_>,
    token_review: bool,
    audiences: &[String],
    errors: &mut Findings,
) -> (String, TokenRules) {
    let field = FieldPath::of("spec.kubernetes");
    let known = settings.cluster.and_then(|cluster| Some((cluster, cluster.service_accounts.as_ref()?)));
    match (settings.cluster, known) {
        (None, _) => {
            let message = "a gateway that stands alone knows no ServiceAccounts";
            let finding = Finding::new(Reason::ClusterNeeded, field.clone(), message);
            errors.push(finding.remedy("run Portcullis in a cluster, or use local: {} or an issuer"));
        }
        (Some(_), None) => {
            let message = "who issues the cluster's ServiceAccount tokens is not known";
            errors.push(Finding::new(Reason::ClusterIssuerUnknown, field.clone(), message));
        }
        (Some(_), Some((_, service_accounts))) => {
            let before = errors.len();
            check_issuer(&service_accounts.issuer, &field, errors);
            if let Some(finding) = errors.get_mut(before) {
                finding.message = format!("the cluster's issuer, {:?}, is not an https URL", service_accounts.issuer);
                finding.remedy = "start the API server with --service-account-issuer=https://...".into();
            }
        }
    }
    let (issuer, api_audiences) = match known {
        Some((_, accounts)) => (accounts.issuer.clone(), accounts.api_audiences.clone()),
        None => (String::new(), Vec::new()),
    };
    let refused = known.map(|(cluster, _)| cluster.upstream_subject()).into_iter().collect();
    let rules = TokenRules {
        typ: TypRule::ServiceAccount { api_audiences, refused, token_review },
        // What API servers sign with, or have signed outside (KEP-740).
        algorithms: ["ES256", "ES384", "ES512", "RS256", "RS384", "RS512"].map(str::to_owned).to_vec(),
        client_claims: Vec::new(),
        groups_claim: None,
        ..local_rules(audiences)
    };
    (issuer, rules)
}

/// What the local issuer mints.
fn local_rules(audiences: &[String]) -> TokenRules {
    TokenRules {
        typ: TypRule::AccessTokenJwt,
        algorithms: ["ES256", "EdDSA"].map(str::to_owned).to_vec(),
        skew_seconds: 30,
        max_lifetime_seconds: None,
        subject_claim: "sub".to_owned(),
        tenant_claim: None,
        client_claims: vec!["client_id".to_owned()],
        groups_claim: Some("groups".to_owned()),
        allowed_audiences: audiences.to_vec(),
    }
}

fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::EdDSA => "EdDSA",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
    }
}

fn revocations(list: &[RevokedSpec], errors: &mut Findings) -> Vec<Revocation> {
    let field = FieldPath::of("spec.revoked");
    let mut revoked = Vec::with_capacity(list.len());
    for (i, entry) in list.iter().enumerate() {
        match (&entry.jti, &entry.subject, &entry.issued_before) {
            (Some(jti), None, None) => revoked.push(Revocation::Token { jti: jti.clone() }),
            (None, Some(subject), Some(before)) => {
                let at = field.index(i).field("issuedBefore");
                if let Some(issued_before) = value::time(before, &at, errors) {
                    revoked.push(Revocation::Subject { subject: subject.clone(), issued_before });
                }
            }
            _ => {
                let message = "not exactly one token, or one subject with a time";
                errors.push(Finding::new(Reason::RevocationInvalid, field.index(i), message));
            }
        }
    }
    revoked
}
