//! Whom the controller calls about clients, whatever a remote document or answer says: nobody inside, and nobody with another's
//! credential.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use super::place::{Place, Way};
use crate::controller::{ACCOUNT, Controller, VERSION, message, object};
use crate::support::fault::{Answer, Fault, Hop, Matching};
use crate::support::kube::SYSTEM;
use crate::support::wait::{until, until_within};

/// All of them are tried at once, each of several times.
const PATIENCE: Duration = Duration::from_secs(180);

/// Where nobody is to call. Loopback is open to the controller here by one address, and these have others.
struct Canaries(Vec<TcpListener>);

impl Canaries {
    fn new() -> Self {
        let listen = |at: &str| {
            let listener = TcpListener::bind(at).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        let first = listen("127.0.0.2:0");
        let port = first.local_addr().unwrap().port();
        // The same port in both families, unless somebody else has it.
        let second = TcpListener::bind(("::1", port)).map_or_else(
            |_| listen("[::1]:0"),
            |listener| {
                listener.set_nonblocking(true).unwrap();
                listener
            },
        );
        Self(vec![first, second])
    }

    fn port(&self) -> u16 {
        self.0[0].local_addr().unwrap().port()
    }

    fn assert_silent(&self, story: &str) {
        assert!(self.0.iter().all(|listener| listener.accept().is_err()), "{story}: somebody inside was called");
    }
}

/// Every place that a document may name, and nobody may be called at.
fn places(port: u16) -> Vec<String> {
    // How else one address may be written, and which are not public, is a matter of the dialer's own tests.
    let hosts = [
        "127.0.0.2",
        "2130706434",
        "0x7f000002",
        "0177.0.0.2",
        "[::1]",
        "[::ffff:127.0.0.2]",
        "[64:ff9b::127.0.0.2]",
        "0.0.0.0",
        "10.0.0.1",
        "[fd12::1]",
        "[fe80::1]",
        "169.254.169.254",
        "100.100.100.200",
        "[fd00:ec2::254]",
    ];
    let mut all: Vec<String> = hosts.iter().map(|host| format!("https://{host}:{port}/x")).collect();
    all.extend([
        format!("http://127.0.0.2:{port}/x"),
        format!("http://[::1]:{port}/x"),
        format!("http://10.0.0.1:{port}/x"),
        format!("https://user:word@127.0.0.2:{port}/x"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        format!("gopher://127.0.0.2:{port}/x"),
        "/x".to_owned(),
    ]);
    all
}

/// Which document names the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// The metadata: where clients are registered.
    Registration,
    /// The metadata: where tokens are, which an administrative client asks for.
    Token,
    /// The metadata: where keys are.
    Keys,
    /// The answer to a registration: where the client is managed.
    Management,
}

const NAMED: [Named; 4] = [Named::Registration, Named::Token, Named::Keys, Named::Management];

/// An issuer of which every word is made up, its trust anchor, and a client of it.
struct Issuer {
    hop: Hop,
    name: String,
    named: Named,
    place: String,
}

impl Issuer {
    fn new(number: usize, named: Named, place: &str) -> Self {
        let hop = Hop::start();
        let (issuer, url) = (Self::issuer_of(&hop), hop.url());
        let own = |named_here: Named, path: &str| {
            if named == named_here { json!(place) } else { json!(format!("{url}{path}")) }
        };
        let metadata = json!({"issuer": issuer, "registration_endpoint": own(Named::Registration, "/register"),
            "token_endpoint": own(Named::Token, "/token"), "jwks_uri": own(Named::Keys, "/jwks")});
        let answer = |method, path: &str, status, body: &Value| {
            hop.fault(Matching::every(method, path), Fault::Instead(Answer::json(status, &body.to_string())));
        };
        answer("GET", "/.well-known/", 200, &metadata);
        answer("GET", "/jwks", 200, &json!({"keys": []}));
        answer(
            "POST",
            "/token",
            200,
            &json!({"access_token": "a-token-for-tests", "token_type": "Bearer", "expires_in": 60}),
        );
        answer("GET", "/admin", 200, &json!([]));
        let registered = json!({"client_id": "c", "registration_access_token": "a-registration-token",
            "registration_client_uri": own(Named::Management, "/register/c")});
        answer("POST", "/register", 201, &registered);
        Self { hop, name: format!("i{number}"), named, place: place.to_owned() }
    }

    fn issuer_of(hop: &Hop) -> String {
        format!("{}/realms/r", hop.url())
    }

    fn apply(&self, place: &Place) {
        let registration = match self.named {
            Named::Token => json!({"methods": ["Admin"], "adminCredentialRef": {"name": "keycloak-admin"}}),
            _ => json!({"methods": ["DCR"], "initialAccessTokenRef": {"name": "initial-access", "key": "token"}}),
        };
        place
            .cluster
            .apply(&json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": self.name},
            "spec": {"issuer": Self::issuer_of(&self.hop), "profile": "Keycloak", "registration": registration}}));
        let mut client = place.client(&self.name, &json!({}));
        client["spec"]["authorizationServer"] = json!(self.name);
        place.cluster.apply(&client);
    }

    /// What is said of the object once it was tried.
    fn told(&self, place: &Place) -> String {
        let (kind, namespace, type_) = match self.named {
            Named::Keys => ("McpAuthorizationServer", None, "KeysAvailable"),
            _ => ("McpClient", Some("team"), "Registered"),
        };
        until_within(PATIENCE, &format!("{:?} {} to be refused", self.named, self.place), || {
            let found = object(&place.cluster, kind, namespace, &self.name)?;
            let conditions = found["status"]["conditions"].as_array()?;
            conditions
                .iter()
                .find(|one| one["type"] == type_ && one["reason"] != "Pending" && one["status"] == "False")?;
            Some(message(&found, type_))
        })
    }
}

