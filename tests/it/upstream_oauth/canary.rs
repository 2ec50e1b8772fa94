//! Nothing by which the gateway or a caller could be somebody at the upstream comes out anywhere but where it belongs.

use portcullis::audit::query::{Filter, query};
use serde_json::json;

use super::callers::{Asserted, exchanged, manifests};
use super::house::{By, Manifests, Place, call, start};
use crate::support::canary::{self, Secrets};
use crate::support::fault::{Answer, Fault, Hop, Matching};
use crate::support::gateway::Gateway;
use crate::support::now;
use crate::support::resource_server::ResourceServer;
use crate::support::token::Key;
use crate::support::wait::until;

/// A token that nobody could use.
const ODD: &str = "canary-odd-token-8c41f07e";

/// One gateway, its client and its callers, and all that it says.
struct Scene<'p> {
    hop: &'p Hop,
    token_path: &'p str,
    upstream: &'p ResourceServer,
    gateway: Gateway,
    caller: String,
    /// Whether the caller's token is exchanged.
    exchanges: bool,
    secrets: Secrets,
    texts: Vec<(String, String)>,
}

impl<'p> Scene<'p> {
    fn new(hop: &'p Hop, token_path: &'p str, upstream: &'p ResourceServer, manifests: &Manifests) -> Self {
        // Also not to whoever wants to know everything.
        let gateway = start(&[("PORTCULLIS_LOG", "trace")], manifests);
        let (secrets, texts) = (Secrets::default(), Vec::new());
        Self { hop, token_path, upstream, gateway, caller: String::new(), exchanges: false, secrets, texts }
    }

    /// The caller, by this token.
    fn of(mut self, caller: String, exchanges: bool) -> Self {
        self.secrets.note("a caller's token", &caller);
        (self.caller, self.exchanges) = (caller, exchanges);
        self
    }

    fn say(&mut self, what: &str, text: String) {
        self.texts.push((what.to_owned(), text));
    }

    /// What the gateway says of itself now.
    fn look(&mut self) {
        let (report, metrics) = (self.gateway.readyz().1.to_string(), self.gateway.metrics());
        self.say("readyz", report);
        self.say("metrics", metrics);
    }

    /// Calls until the answer has this status and says this.
    fn wait_told(&mut self, tool: &str, status: u16, words: &str) {
        let told = until(&format!("{status} with {words:?}"), || {
            let answer = call(&self.gateway, "notes", &self.caller, tool);
            (answer.status == status && answer.text().contains(words)).then(|| format!("{answer:?}"))
        });
        self.say("what the caller is told", told);
    }

    fn wait_open(&mut self) {
        self.wait_told("echo", 200, "result");
    }

    /// Another process, which holds no token yet.
    fn again(&mut self) {
        let (log, out) = (self.gateway.log(), self.gateway.process().stdout());
        self.say("the log", log);
        self.say("the standard output", out);
        self.gateway.restart();
    }

    /// The issuer gives no token that could be used, and says whatever it likes.
    fn fails(&mut self, fault: Fault, reason: &str) {
        // Before the gateway starts: a token that it has would do.
        let fired = self.hop.fault(Matching::every("POST", self.token_path), fault);
        self.again();
        self.wait_told("echo", 502, reason);
        self.wait_recorded(reason);
        self.look();
        assert!(fired.times() > 0, "{reason}");
        self.hop.heal();
    }

    /// Waits until a record says why: another process would not write it.
    fn wait_recorded(&self, reason: &str) {
        until(&format!("a record of {reason}"), || {
            let calls = query(&self.gateway.journal(), &Filter::default(), 1000).unwrap().calls;
            let mut ends = calls.iter().filter_map(|call| call.completion.as_ref());
            ends.any(|entry| entry.json.contains(reason)).then_some(())
        });
    }

