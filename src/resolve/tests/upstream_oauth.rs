//! As whom the gateway gets tokens for an upstream, and what keeps it from that.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::*;
use crate::{
    api::Kind,
    generated::server::{Credentials, Grant, Oauth, Proof, State},
    oauth::{
        client_key::ClientKey,
        upstream_trust::{Known, Question, Trust},
    },
};

const ISSUER: &str = "https://corp.example.com";
const URL: &str = "https://vendor.example/mcp";

fn server_of(oauth: Value) -> Value {
    let mut whole = json!({"client": "c"});
    patch(&mut whole, oauth);
    server_with(json!({"upstream": {"credentials": {"none": null, "oauth": whole}}}))
}

fn client_of(spec: Value) -> Value {
    let mut whole = json!({"authorizationServer": "corp", "method": "Preregistered", "registration": {
        "clientId": "gateway", "clientSecretRef": {"name": "given", "key": "secret"}}});
    patch(&mut whole, spec);
    json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpClient",
        "metadata": {"name": "c", "namespace": "team"}, "spec": whole})
}

fn secret(name: &str, values: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "team"}, "stringData": values})
}

fn given() -> Value {
    secret("given", json!({"secret": "hunter2"}))
}

fn key() -> Key {
    Key { kind: Kind::McpServer, namespace: "team".into(), name: "s".into() }
}

fn question() -> Question {
    Question {
        url: URL.into(),
        resource: URL.into(),
        ca_pem: None,
        server_name: None,
        issuer: ISSUER.into(),
        issuer_ca_pem: None,
    }
}

fn holds() -> Option<Trust> {
    Some(Trust::Holds { token_endpoint: "https://corp.example.com/token".into() })
}

/// What these come to for a gateway that stands alone, whose upstream has said this.
fn alone(documents: &[Value], known: Option<Known>) -> Resolution {
    let objects: Vec<Object> = documents.iter().map(|document| object::read(document).unwrap()).collect();
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: None };
    let known: BTreeMap<Key, Known> = known.into_iter().map(|known| (key(), known)).collect();
    let observed = Observed { discovered: Some(&known), ..Observed::default() };
    tree(&settings, &objects, &BTreeMap::new(), false, &Accepted::default(), observed)
}

fn known(trust: Option<Trust>) -> Option<Known> {
    Some(Known { trust, ..Known::nothing(question()) })
}

fn oauth_of(resolution: &Resolution) -> &Oauth {
    let [server] = servers_of(resolution)[..] else { panic!("{:?}", resolution.findings) };
    assert_eq!(server.state, State::Enabled, "{:?}", resolution.findings);
    let Credentials::Oauth(oauth) = &server.upstream.credentials else { panic!() };
    oauth
}

/// The reason for which nothing is served, which is told with a remedy.
fn closed(resolution: &Resolution) -> String {
    let [server] = servers_of(resolution)[..] else { panic!("{:?}", resolution.findings) };
    let State::Unserved { reason, message } = &server.state else { panic!("{:?}", server.state) };
    assert_eq!(server.upstream.credentials, Credentials::None);
    assert!(message.contains("spec.upstream.credentials.oauth") && !message.contains("hunter2"), "{message}");
    reason.clone()
}

#[test]
fn a_client_with_a_secret_in_the_manifests_is_what_a_gateway_calls_as() {
    let documents = [authority_named("corp"), server_of(json!({"scopes": ["read"]})), client_of(json!({})), given()];
    let resolution = alone(&documents, known(holds()));
    assert_eq!(found(&resolution), []);
    assert_eq!(resolution.questions, BTreeMap::from([(key(), question())]));
    let expected = Oauth {
        issuer: ISSUER.into(),
        ca_pem: None,
        token_endpoint: "https://corp.example.com/token".into(),
        client_id: "gateway".into(),
        proof: Proof::Basic(Sensitive::new("hunter2")),
        grant: Grant::ClientCredentials,
        scopes: vec!["read".into()],
        resource: URL.into(),
        says_resource: true,
    };
    assert_eq!(oauth_of(&resolution), &expected);
    // In the body, and at a server that is not told of resources.
    let mut keycloak = authority_named("corp");
    keycloak["spec"]["profile"] = "Keycloak".into();
    let post = client_of(json!({"registration": {"tokenEndpointAuthMethod": "client_secret_post"}}));
    let resolution = alone(&[keycloak, server_of(json!({})), post, given()], known(holds()));
    let oauth = oauth_of(&resolution);
    assert_eq!((oauth.proof.clone(), oauth.says_resource), (Proof::Post(Sensitive::new("hunter2")), false));
}