#[test]
fn no_document_and_no_answer_leads_the_controller_inside() {
    let canaries = Canaries::new();
    let place = Place::new(Way::ProviderDcr);
    let kubeconfig = place.cluster.kubeconfig_of(SYSTEM, ACCOUNT);
    let rows = NAMED.into_iter().flat_map(|named| places(canaries.port()).into_iter().map(move |place| (named, place)));
    let issuers: Vec<Issuer> = rows.enumerate().map(|(n, (named, at))| Issuer::new(n, named, &at)).collect();
    issuers.iter().for_each(|issuer| issuer.apply(&place));
    let controller = Controller::launch_as(&kubeconfig, &["--no-inventory", "--allow-private-upstreams=127.0.0.1/32"]);
    for issuer in &issuers {
        let story = format!("{:?} {}", issuer.named, issuer.place);
        let said = issuer.told(&place);
        let is_clear = [
            "resolves to an address",
            "registration_client_uri",
            "registration_endpoint",
            "token_endpoint",
            "jwks_uri",
            "not reached over plain http",
            "could not be resolved",
        ];
        assert!(is_clear.iter().any(|words| said.contains(words)), "{story}: {said}");
        for secret in ["a-registration-token", "a-token-for-tests", "the-managers-secret", "user:word"] {
            assert!(!said.contains(secret), "{story}: {said}");
        }
        canaries.assert_silent(&story);
        let registered = issuer.hop.count("POST", "/register");
        let is_as_meant = match issuer.named {
            Named::Registration | Named::Token => registered == 0,
            // It is another object that tells.
            Named::Keys => registered <= 1,
            Named::Management => registered >= 1,
        };
        assert!(is_as_meant, "{story}: {registered}");
        let managed = issuer.hop.seen().iter().filter(|seen| seen.path.starts_with("/register/")).count();
        assert!(managed == 0 || issuer.named == Named::Keys, "{story}");
    }
    // It works where nothing leads inside: the table can fail.
    let good = Issuer::new(issuers.len(), Named::Keys, &format!("{}/jwks", issuers[0].hop.url()));
    good.apply(&place);
    until("the good one to be asked", || (good.hop.count("POST", "/register") == 1).then_some(()));
    drop(controller);
    canaries.assert_silent("all");
}

/// Redirects are followed by nobody, whatever was asked and whoever redirects.
#[test]
fn a_redirect_is_not_followed_and_no_credential_goes_where_it_leads() {
    let canaries = Canaries::new();
    for (way, rows) in [
        (
            Way::ProviderDcr,
            [("GET", "/.well-known/", "AuthorizationServerUnreachable"), ("POST", "/reg", "RegistrationRefused")],
        ),
        (Way::KeycloakAdmin, [("POST", "/realms/", "RegistrationRefused"), ("POST", "/admin/", "RegistrationRefused")]),
    ] {
        for (method, path, reason) in rows {
            // One McpClient has its share of requests, and another one of its name has no other.
            let place = Place::new(way);
            let _controller = place.controller();
            is_not_followed(&place, &canaries, (method, path, reason));
        }
    }
}

/// What is asked first is redirected, and then what changes the client and what removes it.
fn is_not_followed(place: &Place, canaries: &Canaries, (method, path, reason): (&'static str, &str, &str)) {
    let (way, inside) = (place.way, format!("http://127.0.0.2:{}/x", canaries.port()));
    // Who cannot be removed is not waited for.
    let wanted = |name: &str| json!({"clientName": name, "deletion": {"timeout": "1s"}});
    let redirect = |method, path: &str| {
        place.house.hop.fault(Matching::every(method, path), Fault::Instead(Answer::redirect(&inside)))
    };
    let fired = redirect(method, path);
    place.apply(&wanted("Reports"));
    let said = place.wait_registered("False", reason);
    assert!(fired.times() > 0 && said.contains("redirect"), "{way:?} {method} {path}: {said}");
    canaries.assert_silent(&format!("{way:?} {method} {path}"));
    place.house.hop.heal();
    // It is a client like any other once that is over.
    place.apply(&wanted("Other"));
    place.wait_ready();
    for method in ["PUT", "DELETE"] {
        let fired = redirect(method, "");
        if method == "PUT" {
            place.apply(&wanted("Third"));
        } else {
            place.delete();
        }
        until("the redirect", || (fired.times() > 0).then_some(()));
        canaries.assert_silent(&format!("{way:?} {method}"));
        place.house.hop.heal();
    }
    place.wait_gone();
    place.collect_garbage();
}
