//! Clients that are registered at an issuer, and what its administrator says of that.

use super::*;
use crate::{
    api::{McpAuthorizationServer, McpClient},
    oauth::client_registration::{ApplicationType, AuthMethod, Keys},
    registration::desired::{Deletion, DeletionPolicy, Desired, Method, OnUnavailable, Profile, Rotation, SecretKey},
};

const ISSUER: &str = "https://sso.example.com/realms/corp";

/// The trust anchor `corp`, at which Keycloak registers clients.
fn anchor(spec: Value) -> Value {
    let mut whole = json!({
        "issuer": ISSUER, "profile": "Keycloak",
        "registration": {"methods": ["Admin", "CIMD", "DCR"], "adminCredentialRef": {"name": "keycloak-admin"}}
    });
    patch(&mut whole, spec);
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAuthorizationServer", "metadata": {"name": "corp"},
        "spec": whole
    })
}

fn local() -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAuthorizationServer", "metadata": {"name": "local"},
        "spec": {"local": {}}
    })
}

fn read_anchor(document: &Value) -> Box<McpAuthorizationServer> {
    let Ok(Object::AuthorizationServer(object)) = object::read(document) else { panic!("{document}") };
    object
}

fn registration_of(spec: Value) -> Registration {
    registration(&read_anchor(&anchor(spec))).unwrap().unwrap()
}

/// A client of `corp` with this `spec.registration`.
fn client_with(registration: Value, spec: Value) -> Value {
    let mut whole = json!({"authorizationServer": "corp", "registration": registration});
    patch(&mut whole, spec);
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpClient",
        "metadata": {"name": "c", "namespace": "team", "uid": "0123456789"}, "spec": whole
    })
}

/// A client, resolved beside `corp`, the gateway's own issuer, a server, and a Secret `given`.
fn given(client_: &Value, corp: &Value) -> Result<Resolved<RegisteredClient>, Findings> {
    beside(client_, corp, "hunter2", "https://mcp.example.com")
}

fn beside(
    client_: &Value,
    corp: &Value,
    secret: &str,
    public_url: &str,
) -> Result<Resolved<RegisteredClient>, Findings> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "given", "namespace": "team"},
        "stringData": {"secret": secret}});
    let Ok(Object::Secret(secret)) = object::read(&secret) else { panic!("{secret}") };
    let scopes = json!({"authorization": {"servers": ["corp"], "scopes": {"baseline": ["mcp:use"]}}});
    let resolution = resolve(&[corp.clone(), local(), server_with(scopes)]);
    let Ok(Object::Client(object)) = object::read(client_) else { panic!("{:?}", object::read(client_)) };
    let (public_url, cluster) = (PublicUrl::parse(public_url).unwrap(), Cluster::presumed());
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: Some(&cluster) };
    let generated = resolution.generated.iter();
    let authorities = generated.filter_map(|g| if let Generated::Authority(a) = g { Some(a) } else { None });
    let registration = registration(&read_anchor(corp)).ok().flatten();
    let lookup = Lookup {
        authorities: authorities.map(|a| (a.id.name.as_str(), a)).collect(),
        registrations: registration.iter().map(|one| ("corp", one)).collect(),
        resolved: servers_of(&resolution).into_iter().map(|s| (("team", "s"), s)).collect(),
        secrets: [(("team", "given"), &secret)].into(),
        ..Lookup::default()
    };
    client(&McpClient::clone(&object), &settings, &lookup).map(|client| match client.object {
        ClientKind::Registered(object) => Resolved { object: *object, warnings: client.warnings },
        ClientKind::Token(client) => panic!("{client:?}"),
    })
}

fn desired(registration: Value, spec: Value) -> Desired {
    let resolved = given(&client_with(registration, spec), &anchor(json!({}))).unwrap();
    assert_eq!(resolved.warnings, []);
    resolved.object.desired.unwrap()
}

fn words(findings: &[Finding]) -> Vec<(&'static str, String)> {
    findings.iter().map(|finding| (finding.reason.as_str(), finding.field.to_string())).collect()
}