#[test]
fn a_key_is_read_from_the_clients_secret_as_it_is_written_there() {
    let pkcs8 = ClientKey::generate().unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(&pkcs8));
    let client =
        client_of(json!({"registration": {"clientSecretRef": null, "tokenEndpointAuthMethod": "private_key_jwt"}}));
    let with = |values: Value| {
        let documents = [authority_named("corp"), server_of(json!({})), client.clone(), secret("c-client", values)];
        alone(&documents, known(holds()))
    };
    let resolution = with(json!({"private_key.pem": pem, "issuer": ISSUER}));
    assert_eq!(oauth_of(&resolution).proof, Proof::Key(Sensitive::new(BASE64_STANDARD.encode(&pkcs8))));
    assert_eq!(closed(&with(json!({"private_key.pem": "hunter2"}))), "SecretInvalid");
    assert_eq!(closed(&with(json!({"client_secret": "hunter2"}))), "SecretNotFound");
    let other = with(json!({"private_key.pem": pem, "issuer": "https://other.example.com"}));
    assert_eq!(closed(&other), "UpstreamClientUnfit");
}

#[test]
fn who_cannot_be_the_client_closes_the_server_and_says_why() {
    let token = json!({"method": "Token", "registration": null, "token": {"subject": "ana", "servers": ["s"]}});
    let persons = json!({"method": "DCR", "registration": {"clientId": null, "clientSecretRef": null,
        "redirectUris": ["https://app.example/cb"]}});
    let public = json!({"registration": {"clientSecretRef": null}});
    let exchange = json!({"grant": "TokenExchange"});
    let elsewhere = json!({"authorizationServer": "partner"});
    for (word, oauth, client, cluster) in [
        ("no McpClient team/other", json!({"client": "other"}), json!({}), false),
        ("has the method Token", json!({}), token, true),
        ("logs persons in", json!({}), persons.clone(), true),
        ("registers no clients", json!({}), persons, false),
        ("is a public client", json!({}), public, false),
        ("no valid McpAuthorizationServer nowhere", json!({}), json!({"authorizationServer": "nowhere"}), false),
        ("at its own issuer only", exchange, elsewhere, false),
    ] {
        let mut anchor = authority_named("corp");
        anchor["spec"]["registration"] = json!({"methods": ["DCR"]});
        let documents = [anchor, authority_named("partner"), server_of(oauth), client_of(client), given()];
        let resolution = if cluster { resolve(&documents) } else { alone(&documents, known(holds())) };
        assert_eq!(closed(&resolution), "UpstreamClientUnfit", "{word}");
        let [server] = servers_of(&resolution)[..] else { panic!() };
        assert!(
            matches!(&server.state, State::Unserved { message, .. } if message.contains(word)),
            "{:?}",
            server.state
        );
        assert!(resolution.questions.is_empty());
    }
}

#[test]
fn a_misspelled_client_is_told_with_the_nearest_of_its_namespace() {
    for (name, meant) in [("cc", Some("did you mean \"c\"?")), ("gateway", None)] {
        let documents = [authority_named("corp"), server_of(json!({"client": name})), client_of(json!({})), given()];
        let resolution = alone(&documents, known(holds()));
        let told: Vec<_> = resolution.findings.iter().map(|found| found.finding.remedy.clone()).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].contains("did you mean"), meant.is_some(), "{told:?}");
        assert!(meant.is_none_or(|meant| told[0].as_ref() == meant), "{told:?}");
    }
}

#[test]
fn a_callers_token_is_exchanged_at_an_issuer_of_callers() {
    for (word, grant) in [
        ("TokenExchange", Grant::TokenExchange { authority: "corp".into() }),
        ("JwtBearer", Grant::JwtBearer { authority: "corp".into() }),
    ] {
        let documents = [authority_named("corp"), server_of(json!({"grant": word})), client_of(json!({})), given()];
        let resolution = alone(&documents, known(holds()));
        let oauth = oauth_of(&resolution);
        assert_eq!((&oauth.grant, oauth.grant.callers_of()), (&grant, Some("corp")));
    }
}

#[test]
fn nothing_is_served_before_the_upstream_says_whom_it_trusts_or_once_it_trusts_others() {
    let documents = [authority_named("corp"), server_of(json!({})), client_of(json!({})), given()];
    let asked_something_else = Known {
        question: Question { issuer: "https://other.example.com".into(), ..question() },
        trust: holds(),
        failure: None,
    };
    let failed = Some(("FetchStatus".to_owned(), "status 404".to_owned()));
    for known in [
        None,
        known(None),
        Some(asked_something_else),
        Some(Known { failure: failed.clone(), ..Known::nothing(question()) }),
    ] {
        let resolution = alone(&documents, known);
        assert_eq!(closed(&resolution), "UpstreamNotDiscovered");
        assert_eq!(resolution.questions.len(), 1, "it is asked all the same");
    }
    let changed = Trust::Changed { issuers: vec!["https://evil.example".into()] };
    let resolution = alone(&documents, known(Some(changed)));
    assert_eq!(closed(&resolution), "IssuerChanged");
    let [server] = servers_of(&resolution)[..] else { panic!() };
    let State::Unserved { message, .. } = &server.state else { panic!() };
    assert!(message.contains("https://evil.example") && message.contains(ISSUER), "{message}");
    // Once it has said it, silence changes nothing, and is told.
    let silent = Some(Known { question: question(), trust: holds(), failure: failed });
    let resolution = alone(&documents, silent);
    assert_eq!(found(&resolution), [("UpstreamTrustUnconfirmed", "spec.upstream.credentials.oauth".to_owned())]);
    oauth_of(&resolution);
}