    /// Everything that can go wrong where what is secret is at hand.
    fn goes_wrong(&mut self) {
        for (status, reason) in [
            (400, "UpstreamTokenRefused"),
            (401, "UpstreamTokenRefused"),
            (503, "UpstreamTokenUnavailable"),
            (200, "TokenAnswerIncomplete"),
        ] {
            self.fails(Fault::Repeated(status), reason);
        }
        let elsewhere = Key::es256("key-1");
        let elsewhere =
            elsewhere.sign(&elsewhere.header(), &json!({"aud": "https://elsewhere.example", "exp": now() + 60}));
        self.secrets.note("an odd token", ODD);
        self.secrets.note("an odd token", &elsewhere);
        let given = |token: &str, type_: &str| {
            let answer = json!({"access_token": token, "token_type": type_, "expires_in": 60});
            Fault::Instead(Answer::json(200, &answer.to_string()))
        };
        self.fails(given(ODD, "mac"), "TokenNotBearer");
        self.fails(given(&elsewhere, "Bearer"), "UpstreamTokenAudience");
        self.fails(
            Fault::Instead(Answer::redirect(&format!("http://127.0.0.1:1/?token={ODD}"))),
            "UpstreamTokenUnavailable",
        );
        if self.exchanges {
            self.fails(given(&self.caller, "Bearer"), "CallerTokenReturned");
        }

        // An upstream that repeats what it is sent.
        self.again();
        self.wait_open();
        self.upstream.rules().repeats = true;
        self.upstream.rules().scopes.insert("delete_item".into(), "root".into());
        self.wait_told("delete_item", 502, "UpstreamScopesLacking");
        self.upstream.rules().rejects_all = true;
        self.wait_told("echo", 502, "UpstreamCredentialsRefused");
        self.wait_recorded("UpstreamCredentialsRefused");
        self.look();
    }

    /// Looks for all of it in all that was said and recorded.
    fn assert_silent(mut self, classes: &[&str]) {
        self.wait_open();
        self.look();
        self.goes_wrong();
        self.again();
        let query = self.gateway.verb(&["audit", "query", "--all", "-o", "json"]).output().unwrap();
        assert!(query.status.success(), "{query:?}");
        let records = String::from_utf8(query.stdout).unwrap();
        assert!(records.contains("UpstreamTokenRefused"), "{records}");
        self.say("audit query", records);
        let telling = |(what, text): &(String, String)| what == "the log" && text.contains("\"TRACE\"");
        assert!(self.texts.iter().any(telling), "it logs everything");

        self.hop.passed().iter().for_each(|text| self.secrets.note_message(text));
        for call in self.upstream.calls() {
            self.secrets.note("a token at the upstream", &call.token);
        }
        let common = ["a caller's token", "a token at the upstream", "access_token", "an odd token"];
        let secrets = self.secrets.all(&[&common[..], classes].concat());
        let texts: Vec<_> = self.texts.iter().map(|(what, text)| (what.as_str(), text.as_bytes())).collect();
        canary::assert_none(&secrets, &texts);
        canary::assert_none_below(&secrets, &self.gateway.state(), &|_| false);
    }
}

/// With one token for all callers.
fn calls_as_itself(place: &Place, class: &str) {
    let mut scene = Scene::new(&place.house.hop, place.token_path(), &place.upstream, &place.manifests(&json!({})));
    place.client.secrets().for_each(|secret| scene.secrets.note("what proves the client", secret));
    let ana = scene.gateway.token("ana", "notes");
    scene.of(ana, false).assert_silent(&["what proves the client", class]);
}

#[test]
fn what_the_gateway_calls_an_upstream_with_is_in_no_output() {
    calls_as_itself(&Place::npm(By::Secret, &json!({})), "Basic");
    calls_as_itself(&Place::npm(By::Key, &json!({})), "client_assertion");
}

#[test]
fn what_the_gateway_calls_an_upstream_of_keycloak_with_is_in_no_output() {
    calls_as_itself(&Place::keycloak(By::Secret), "Basic");
    calls_as_itself(&Place::keycloak(By::Key), "client_assertion");
}

#[test]
fn what_callers_tokens_are_exchanged_with_and_for_is_in_no_output() {
    let place = Place::keycloak(By::Secret);
    let (_, caller) = exchanged(&place).remove(0);
    let manifests = manifests(&place, "TokenExchange", &place.client.id);
    let mut scene = Scene::new(&place.house.hop, place.token_path(), &place.upstream, &manifests);
    place.client.secrets().for_each(|secret| scene.secrets.note("what proves the client", secret));
    scene.of(caller, true).assert_silent(&["what proves the client", "Basic", "subject_token"]);
}

#[test]
fn a_callers_token_that_is_an_assertion_is_in_no_output() {
    let place = Asserted::start();
    let mut scene = Scene::new(&place.hop, "/token", &place.upstream, &place.manifests());
    scene.secrets.note("what proves the client", &place.key);
    let caller = place.strict.token_for("ana", "gate");
    scene.of(caller, true).assert_silent(&["what proves the client", "client_assertion", "assertion"]);
}