/// What is wrong with a client.
fn wrong(registration: Value, spec: Value) -> Vec<(&'static str, String)> {
    words(&given(&client_with(registration, spec), &anchor(json!({}))).err().unwrap_or_default())
}

#[test]
fn an_agent_that_speaks_for_itself_is_registered_with_a_key() {
    let desired = desired(json!({"servers": ["s"], "scopes": ["reports"]}), json!({}));
    assert_eq!((&*desired.authority, &*desired.issuer, desired.profile), ("corp", ISSUER, Profile::Keycloak));
    assert_eq!(desired.methods, [Method::Cimd, Method::Dcr]);
    assert_eq!((desired.client_id, desired.client_secret, desired.rotation), (None, None, None));
    assert_eq!(
        (&*desired.secret_name, &desired.resources[..]),
        ("c-client", &["https://mcp.example.com/team/s".into()][..])
    );
    let metadata = desired.metadata;
    assert_eq!((&*metadata.client_name, metadata.application_type), ("team/c", ApplicationType::Web));
    assert_eq!((metadata.grant_types, metadata.response_types), (vec!["client_credentials".to_owned()], vec![]));
    assert_eq!((metadata.auth_method, metadata.keys), (AuthMethod::PrivateKeyJwt, Keys::None));
    assert_eq!(metadata.scopes, ["mcp:use", "reports"]);
    let orphan = OnUnavailable::Orphan;
    let deletion = Deletion { policy: DeletionPolicy::Delete, timeout_seconds: 600, on_unavailable: orphan };
    assert_eq!(desired.deletion, deletion);
}

#[test]
fn a_tool_of_persons_is_registered_with_the_places_that_they_come_back_to() {
    let of = |uris: Value| desired(json!({"redirectUris": uris}), json!({})).metadata;
    let near = of(json!(["http://127.0.0.1/callback", "com.example.app:/callback"]));
    assert_eq!((near.application_type, near.auth_method), (ApplicationType::Native, AuthMethod::None));
    assert_eq!(
        (near.grant_types, near.response_types),
        (vec!["authorization_code".to_owned(), "refresh_token".to_owned()], vec!["code".to_owned()])
    );
    let far = of(json!(["https://ide.example/callback"]));
    assert_eq!((far.application_type, far.auth_method), (ApplicationType::Web, AuthMethod::PrivateKeyJwt));
}

#[test]
fn what_its_author_says_counts_over_what_would_be_chosen() {
    let spec = json!({
        "clientName": "Reports", "applicationType": "Native", "redirectUris": ["https://app.example/cb"],
        "grantTypes": ["authorization_code"], "tokenEndpointAuthMethod": "client_secret_post", "secretName": "mine",
        "rotation": {"period": "720h"}, "deletion": {"timeout": "1h", "onUnavailable": "Block"}
    });
    let of = desired(spec, json!({"method": "DCR"}));
    assert_eq!((&of.methods[..], &*of.secret_name), (&[Method::Dcr][..], "mine"));
    assert_eq!(of.rotation, Some(Rotation { period_seconds: 720 * 3600, overlap_seconds: 24 * 3600 }));
    assert_eq!((of.deletion.timeout_seconds, of.deletion.on_unavailable), (3600, OnUnavailable::Block));
    assert_eq!((&*of.metadata.client_name, of.metadata.application_type), ("Reports", ApplicationType::Native));
    assert_eq!((of.metadata.auth_method, of.metadata.grant_types.len()), (AuthMethod::ClientSecretPost, 1));
    // A document that everybody reads is for no shared secret.
    let shared = desired(json!({"tokenEndpointAuthMethod": "client_secret_basic"}), json!({}));
    assert_eq!(shared.methods, [Method::Admin, Method::Dcr]);
    let short = desired(json!({"rotation": {"period": "2h"}}), json!({}));
    assert_eq!(short.rotation.map(|rotation| rotation.overlap_seconds), Some(3600));
    let retained = desired(json!({"deletion": {"policy": "Retain"}}), json!({}));
    assert_eq!(retained.deletion.policy, DeletionPolicy::Retain);
}