#[test]
fn a_resource_is_the_upstreams_url_or_a_parent_of_it() {
    let resource = |resource: &str| {
        let documents =
            [authority_named("corp"), server_of(json!({"resource": resource})), client_of(json!({})), given()];
        alone(&documents, None)
    };
    for good in [URL, "https://vendor.example", "https://vendor.example/"] {
        let resolution = resource(good);
        assert_eq!(resolution.questions[&key()].resource, good);
    }
    for bad in [
        "https://vendor.example/mc",
        "https://vendor.example/mcp/x",
        "https://other.example/mcp",
        "http://vendor.example/mcp",
    ] {
        let resolution = resource(bad);
        assert!(servers_of(&resolution).is_empty(), "{bad}");
        let field = "spec.upstream.credentials.oauth.resource".to_owned();
        assert!(found(&resolution).contains(&("CredentialsInvalid", field)), "{bad}: {:?}", found(&resolution));
    }
    let mut plain = server_of(json!({}));
    plain["spec"]["upstream"]["url"] = "http://vendor.example/mcp".into();
    let resolution = alone(&[authority_named("corp"), plain, client_of(json!({})), given()], None);
    let field = "spec.upstream.credentials.oauth.client".to_owned();
    assert!(found(&resolution).contains(&("CredentialsInvalid", field)), "{:?}", found(&resolution));
    let odd = [authority_named("corp"), server_of(json!({"scopes": ["a b"]})), client_of(json!({})), given()];
    assert!(found(&alone(&odd, None)).iter().any(|(reason, _)| *reason == "ScopeInvalid"));
}

#[test]
fn whoever_only_answers_questions_presumes_what_a_controller_makes_and_finds() {
    let mut anchor = authority_named("corp");
    anchor["spec"]["registration"] = json!({"methods": ["DCR"]});
    let made = client_of(json!({"method": null, "registration": {"clientId": null, "clientSecretRef": null}}));
    let resolution = resolve(&[anchor, server_of(json!({})), made]);
    assert_eq!(found(&resolution), []);
    oauth_of(&resolution);
    let documents = [authority_named("corp"), server_of(json!({})), client_of(json!({}))];
    let resolution = resolve(&documents);
    assert_eq!(closed(&resolution), "SecretNotFound");
    // What is wrong with the client is told at the client.
    let field = "spec.registration.clientSecretRef".to_owned();
    assert!(found(&resolution).contains(&("SecretNotFound", field)), "{:?}", found(&resolution));
}

/// Nobody who moves a trust anchor to another issuer learns secrets that were given for the one before.
#[test]
fn a_secret_that_was_given_goes_to_no_other_issuer_than_that_at_which_its_client_is_registered() {
    let documents = [authority_named("corp"), server_of(json!({})), client_of(json!({})), given()];
    let objects: Vec<Object> = documents.iter().map(|document| object::read(document).unwrap()).collect();
    let [Object::AuthorizationServer(corp), Object::Server(written), Object::Client(client), Object::Secret(secret)] =
        objects.as_slice()
    else {
        panic!("{objects:?}")
    };
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: None };
    let authority = authority(corp, &settings, &Lookup::default()).unwrap().object;
    let registration = registration(corp).unwrap().unwrap();
    let (place, known) = (("team", "c"), known(holds()).unwrap());
    let with = |issuers: Option<&[&str]>| {
        let issuers = issuers.map(|all| (place, all.iter().map(|one| (*one).to_owned()).collect()));
        let lookup = Lookup {
            authorities: BTreeMap::from([("corp", &authority)]),
            registrations: BTreeMap::from([("corp", &registration)]),
            client_objects: BTreeMap::from([(place, &**client)]),
            client_issuers: issuers.into_iter().collect(),
            secrets: BTreeMap::from([(("team", "given"), secret)]),
            discovered: Some(BTreeMap::from([(("team", "s"), &known)])),
            ..Lookup::default()
        };
        server(written, &settings, &lookup).unwrap().object
    };
    // Where it is not known yet, it is at the issuer of now; and what its author has agreed to is meant.
    for issuers in [None, Some([ISSUER].as_slice()), Some(&["https://before.example.com", ISSUER])] {
        assert!(matches!(with(issuers).upstream.credentials, Credentials::Oauth(_)), "{issuers:?}");
    }
    for issuers in [["https://before.example.com"].as_slice(), &["https://before.example.com", "https://b.example.com"]]
    {
        let server = with(Some(issuers));
        let State::Unserved { reason, message } = &server.state else { panic!("{:?}", server.state) };
        assert_eq!((reason.as_str(), &server.upstream.credentials), ("UpstreamClientUnfit", &Credentials::None));
        for part in ["McpClient c", "https://before.example.com", ISSUER] {
            assert!(message.contains(part), "no {part} in {message}");
        }
    }
}
