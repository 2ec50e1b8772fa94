//! A registered client as the credential of an upstream.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use portcullis::controller::conditions::role_binding;
use portcullis::egress::{Egress, Policy};
use portcullis::generated::codec::Generated;
use portcullis::generated::server::{Credentials, Proof, State};
use portcullis::upstream::Upstream;
use serde_json::{Value, json};

use super::place::{Place, Way};
use crate::controller::{ACCOUNT, Controller, VERSION, generated_of, message, object, wait_condition};
use crate::support::kube::SYSTEM;
use crate::support::resource_server::ResourceServer;
use crate::support::runtime;
use crate::support::wait::until;

const NOTES: (&str, Option<&str>, &str) = ("McpServer", Some("team"), "notes");

/// What proxies are given of it, if it can be called.
fn given(place: &Place) -> Option<portcullis::generated::Server> {
    let server = object(&place.cluster, NOTES.0, NOTES.1, NOTES.2)?;
    match generated_of(&place.cluster, "server", &server)? {
        Generated::Server(server) => Some(server),
        other => panic!("{other:?}"),
    }
}

/// Calls the upstream with what proxies are given.
fn called(server: &portcullis::generated::Server) -> u16 {
    let allowed = Policy { allow_private: "127.0.0.0/8".parse().unwrap(), ..Policy::default() };
    let upstream = Upstream::new(&server.upstream, &Egress::new(allowed).unwrap()).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("accept", HeaderValue::from_static("application/json, text/event-stream"));
    let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    let call = upstream.call(None, body, |body| upstream.request(Method::POST, &headers, body));
    runtime().block_on(call).unwrap().status().as_u16()
}

fn server(upstream: &ResourceServer) -> Value {
    json!({"apiVersion": VERSION, "kind": "McpServer", "metadata": {"namespace": "team", "name": "notes"},
        "spec": {"upstream": {"url": upstream.url(), "credentials": {"oauth": {"client": "reports"}}},
            "authorization": {"servers": ["corp"]}}})
}

#[test]
fn a_client_that_is_registered_is_what_a_server_is_called_as_until_its_upstream_names_another_issuer() {
    let place = Place::with(Way::ProviderDcr, &json!({"resourcePrefix": "http://127.0.0.1"}));
    let upstream = ResourceServer::start(&place.house.issuer(), &place.house.endpoint("jwks_uri"));
    place.cluster.apply(&server(&upstream));
    let options = ["--no-inventory", "--trust-every", "1s"];
    let controller = Controller::start_with(&place.cluster, &options);

    // In the order of what is missing.
    wait_condition(&place.cluster, NOTES, ("ResolvedRefs", "False", "UpstreamClientUnfit"));
    place.apply(&json!({}));
    place.wait_ready();
    let reader = role_binding("portcullis-secret-reader", "team", (SYSTEM, ACCOUNT));
    place.cluster.apply_yaml(reader.split_once("applies:\n").unwrap().1);
    wait_condition(&place.cluster, NOTES, ("ResolvedRefs", "True", "ResolvedRefs"));
    let served = until("what proxies are given", || given(&place).filter(|server| server.state == State::Enabled));
    let Credentials::Oauth(oauth) = &served.upstream.credentials else { panic!("{:?}", served.upstream.credentials) };
    assert_eq!(
        (oauth.issuer.clone(), oauth.token_endpoint.clone()),
        (place.house.issuer(), place.house.endpoint("token_endpoint"))
    );
    assert!(matches!(&oauth.proof, Proof::Key(_)) && oauth.client_id == place.credentials()["client_id"]);
    assert_ne!(called(&served), 401);

    // Silence changes nothing, and neither does another controller.
    upstream.rules().is_silent = true;
    until("silence to be told", || {
        let server = object(&place.cluster, NOTES.0, NOTES.1, NOTES.2)?;
        message(&server, "Accepted").contains("UpstreamTrustUnconfirmed").then_some(())
    });
    controller.stop();
    let controller = Controller::start_with(&place.cluster, &options);
    controller.wait_leading();
    until("it to be looked at", || (controller.looks("McpServer") >= 2.0).then_some(()));
    assert_eq!(given(&place).unwrap().state, State::Enabled);
    upstream.rules().is_silent = false;

    // Nothing of the client is given to anybody once the upstream names another issuer.
    upstream.rules().named = vec!["https://elsewhere.example".to_owned()];
    let closed = wait_condition(&place.cluster, NOTES, ("ResolvedRefs", "False", "IssuerChanged"));
    let told = message(&closed, "ResolvedRefs");
    assert!(told.contains("https://elsewhere.example") && told.contains(&place.house.issuer()), "{told}");
    let server = until("the proxies to be told", || given(&place).filter(|server| server.state != State::Enabled));
    assert_eq!(server.upstream.credentials, Credentials::None);
    upstream.rules().named.push(place.house.issuer());
    wait_condition(&place.cluster, NOTES, ("ResolvedRefs", "True", "ResolvedRefs"));
    let log = controller.process.stderr();
    for line in place.credentials()["private_key.pem"].lines().filter(|line| !line.starts_with("-----")) {
        assert!(!log.contains(line) && !told.contains(line));
    }
}