#[test]
fn a_client_that_has_an_id_keeps_it() {
    let known = json!({"clientId": "reports", "clientSecretRef": {"name": "given", "key": "secret"}});
    let of = desired(known, json!({"method": "Preregistered"}));
    assert_eq!((of.methods, of.client_id.as_deref()), (vec![Method::Preregistered], Some("reports")));
    assert_eq!(of.client_secret, Some(SecretKey { name: "given".into(), key: "secret".into() }));
    assert_eq!(of.metadata.auth_method, AuthMethod::ClientSecretBasic);
    let public = desired(json!({"clientId": "ide"}), json!({"method": "Preregistered"}));
    assert_eq!((public.metadata.auth_method, public.metadata.grant_types), (AuthMethod::None, vec![]));
    let own = "https://ide.example/client.json";
    let document = desired(json!({"clientId": own}), json!({"method": "CIMD"}));
    assert_eq!((document.methods, document.client_id.as_deref()), (vec![Method::Cimd], Some(own)));
}

#[test]
fn a_secret_that_its_author_gives_is_handed_on_and_shown_to_nobody() {
    let of = |secret: &str, key: &str, name: &str| {
        let registration = json!({"clientId": "a", "clientSecretRef": {"name": name, "key": key}});
        let client = client_with(registration, json!({"method": "Preregistered"}));
        beside(&client, &anchor(json!({})), secret, "https://mcp.example.com").unwrap()
    };
    let resolved = of("hunter2", "secret", "given");
    assert_eq!(resolved.object.given.as_ref().map(|secret| secret.expose()), Some("hunter2"));
    assert!(!format!("{resolved:?}").contains("hunter2"));
    // Editors end a line where its author wrote one word.
    let resolved = of("hunter2\n", "secret", "given");
    assert_eq!(resolved.object.given.as_ref().map(|secret| secret.expose()), Some("hunter2"));
    let long = "s".repeat(4097);
    for (reason, secret, key, name) in [
        ("SecretNotFound", "hunter2", "secret", "absent"),
        ("SecretNotFound", "hunter2", "absent", "given"),
        ("SecretInvalid", "hunter\n2", "secret", "given"),
        ("SecretInvalid", "\n", "secret", "given"),
        ("SecretInvalid", "", "secret", "given"),
        ("SecretInvalid", &*long, "secret", "given"),
        ("SecretInvalid", "h\u{fc}nter2", "secret", "given"),
    ] {
        let resolved = of(secret, key, name);
        assert_eq!(words(&resolved.warnings), [(reason, "spec.registration.clientSecretRef".to_owned())]);
        assert!(resolved.object.desired.is_err() && resolved.object.given.is_none(), "{reason}");
        assert!(!format!("{resolved:?}").contains("nter2"), "{reason}");
    }
}

#[test]
fn a_secret_is_tried_by_the_grant_that_leads_to_no_person_and_by_no_other() {
    let tried = json!({"clientId": "a", "clientSecretRef": {"name": "given", "key": "secret"},
        "grantTypes": ["client_credentials"]});
    let of = desired(tried.clone(), json!({"method": "Preregistered"}));
    assert_eq!(
        (of.metadata.grant_types, of.asked),
        (vec!["client_credentials".to_owned()], Some(Method::Preregistered))
    );
    let refused = |spec: Value, method: &str| wrong(spec, json!({"method": method}));
    let at_grants = [("ChoiceInvalid", "spec.registration.grantTypes".to_owned())];
    let mut more = tried;
    more["grantTypes"] = json!(["authorization_code"]);
    assert_eq!(refused(more, "Preregistered"), at_grants);
    let nothing = json!({"clientId": "a", "grantTypes": ["client_credentials"]});
    assert_eq!(refused(nothing, "Preregistered"), at_grants, "there is nothing to try");
    let own = json!({"clientId": "https://ide.example/c", "grantTypes": ["client_credentials"]});
    assert_eq!(refused(own, "CIMD"), at_grants);
}

