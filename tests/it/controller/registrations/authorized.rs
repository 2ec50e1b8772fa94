//! A server that is called as a registered client: controller, proxy, authorization server and upstream together.

use portcullis::controller::conditions::role_binding;
use serde_json::{Value, json};

use super::canary;
use super::place::{Place, Way};
use crate::chart::installed_with;
use crate::controller::whole::Proxy;
use crate::controller::{ACCOUNT, Controller, PUBLIC_URL, VERSION, message, object, policy, trust, wait_condition};
use crate::support::canary::{Secrets, assert_none};
use crate::support::fault::{Fault, Hop, Matching};
use crate::support::issuer::Issuer;
use crate::support::kube::SYSTEM;
use crate::support::resource_server::ResourceServer;
use crate::support::wait::until;

const NOTES: (&str, Option<&str>, &str) = ("McpServer", Some("team"), "notes");
const AUTHORIZED: &str = "UpstreamAuthorized";

/// All of it; whoever calls has tokens of an issuer that has nothing to do with the upstream's.
struct Whole {
    place: Place,
    upstream: ResourceServer,
    ana: String,
    proxy: Proxy,
    controller: Controller,
    _callers: Issuer,
}

impl Whole {
    fn start(way: Way, options: &Value) -> Self {
        Self::start_in(&[], way, options)
    }

    /// The same, of a controller and a proxy in this environment.
    fn start_in(environment: &[(&str, &str)], way: Way, options: &Value) -> Self {
        // The policies bind a proxy's Lease to its Pod, and there are no Pods here: another test's matter.
        let place = Place::on(installed_with("without-admission"), way, options);
        let upstream = ResourceServer::start(&place.house.issuer(), &place.house.endpoint("jwks_uri"));
        if place.house.is_keycloak() {
            let audience = json!({"included.custom.audience": upstream.url(), "access.token.claim": "true"});
            place.house.realm().default_scope("upstream", &[("oidc-audience-mapper", audience)]);
        }
        let callers = Issuer::start();
        let mut anchor = trust("callers");
        anchor["spec"]["issuer"] = json!(callers.url());
        let mut readers = policy("team", "readers", "notes", "echo");
        readers["spec"]["authority"] = "callers".into();
        let notes = json!({"apiVersion": VERSION, "kind": "McpServer",
            "metadata": {"namespace": "team", "name": "notes"},
            "spec": {"upstream": {"url": upstream.url(), "credentials": {"oauth": {"client": "reports"}}},
                "authorization": {"servers": ["callers"]}, "audit": {"delivery": "BestEffort"}}});
        let reader = role_binding("portcullis-secret-reader", "team", (SYSTEM, ACCOUNT));
        let kubeconfig = place.cluster.kubeconfig_of(SYSTEM, ACCOUNT);
        let arguments = ["--no-inventory", "--trust-every", "1s"];
        let controller = Controller::launch_in(PUBLIC_URL, &kubeconfig, environment, &arguments);
        let proxy = Proxy::start_in(&place.cluster, environment);
        place.cluster.apply_yaml(reader.split_once("applies:\n").unwrap().1);
        for one in [&anchor, &readers, &notes] {
            place.cluster.apply(one);
        }
        place.apply(&json!({}));
        place.wait_ready();
        let ana = callers.token("ana", &format!("{PUBLIC_URL}/team/notes"), "", &[]);
        Self { place, upstream, ana, proxy, controller, _callers: callers }
    }

    fn is_allowed(&self) -> bool {
        self.proxy.is_allowed(&self.ana)
    }

    fn wait_allowed(&self) {
        until("calls to be made", || self.is_allowed().then_some(()));
    }

    /// Ready, and what came to the upstream is a token of the right issuer for the right resource, of the right client.
    fn assert_governed(&self) {
        wait_condition(&self.place.cluster, NOTES, ("Ready", "True", "Ready"));
        // The keys of the callers' issuer are no policy: they may be on their way still. And it is a call that finds out that
        // the upstream's issuer is back.
        self.wait_allowed();
        let last = self.upstream.calls().last().unwrap().clone();
        let Value::Object(claims) = &last.claims else { panic!("{last:?}") };
        let is_for = |aud: &Value| aud == &self.upstream.url() || aud[0] == self.upstream.url();
        assert!(claims["iss"] == self.place.house.issuer() && is_for(&claims["aud"]), "{claims:?}");
        let presenter = if self.place.house.is_keycloak() { &claims["azp"] } else { &claims["client_id"] };
        assert_eq!(*presenter, self.place.credentials()["client_id"]);
        assert_ne!(last.token, self.ana);
        wait_condition(&self.place.cluster, NOTES, (AUTHORIZED, "True", AUTHORIZED));
    }

    /// How many tokens were asked for, by whomever.
    fn asked(&self) -> usize {
        let endpoint = self.place.house.endpoint("token_endpoint");
        let path = endpoint.strip_prefix(&self.place.house.hop.url()).unwrap();
        self.place.house.hop.seen().iter().filter(|seen| seen.method == "POST" && seen.path == path).count()
    }

