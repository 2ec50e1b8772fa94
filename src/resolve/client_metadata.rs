//! What a client is registered with, as its author writes it.
//!
//! Invariant: it is consistent before anybody is asked for it: a client for persons has a place to send them back to, one
//! that speaks for itself authenticates, and none has a secret and no secret at once.

use super::{
    Finding, Findings, Reason, client_keys,
    redirect::{self, Place},
    value,
};
use crate::{
    api::{
        FieldPath,
        v1alpha1::{ApplicationTypeSpec, AuthMethodSpec, ClientRegistrationSpec, GrantTypeSpec},
    },
    generated::ObjectId,
    oauth::{
        client_registration::{ApplicationType, AuthMethod, ClientMetadata, Keys},
        identifier::Identifier,
    },
    registration::desired::Method,
};

/// What an author wrote, and what is wrong with it.
pub(super) struct Form<'a> {
    pub(super) spec: &'a ClientRegistrationSpec,
    pub(super) method: Option<Method>,
    pub(super) errors: &'a mut Findings,
}

impl Form<'_> {
    pub(super) fn at(name: &str) -> FieldPath {
        FieldPath::of("spec.registration").field(name)
    }

    pub(super) fn refuse(&mut self, reason: Reason, name: &str, message: &str, remedy: &'static str) {
        self.errors.push(Finding::new(reason, Self::at(name), message).remedy(remedy));
    }

    /// Whether it has been registered already, or has a document of its own: then that says what it is.
    pub(super) fn is_known(&self) -> bool {
        self.method == Some(Method::Preregistered) || self.spec.client_id.is_some()
    }

    /// Everything but the scopes, which its servers have a part in.
    pub(super) fn metadata(&mut self, id: &ObjectId, warnings: &mut Findings) -> ClientMetadata {
        let client_name = self.client_name(id);
        let redirect_uris = self.spec.redirect_uris.clone().unwrap_or_default();
        let places = redirect::places(&redirect_uris, &Self::at("redirectUris"), self.errors, warnings);
        let (grant_types, application_type) = if self.is_known() {
            self.only_what_is_not_registered();
            (self.grant_to_try(), ApplicationType::Web)
        } else {
            (self.grant_types(!redirect_uris.is_empty()), self.application_type(&places))
        };
        let auth_method = self.auth_method(application_type, &grant_types);
        let is_for_persons = grant_types.contains(&GrantTypeSpec::AuthorizationCode);
        ClientMetadata {
            client_name,
            application_type,
            redirect_uris,
            // RFC 7591 section 2.1.
            response_types: is_for_persons.then(|| "code".to_owned()).into_iter().collect(),
            grant_types: grant_types.into_iter().map(|grant| grant_name(grant).to_owned()).collect(),
            auth_method,
            scopes: Vec::new(),
            keys: self.keys(auth_method),
            // By these a registration is known again: whoever registers it fills them in.
            software_id: String::new(),
            software_version: String::new(),
            software_statement: None,
        }
    }

    /// Persons read it when they are asked for consent.
    fn client_name(&mut self, id: &ObjectId) -> String {
        let Some(name) = &self.spec.client_name else { return format!("{}/{}", id.namespace, id.name) };
        let misleads = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if name.chars().any(misleads) {
            let message = "control characters, or some that change the direction of text";
            self.errors.push(Finding::new(Reason::ValueInvalid, Self::at("clientName"), message));
        }
        name.clone()
    }

    /// Nobody is asked for the rest, so it would be ignored.
    fn only_what_is_not_registered(&mut self) {
        let spec = self.spec;
        for (name, given) in [
            ("clientName", spec.client_name.is_some()),
            ("applicationType", spec.application_type.is_some()),
            ("redirectUris", spec.redirect_uris.is_some()),
            ("rotation", spec.rotation.is_some()),
            ("deletion", spec.deletion.is_some()),
        ] {
            if given {
                let message = "the client has its id, and what belongs to that is registered already";
                self.refuse(Reason::ChoiceInvalid, name, message, "remove it");
            }
        }
    }

    /// By which grant the gateway may try the credentials that it is given: by one that leads to no person.
    fn grant_to_try(&mut self) -> Vec<GrantTypeSpec> {
        let Some(grants) = self.spec.grant_types.clone() else { return Vec::new() };
        if grants != [GrantTypeSpec::ClientCredentials] || self.spec.client_secret_ref.is_none() {
            let message = "the client has its id, and only client_credentials with a clientSecretRef can be tried";
            self.refuse(Reason::ChoiceInvalid, "grantTypes", message, "remove it, or use [client_credentials]");
        }
        grants
    }

    fn grant_types(&mut self, has_places: bool) -> Vec<GrantTypeSpec> {
        use GrantTypeSpec::{AuthorizationCode, ClientCredentials, RefreshToken};
        let Some(grants) = self.spec.grant_types.clone() else {
            return if has_places { vec![AuthorizationCode, RefreshToken] } else { vec![ClientCredentials] };
        };
        let [code, refresh, own] =
            [AuthorizationCode, RefreshToken, ClientCredentials].map(|grant| grants.contains(&grant));
        let reason = Reason::GrantTypesInvalid;
        if code && own {
            let message = "nobody could tell whether a token is a person's or the client's";
            self.refuse(reason, "grantTypes", message, "write an McpClient for each");
        }
        if code && !has_places {
            let message = "authorization_code without redirectUris: persons could not be sent back";
            self.refuse(reason, "grantTypes", message, "add redirectUris, or use client_credentials");
        }
        if !code && has_places {
            let message = "redirectUris without authorization_code: nobody is sent back";
            self.refuse(reason, "grantTypes", message, "add authorization_code, or remove redirectUris");
        }
        if refresh && !code {
            let message = "refresh_token without authorization_code: nobody has consented";
            self.refuse(reason, "grantTypes", message, "remove refresh_token");
        }
        grants
    }

    fn application_type(&mut self, places: &[Place]) -> ApplicationType {
        let is_near = |place: &Place| *place != Place::Host;
        match self.spec.application_type {
            None if !places.is_empty() && places.iter().all(is_near) => ApplicationType::Native,
            None => {
                if places.iter().any(is_near) {
                    let message = "some at a host, and some on a person's machine: nobody knows where it runs";
                    self.refuse(Reason::ValueInvalid, "redirectUris", message, "set applicationType: Native");
                }
                ApplicationType::Web
            }
            Some(ApplicationTypeSpec::Native) => ApplicationType::Native,
            Some(ApplicationTypeSpec::Web) => {
                if places.iter().any(is_near) {
                    let message = "a web application has no redirect URIs on a person's machine";
                    self.refuse(Reason::ValueInvalid, "applicationType", message, "set applicationType: Native");
                }
                ApplicationType::Web
            }
        }
    }

    fn auth_method(&mut self, application_type: ApplicationType, grant_types: &[GrantTypeSpec]) -> AuthMethod {
        let has_keys = self.spec.jwks.is_some() || self.spec.jwks_uri.is_some();
        let has_secret = self.spec.client_secret_ref.is_some();
        let for_itself = grant_types.contains(&GrantTypeSpec::ClientCredentials);
        let chosen = match self.spec.token_endpoint_auth_method {
            Some(AuthMethodSpec::PrivateKeyJwt) => AuthMethod::PrivateKeyJwt,
            Some(AuthMethodSpec::ClientSecretBasic) => AuthMethod::ClientSecretBasic,
            Some(AuthMethodSpec::ClientSecretPost) => AuthMethod::ClientSecretPost,
            Some(AuthMethodSpec::None) => AuthMethod::None,
            None if has_secret => AuthMethod::ClientSecretBasic,
            None if has_keys || for_itself => AuthMethod::PrivateKeyJwt,
            None if self.is_known() || application_type == ApplicationType::Native => AuthMethod::None,
            None => AuthMethod::PrivateKeyJwt,
        };
        let shares = matches!(chosen, AuthMethod::ClientSecretBasic | AuthMethod::ClientSecretPost);
        let field = "tokenEndpointAuthMethod";
        let reason = Reason::AuthMethodInvalid;
        if chosen == AuthMethod::None && for_itself {
            let message = "client_credentials by a client that does not authenticate: anybody could be it";
            self.refuse(reason, field, message, "use private_key_jwt");
        }
        if shares && self.method == Some(Method::Cimd) {
            // draft-ietf-oauth-client-id-metadata-document: everybody can read the document.
            let message = "a Client ID Metadata Document has no shared secret";
            self.refuse(reason, field, message, "use private_key_jwt or none");
        }
        if has_keys && chosen != AuthMethod::PrivateKeyJwt {
            self.refuse(reason, field, "keys are for private_key_jwt", "use private_key_jwt, or remove the keys");
        }
        if has_secret && !shares {
            let message = "clientSecretRef is for client_secret_basic and client_secret_post";
            self.refuse(reason, field, message, "use one of them, or remove clientSecretRef");
        }
        if shares && !has_secret && self.method == Some(Method::Preregistered) {
            let message = "a shared secret, and nothing says where it is";
            self.refuse(reason, "clientSecretRef", message, "name the Secret that holds it, and its key");
        }
        chosen
    }

    fn keys(&mut self, auth_method: AuthMethod) -> Keys {
        match (&self.spec.jwks, &self.spec.jwks_uri) {
            (Some(_), Some(_)) => {
                self.refuse(Reason::ChoiceInvalid, "jwks", "jwks and jwksUri", "give one of them");
                Keys::None
            }
            _ if auth_method != AuthMethod::PrivateKeyJwt => Keys::None,
            (Some(jwks), None) => Keys::Inline(client_keys::public(jwks, &Self::at("jwks"), self.errors)),
            (None, Some(url)) => {
                if !is_https(url) {
                    let message = "not an https URL without fragment and user information";
                    let remedy = "write the URL at which the authorization server finds the keys";
                    self.refuse(Reason::KeysInvalid, "jwksUri", message, remedy);
                }
                Keys::At(url.clone())
            }
            (None, None) => Keys::None,
        }
    }

    /// Scopes that a client may ask for: `offline_access` is one (MCP authorization, "Refresh Tokens").
    pub(super) fn scopes(&mut self) {
        let field = Self::at("scopes");
        for (i, scope) in self.spec.scopes.iter().enumerate() {
            if !value::is_scope(scope) {
                self.errors.push(Finding::new(Reason::ScopeInvalid, field.index(i), "not a scope token"));
            }
        }
        if self.method == Some(Method::Admin) && !self.spec.scopes.is_empty() {
            let message = "by Admin, a client has the scopes that its realm gives every client, and no others";
            let remedy =
                "remove it, and let the realm give them (default client scopes, optional), or use another method";
            self.refuse(Reason::ChoiceInvalid, "scopes", message, remedy);
        }
    }
}

/// An `https` URL of which nobody reads another place.
pub(super) fn is_https(url: &str) -> bool {
    url.starts_with("https://") && Identifier::resource(url).is_ok()
}

fn grant_name(grant: GrantTypeSpec) -> &'static str {
    match grant {
        GrantTypeSpec::AuthorizationCode => "authorization_code",
        GrantTypeSpec::RefreshToken => "refresh_token",
        GrantTypeSpec::ClientCredentials => "client_credentials",
    }
}