#[test]
fn a_document_is_served_by_a_gateway_that_is_reached_by_https_and_as_long_as_its_object_is_there() {
    let of = desired(json!({}), json!({"method": "CIMD"}));
    assert_eq!((of.gateway.as_deref(), of.asked), (Some("https://mcp.example.com"), Some(Method::Cimd)));
    let plain = client_with(json!({}), json!({}));
    let near = beside(&plain, &anchor(json!({})), "x", "http://127.0.0.1:8420").unwrap().object.desired.unwrap();
    assert_eq!(near.gateway, None);
    let retained = json!({"deletion": {"policy": "Retain"}});
    let at_deletion = [("ChoiceInvalid", "spec.registration.deletion".to_owned())];
    assert_eq!(wrong(retained.clone(), json!({"method": "CIMD"})), at_deletion);
    assert_eq!(desired(retained, json!({})).methods, [Method::Admin, Method::Dcr]);
}

fn jwk() -> Value {
    let coordinate = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    json!({"kty": "EC", "crv": "P-256", "x": coordinate, "y": coordinate, "kid": "one", "use": "sig", "alg": "ES256"})
}

/// The administrative API has no request that would give a client scopes when it is made and when it is changed.
#[test]
fn scopes_of_its_own_are_for_no_client_by_the_administrative_api() {
    let scopes = json!({"scopes": ["offline_access"]});
    assert_eq!(desired(scopes.clone(), json!({})).methods, [Method::Cimd, Method::Dcr]);
    let at_scopes = [("ChoiceInvalid", "spec.registration.scopes".to_owned())];
    assert_eq!(wrong(scopes.clone(), json!({"method": "Admin"})), at_scopes);
    // Those that its servers ask for come from the realm.
    assert_eq!(desired(json!({"servers": ["s"]}), json!({"method": "Admin"})).methods, [Method::Admin]);
    let alone = json!({"registration": {"methods": ["Admin"]}});
    let finding = given(&client_with(scopes, json!({})), &anchor(alone)).unwrap().object.desired.unwrap_err();
    assert_eq!(words(&[finding]), [("MethodNotAllowed", "spec.registration.scopes".to_owned())]);
}

#[test]
fn own_keys_are_registered_as_they_are() {
    let of = desired(json!({"jwks": {"keys": [jwk()]}}), json!({}));
    assert_eq!(of.metadata.keys, Keys::Inline(json!({"keys": [jwk()]})));
    let of = desired(json!({"jwksUri": "https://app.example/jwks.json"}), json!({}));
    assert_eq!(of.metadata.keys, Keys::At("https://app.example/jwks.json".into()));
    let modulus = "A".repeat(342);
    for key in
        [json!({"kty": "RSA", "n": modulus, "e": "AQAB"}), json!({"kty": "OKP", "crv": "Ed25519", "x": jwk()["x"]})]
    {
        assert_eq!(wrong(json!({"jwks": {"keys": [key]}}), json!({})), []);
    }
}