    fn turns_away(&self) {
        let other = Hop::start();
        self.upstream.rules().named = vec![other.url()];
        let closed = wait_condition(&self.place.cluster, NOTES, ("ResolvedRefs", "False", "IssuerChanged"));
        let told = message(&closed, "ResolvedRefs");
        assert!(told.contains(&other.url()) && told.contains(&self.place.house.issuer()), "{told}");
        until("calls to stop", || (self.proxy.call(&self.ana, "echo").status == 503).then_some(()));
        let before = (self.upstream.calls().len(), self.asked());
        for _ in 0..5 {
            assert_eq!(self.proxy.call(&self.ana, "echo").status, 503);
        }
        assert_eq!((self.upstream.calls().len(), self.asked()), before, "no call, and no token");
        assert!(other.seen().is_empty(), "{:?}", other.seen());
        // Back again, it is called as before, and the other was never asked.
        self.upstream.rules().named = vec![self.place.house.issuer()];
        self.assert_governed();
        assert!(other.seen().is_empty(), "{:?}", other.seen());
    }
}

#[test]
fn a_server_is_called_with_tokens_of_its_issuer_by_the_token_it_has_while_that_is_away_and_not_once_it_names_another() {
    let whole =
        Whole::start(Way::ProviderDcr, &json!({"resourcePrefix": "http://127.0.0.1", "accessTokenLifetime": 20}));
    whole.assert_governed();

    let house = &whole.place.house;
    house.hop.down();
    assert!(whole.is_allowed(), "there is a token");
    let held = whole.upstream.calls().last().unwrap().token.clone();
    let said = until("the condition to say that the issuer is away", || {
        // Renewed, or refused, by those who call.
        whole.proxy.call(&whole.ana, "echo");
        let notes = object(&whole.place.cluster, NOTES.0, NOTES.1, NOTES.2)?;
        let said = message(&notes, AUTHORIZED);
        said.contains("UpstreamTokenUnavailable").then_some(said)
    });
    assert!(said.contains("docs/upstreams.md"), "{said}");
    until("the token to end", || (whole.proxy.call(&whole.ana, "echo").status == 502).then_some(()));
    let calls = whole.upstream.calls();
    let after = calls.iter().skip_while(|call| call.token != held);
    assert!(after.clone().count() > 1 && after.clone().all(|call| call.status == 200 && call.token == held));

    house.hop.up();
    whole.assert_governed();
    whole.turns_away();
}

#[test]
fn a_client_that_was_made_by_an_admin_api_is_what_a_server_is_called_as_by_a_proxy() {
    let whole = Whole::start(Way::KeycloakAdmin, &json!({}));
    whole.assert_governed();
    whole.turns_away();
}

/// Whatever the issuer and the upstream repeat.
#[test]
fn what_a_server_is_called_with_is_in_no_status_event_or_log() {
    for way in [Way::ProviderDcr, Way::KeycloakAdmin] {
        let options = json!({"resourcePrefix": "http://127.0.0.1"});
        let whole = Whole::start_in(&[("PORTCULLIS_LOG", "trace")], way, &options);
        whole.assert_governed();
        let (house, cluster) = (&whole.place.house, &whole.place.cluster);
        let mut texts = canary::readable(&whole.place);
        let endpoint = house.endpoint("token_endpoint");
        let path = endpoint.strip_prefix(&house.hop.url()).unwrap();

        // Its token is not taken any more, and there is no other one.
        let held = whole.upstream.calls().last().unwrap().token.clone();
        whole.upstream.rules().repeats = true;
        whole.upstream.rules().rejected.insert(held);
        house.hop.fault(Matching::every("POST", path), Fault::Repeated(401));
        let refused = until("a call to be refused", || {
            let answer = whole.proxy.call(&whole.ana, "echo");
            (answer.status == 502 && answer.text().contains("UpstreamTokenRefused")).then_some(answer)
        });
        texts.push(("what the caller is told".to_owned(), format!("{refused:?}").into_bytes()));
        let server = wait_condition(cluster, NOTES, (AUTHORIZED, "False", "UpstreamTokenWanted"));
        let said = message(&server, AUTHORIZED);
        assert!(said.contains("invalid_client"), "{said}");
        texts.extend(canary::readable(&whole.place));
        house.hop.heal();
        texts.push(("the metrics".to_owned(), whole.controller.get("/metrics").body));
        texts.push(("readyz".to_owned(), whole.controller.get("/readyz").body));
        texts.push(("the controller's log".to_owned(), whole.controller.process.stderr().into_bytes()));
        texts.push(("what the proxy says".to_owned(), whole.proxy.said().into_bytes()));

        let mut secrets = Secrets::default();
        canary::note_cluster(&whole.place, &mut secrets);
        house.hop.passed().iter().for_each(|text| secrets.note_message(text));
        secrets.note("the caller's token", &whole.ana);
        whole.upstream.calls().iter().for_each(|call| secrets.note("a token at the upstream", &call.token));
        let classes =
            ["the caller's token", "a token at the upstream", "access_token", "client_assertion", "private_key.pem"];
        let texts: Vec<(&str, &[u8])> = texts.iter().map(|(what, text)| (what.as_str(), text.as_slice())).collect();
        assert_none(&secrets.all(&classes), &texts);
    }
}
