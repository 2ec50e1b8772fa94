//! How clients are registered at an issuer.
//!
//! Invariant: none of it is in what proxies read; the credentials of an administrative client are sent to the issuer's own
//! origin only.

use url::Url;

use super::{Finding, Findings, Reason};
use crate::{
    api::{
        FieldPath, McpAuthorizationServer,
        object::is_dns_subdomain,
        v1alpha1::{Profile as ProfileSpec, RegistrationMethod, RegistrationSpec},
    },
    oauth::identifier::Identifier,
    registration::desired::{Method, Profile, SecretKey},
};

/// How clients are registered at an issuer, as an administrator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The issuer, exactly.
    pub issuer: String,
    /// The product behind it.
    pub profile: Profile,
    /// The methods that are allowed besides `Preregistered`, the first before the others.
    pub methods: Vec<Method>,
    /// Where the initial access token is, in the system namespace (RFC 7591 section 3).
    pub initial_access_token: Option<SecretKey>,
    /// How the administrative API is used, if it may be.
    pub admin: Option<Admin>,
}

/// How an administrative API is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The Secret of the system namespace with `client_id` and `client_secret` of a client that may administer others.
    pub credential: String,
    /// Where it is, without a slash at the end.
    pub url: String,
}

/// How clients are registered at a trust anchor; `None`: it is no issuer at which anybody can be.
///
/// # Errors
/// What is wrong in itself.
pub fn registration(server: &McpAuthorizationServer) -> Result<Option<Registration>, Findings> {
    let spec = &server.spec;
    let field = FieldPath::of("spec.registration");
    let mut errors = Findings::new();
    let profile = match spec.profile {
        None | Some(ProfileSpec::Generic) => Profile::Generic,
        Some(ProfileSpec::Keycloak) => Profile::Keycloak,
        Some(_) => {
            let message = "this build knows no such vendor profile";
            let finding = Finding::new(Reason::NotYetEnforced, FieldPath::of("spec.profile"), message);
            let remedy = "leave profile out, and say in validation what the vendor's tokens look like";
            errors.push(finding.remedy(remedy));
            Profile::Generic
        }
    };
    let Some(issuer) = &spec.issuer else {
        for (name, given) in [("registration", spec.registration.is_some()), ("profile", spec.profile.is_some())] {
            if given {
                let at = FieldPath::of("spec").field(name);
                let finding = Finding::new(Reason::ChoiceInvalid, at, format!("{name} belongs to an issuer"));
                errors.push(finding.remedy("remove it"));
            }
        }
        return if errors.is_empty() { Ok(None) } else { Err(errors) };
    };
    let mut object =
        Registration { issuer: issuer.clone(), profile, methods: Vec::new(), initial_access_token: None, admin: None };
    if let Some(registration) = &spec.registration {
        object.methods = registration.methods.iter().map(|method| known(*method)).collect();
        object.initial_access_token = initial_access_token(registration, &field, &mut errors);
        object.admin = admin(registration, profile, issuer, &field, &mut errors);
    }
    if errors.is_empty() { Ok(Some(object)) } else { Err(errors) }
}

fn known(method: RegistrationMethod) -> Method {
    match method {
        RegistrationMethod::Admin => Method::Admin,
        RegistrationMethod::Cimd => Method::Cimd,
        RegistrationMethod::Dcr => Method::Dcr,
    }
}

fn initial_access_token(spec: &RegistrationSpec, field: &FieldPath, errors: &mut Findings) -> Option<SecretKey> {
    let reference = spec.initial_access_token_ref.as_ref()?;
    let at = field.field("initialAccessTokenRef");
    if !spec.methods.contains(&RegistrationMethod::Dcr) {
        let finding = Finding::new(Reason::RegistrationInvalid, at.clone(), "an initial access token without DCR");
        errors.push(finding.remedy("add DCR to methods, or remove it"));
    }
    secret(&reference.name, &at, errors);
    Some(SecretKey { name: reference.name.clone(), key: reference.key.clone() })
}

fn admin(
    spec: &RegistrationSpec,
    profile: Profile,
    issuer: &str,
    field: &FieldPath,
    errors: &mut Findings,
) -> Option<Admin> {
    let mut refuse = |name: &str, message: &str, remedy: &'static str| {
        errors.push(Finding::new(Reason::RegistrationInvalid, field.field(name), message).remedy(remedy));
    };
    if !spec.methods.contains(&RegistrationMethod::Admin) {
        for (name, given) in
            [("adminCredentialRef", spec.admin_credential_ref.is_some()), ("adminUrl", spec.admin_url.is_some())]
        {
            if given {
                refuse(name, "for the method Admin, which is not among methods", "add Admin to methods, or remove it");
            }
        }
        return None;
    }
    if profile == Profile::Generic {
        refuse("methods", "no administrative API is standard", "set profile: Keycloak, or remove Admin");
        return None;
    }
    let url = match &spec.admin_url {
        Some(url) if is_of_origin(url, issuer) => Some(url.trim_end_matches('/').to_owned()),
        Some(_) => {
            let message = "not at the issuer's scheme, host and port, or with a query";
            refuse("adminUrl", message, "leave it out, or write a URL at the issuer's host");
            None
        }
        None => {
            let url = keycloak_admin(issuer);
            if url.is_none() {
                let message = "the issuer does not end with /realms/<realm>, so nobody knows where its API is";
                refuse("adminUrl", message, "set adminUrl: https://<host>/admin/realms/<realm>");
            }
            url
        }
    };
    let Some(credential) = &spec.admin_credential_ref else {
        let remedy = "name a Secret of the system namespace with the keys client_id and client_secret";
        refuse("adminCredentialRef", "Admin without credentials", remedy);
        return None;
    };
    secret(&credential.name, &field.field("adminCredentialRef"), errors);
    Some(Admin { credential: credential.name.clone(), url: url? })
}

fn secret(name: &str, at: &FieldPath, errors: &mut Findings) {
    if !is_dns_subdomain(name) {
        errors.push(Finding::new(Reason::ValueInvalid, at.field("name"), "not a name that a Secret can have"));
    }
}

/// Whether what is sent to `url` goes to whom the issuer is.
fn is_of_origin(url: &str, issuer: &str) -> bool {
    let origin = |text: &str| Identifier::issuer(text).ok().and_then(|_| Url::parse(text).ok()).map(|url| url.origin());
    origin(url).is_some_and(|of| Some(of) == origin(issuer))
}

/// Keycloak has its administrative API beside its realms.
fn keycloak_admin(issuer: &str) -> Option<String> {
    let (before, realm) = issuer.rsplit_once("/realms/")?;
    (!realm.is_empty() && !realm.contains('/')).then(|| format!("{before}/admin/realms/{realm}"))
}