#[test]
fn keys_that_are_not_public_are_refused_and_never_shown() {
    const CANARY: &str = "Y2FuYXJ5LW9mLWEtcHJpdmF0ZS1rZXktdGhhdC1sZWFr";
    for member in ["d", "p", "q", "dp", "dq", "qi", "k"] {
        let mut key = jwk();
        key[member] = json!(CANARY);
        let document = client_with(json!({"jwks": {"keys": [key]}}), json!({}));
        let findings = given(&document, &anchor(json!({}))).unwrap_err();
        assert_eq!(words(&findings), [("KeysInvalid", format!("spec.registration.jwks.keys[0].{member}"))]);
        assert!(!format!("{findings:?} {}", findings[0]).contains(CANARY));
        let Ok(read) = object::read(&document) else { panic!() };
        assert!(!format!("{read:?}").contains(CANARY), "a Debug output is a log");
    }
    for (member, change) in [
        ("kty", json!({"kty": "oct"})),
        ("kty", json!({"kty": null})),
        ("crv", json!({"crv": "secp256k1"})),
        ("x", json!({"x": "AAAA"})),
        ("y", json!({"y": null})),
        ("use", json!({"use": "enc"})),
        ("alg", json!({"alg": "HS256"})),
        ("alg", json!({"alg": "none"})),
        ("n", json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"})),
        ("e", json!({"kty": "RSA", "n": "A".repeat(342)})),
    ] {
        let mut key = jwk();
        patch(&mut key, change.clone());
        let found = wrong(json!({"jwks": {"keys": [key]}}), json!({}));
        assert_eq!(found, [("KeysInvalid", format!("spec.registration.jwks.keys[0].{member}"))], "{change}");
    }
    let twins = wrong(json!({"jwks": {"keys": [jwk(), jwk()]}}), json!({}));
    assert_eq!(twins, [("KeysInvalid", "spec.registration.jwks.keys[1].kid".to_owned())]);
}

#[test]
fn what_is_wrong_in_a_registration_is_named_where_it_stands() {
    let callback = || json!(["https://app.example/cb"]);
    for (reason, field, registration) in [
        ("RedirectUriInvalid", "redirectUris[1]", json!({"redirectUris": ["https://a.example/", "http://a.example/"]})),
        ("RedirectUriInvalid", "redirectUris[0]", json!({"redirectUris": ["https://a.example/*"]})),
        ("GrantTypesInvalid", "grantTypes", json!({"grantTypes": ["authorization_code"]})),
        ("GrantTypesInvalid", "grantTypes", json!({"grantTypes": ["client_credentials", "refresh_token"]})),
        ("GrantTypesInvalid", "grantTypes", json!({"redirectUris": callback(), "grantTypes": ["client_credentials"]})),
        (
            "GrantTypesInvalid",
            "grantTypes",
            json!({
                "redirectUris": callback(), "grantTypes": ["authorization_code", "client_credentials"]
            }),
        ),
        ("ValueInvalid", "redirectUris", json!({"redirectUris": ["https://a.example/", "http://127.0.0.1/"]})),
        ("ValueInvalid", "applicationType", json!({"applicationType": "Web", "redirectUris": ["http://127.0.0.1/"]})),
        ("AuthMethodInvalid", "tokenEndpointAuthMethod", json!({"tokenEndpointAuthMethod": "none"})),
        (
            "AuthMethodInvalid",
            "tokenEndpointAuthMethod",
            json!({
                "redirectUris": callback(), "tokenEndpointAuthMethod": "none", "jwksUri": "https://app.example/jwks.json"
            }),
        ),
        ("ChoiceInvalid", "jwks", json!({"jwks": {"keys": [jwk()]}, "jwksUri": "https://app.example/jwks.json"})),
        ("KeysInvalid", "jwksUri", json!({"jwksUri": "http://127.0.0.1/jwks.json"})),
        ("ScopeInvalid", "scopes[1]", json!({"scopes": ["offline_access", "a b"]})),
        ("ValueInvalid", "secretName", json!({"secretName": "No"})),
        ("ValueInvalid", "clientName", json!({"clientName": "Reports\u{202e}"})),
        ("ClientIdInvalid", "clientId", json!({"clientId": "reports"})),
        ("BoundsExceeded", "rotation.period", json!({"rotation": {"period": "59m"}})),
        ("BoundsExceeded", "rotation.overlap", json!({"rotation": {"period": "2h", "overlap": "61m"}})),
        ("DurationInvalid", "rotation.period", json!({"rotation": {"period": "30 days"}})),
        ("ChoiceInvalid", "rotation", json!({"redirectUris": ["http://[::1]/"], "rotation": {"period": "720h"}})),
        (
            "ChoiceInvalid",
            "rotation",
            json!({
                "jwksUri": "https://app.example/jwks.json", "rotation": {"period": "720h"}
            }),
        ),
        ("BoundsExceeded", "deletion.timeout", json!({"deletion": {"timeout": "169h"}})),
        ("BoundsExceeded", "deletion.timeout", json!({"deletion": {"timeout": "0s"}})),
        ("ChoiceInvalid", "deletion", json!({"deletion": {"policy": "Retain", "timeout": "1h"}})),
    ] {
        let found = wrong(registration.clone(), json!({}));
        assert_eq!(found, [(reason, format!("spec.registration.{field}"))], "{registration}");
    }
}

#[test]
fn what_does_not_fit_a_method_is_named_where_it_stands() {
    let own = || json!("https://ide.example/client.json");
    for (reason, field, method, registration) in [
        ("ClientIdInvalid", "clientId", "Preregistered", json!({})),
        ("ClientIdInvalid", "clientId", "Preregistered", json!({"clientId": "a\u{7f}"})),
        ("ClientIdInvalid", "clientId", "DCR", json!({"clientId": "a", "tokenEndpointAuthMethod": "none"})),
        ("ClientIdInvalid", "clientId", "CIMD", json!({"clientId": "https://ide.example/"})),
        ("ClientIdInvalid", "clientId", "CIMD", json!({"clientId": "https://ide.example/c?x=1"})),
        ("ClientIdInvalid", "clientId", "CIMD", json!({"clientId": "http://localhost/c"})),
        ("ClientIdInvalid", "clientId", "CIMD", json!({"clientId": "https://ide.example/a/../c"})),
        (
            "AuthMethodInvalid",
            "tokenEndpointAuthMethod",
            "CIMD",
            json!({
                "clientId": own(), "tokenEndpointAuthMethod": "client_secret_basic"
            }),
        ),
        (
            "AuthMethodInvalid",
            "clientSecretRef",
            "Preregistered",
            json!({
                "clientId": "a", "tokenEndpointAuthMethod": "client_secret_post"
            }),
        ),
        (
            "AuthMethodInvalid",
            "tokenEndpointAuthMethod",
            "Preregistered",
            json!({
                "clientId": "a", "tokenEndpointAuthMethod": "none", "clientSecretRef": {"name": "s", "key": "k"}
            }),
        ),
        (
            "ValueInvalid",
            "secretName",
            "Preregistered",
            json!({
                "clientId": "a", "secretName": "s", "clientSecretRef": {"name": "s", "key": "k"}
            }),
        ),
        ("ChoiceInvalid", "clientName", "Preregistered", json!({"clientId": "a", "clientName": "A"})),
        ("ChoiceInvalid", "redirectUris", "CIMD", json!({"clientId": own(), "redirectUris": ["https://a.example/"]})),
        ("ChoiceInvalid", "deletion", "Preregistered", json!({"clientId": "a", "deletion": {}})),
    ] {
        let found = wrong(registration.clone(), json!({"method": method}));
        assert_eq!(found, [(reason, format!("spec.registration.{field}"))], "{method} {registration}");
    }
    let after = wrong(json!({}), json!({"validAfter": "2026-01-01T00:00:00Z"}));
    assert_eq!(after, [("ChoiceInvalid", "spec.validAfter".to_owned())]);
}

#[test]
fn what_depends_on_others_hinders_the_registration_with_a_warning() {
    let hindered = |registration: Value, spec: Value, corp: Value| {
        let resolved = given(&client_with(registration, spec), &anchor(corp)).unwrap();
        let why = resolved.object.desired.err().map(|finding| finding.reason.as_str());
        (words(&resolved.warnings), why)
    };
    let found = |reason: &'static str, field: &str| (vec![(reason, field.to_owned())], Some(reason));
    let no_methods = || json!({"registration": null});
    let only = |method: &str| json!({"registration": {"methods": [method], "adminCredentialRef": null}});
    let shared = || json!({"tokenEndpointAuthMethod": "client_secret_basic"});
    for (want, registration, spec, corp) in [
        (
            found("AuthorityNotFound", "spec.authorizationServer"),
            json!({}),
            json!({"authorizationServer": "x"}),
            json!({}),
        ),
        (
            found("AuthorityRegistersNobody", "spec.authorizationServer"),
            json!({}),
            json!({"authorizationServer": "local"}),
            json!({}),
        ),
        (found("MethodNotAllowed", "spec.method"), json!({}), json!({"method": "DCR"}), only("CIMD")),
        (found("MethodNotAllowed", "spec.authorizationServer"), json!({}), json!({}), no_methods()),
        (found("MethodNotAllowed", "spec.registration.tokenEndpointAuthMethod"), shared(), json!({}), only("CIMD")),
    ] {
        assert_eq!(hindered(registration, spec, corp), want);
    }
    // Somebody has registered it by hand: nobody has to allow that.
    let by_hand = hindered(json!({"clientId": "a"}), json!({"method": "Preregistered"}), no_methods());
    assert_eq!(by_hand, (vec![], None));
    // A server that is not there keeps nobody from being registered.
    let (missing, why) = hindered(json!({"servers": ["s", "x"]}), json!({}), json!({}));
    assert_eq!((missing, why), (vec![("ServerNotFound", "spec.registration.servers[1]".to_owned())], None));
    let (risky, why) = hindered(json!({"redirectUris": ["http://localhost:1/"]}), json!({}), json!({}));
    assert_eq!((risky, why), (vec![("RedirectUriLocalhost", "spec.registration.redirectUris[0]".to_owned())], None));
}

#[test]
fn an_administrator_says_how_clients_are_registered() {
    let of = registration_of(json!({"registration": {"initialAccessTokenRef": {"name": "iat", "key": "token"}}}));
    assert_eq!((&*of.issuer, of.profile), (ISSUER, Profile::Keycloak));
    assert_eq!(of.methods, [Method::Admin, Method::Cimd, Method::Dcr]);
    assert_eq!(of.initial_access_token, Some(SecretKey { name: "iat".into(), key: "token".into() }));
    let url = "https://sso.example.com/admin/realms/corp".to_owned();
    assert_eq!(of.admin, Some(Admin { credential: "keycloak-admin".into(), url }));
    for (change, url) in [
        (json!({"issuer": "https://sso.example.com/auth/realms/a"}), "https://sso.example.com/auth/admin/realms/a"),
        (
            json!({"registration": {"adminUrl": "https://sso.example.com:443/admin/realms/b/"}}),
            "https://sso.example.com:443/admin/realms/b",
        ),
    ] {
        assert_eq!(registration_of(change).admin.unwrap().url, url);
    }
    let plain = registration_of(json!({"profile": null, "registration": null}));
    assert_eq!((plain.profile, plain.methods, plain.admin), (Profile::Generic, vec![], None));
    assert_eq!(registration(&read_anchor(&local())), Ok(None));
}

#[test]
fn what_is_wrong_with_how_clients_are_registered_is_named_where_it_stands() {
    for (reason, field, change) in [
        ("NotYetEnforced", "spec.profile", json!({"profile": "Okta", "registration": null})),
        ("RegistrationInvalid", "spec.registration.methods", json!({"profile": "Generic"})),
        (
            "RegistrationInvalid",
            "spec.registration.adminCredentialRef",
            json!({"registration": {"adminCredentialRef": null}}),
        ),
        ("RegistrationInvalid", "spec.registration.adminCredentialRef", json!({"registration": {"methods": ["CIMD"]}})),
        (
            "RegistrationInvalid",
            "spec.registration.initialAccessTokenRef",
            json!({
                "registration": {"methods": ["Admin"], "initialAccessTokenRef": {"name": "iat", "key": "token"}}
            }),
        ),
        ("RegistrationInvalid", "spec.registration.adminUrl", json!({"issuer": "https://sso.example.com/corp"})),
        (
            "RegistrationInvalid",
            "spec.registration.adminUrl",
            json!({"registration": {"adminUrl": "https://evil.example/admin"}}),
        ),
        (
            "RegistrationInvalid",
            "spec.registration.adminUrl",
            json!({"registration": {"adminUrl": "https://sso.example.com:8443/"}}),
        ),
        (
            "RegistrationInvalid",
            "spec.registration.adminUrl",
            json!({"registration": {"adminUrl": "https://sso.example.com/?x=1"}}),
        ),
        (
            "ValueInvalid",
            "spec.registration.adminCredentialRef.name",
            json!({"registration": {"adminCredentialRef": {"name": "No"}}}),
        ),
        ("ChoiceInvalid", "spec.registration", json!({"issuer": null, "local": {}, "profile": null})),
        ("ChoiceInvalid", "spec.profile", json!({"issuer": null, "local": {}, "registration": null})),
    ] {
        let document = anchor(change.clone());
        let found = found(&resolve(std::slice::from_ref(&document)));
        assert_eq!(found, [(reason, field.to_owned())], "{change}");
        assert!(registration(&read_anchor(&document)).is_err(), "{change}");
    }
}

/// What proxies read is made for strangers' tokens, and lies where every proxy can read it.
#[test]
fn what_proxies_read_says_nothing_of_registration() {
    let resolution = resolve(&[anchor(json!({}))]);
    assert_eq!(found(&resolution), []);
    let encoded = crate::generated::codec::encode(&resolution.generated[0]).unwrap();
    let text = String::from_utf8(encoded).unwrap();
    assert!(text.contains(ISSUER) && !text.contains("keycloak-admin") && !text.contains("/admin/"), "{text}");
}

#[test]
fn a_policy_may_name_a_client_once_its_id_is_known() {
    let ruled = |effect: &str, client: Value| {
        let mut policy = policy_with(effect, json!({"principals": [{"mcpClients": ["c"]}]}));
        patch(&mut policy, json!({"spec": {"authority": "corp"}}));
        let resolution = resolve(&[anchor(json!({})), server_with(json!({})), client, policy]);
        let entry = policies_of(&resolution)[0].rules[0].principals[0].clone();
        (entry.any, entry.via, found(&resolution).iter().any(|(reason, _)| *reason == "ClientNotFound"))
    };
    let known = || client_with(json!({"clientId": "reports"}), json!({"method": "Preregistered"}));
    let unknown = || client_with(json!({}), json!({"method": "DCR"}));
    assert_eq!(ruled("Allow", known()), (false, vec!["reports".to_owned()], false));
    assert_eq!(ruled("Deny", known()), (false, vec!["reports".to_owned()], false));
    let (any, ids, missing) = ruled("Allow", unknown());
    assert!(!any && missing && ids.iter().all(|id| id.contains('\u{7f}')), "{ids:?}");
    assert_eq!(ruled("Deny", unknown()), (true, vec![], true));
}

#[test]
fn a_server_that_takes_the_issuers_tokens_takes_those_for_itself_and_for_what_is_allowed_besides() {
    let trusting = json!({"servers": ["corp"], "audiences": ["guid"], "scopes": {"baseline": ["mcp:use"]}});
    let server = server_with(json!({ "authorization": trusting }));
    let resolution = resolve(&[anchor(json!({"allowedAudiences": ["guid", "other"]})), local(), server]);
    let generated = resolution.generated.iter();
    let authorities = generated.filter_map(|g| if let Generated::Authority(a) = g { Some(a) } else { None });
    let lookup = Lookup { authorities: authorities.map(|a| (a.id.name.as_str(), a)).collect(), ..Lookup::default() };
    let servers = servers_of(&resolution);
    let [target] = crate::resolve::registered::targets(&servers, "corp", &lookup).try_into().unwrap();
    assert_eq!((&*target.server, &*target.resource), ("s", &*servers[0].resource));
    assert_eq!((target.accepted, target.scopes), (vec![target.resource, "guid".into()], vec!["mcp:use".into()]));
    assert!(crate::resolve::registered::targets(&servers, "local", &lookup).is_empty());
}
