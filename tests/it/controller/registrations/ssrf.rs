//! Whom the controller calls about clients, whatever a remote document or answer says: nobody inside, and nobody with another's
//! credential.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use super::place::{Place, Way};
use crate::controller::{ACCOUNT, Controller, PUBLIC_URL, VERSION, message, object, server};
use crate::support::fault::{Answer, Fault, Hop, Matching};
use crate::support::kube::SYSTEM;
use crate::support::rebound::Rebound;
use crate::support::wait::{until, until_within};

/// All of them are tried at once, each of several times.
const PATIENCE: Duration = Duration::from_secs(180);
/// What of loopback is open to the controller.
const ONE_ADDRESS: &str = "--allow-private-upstreams=127.0.0.1/32";

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

/// Every place that a document may name, and nobody may be called at: those that are places to call by the text, so that the dialer
/// has to refuse them.
fn dialed(port: u16) -> Vec<String> {
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
    all.extend(["127.0.0.2", "[::1]"].map(|host| format!("http://{host}:{port}/x")));
    all
}

/// Those that are none, whoever they belong to.
fn unread(port: u16) -> Vec<String> {
    vec![
        format!("http://10.0.0.1:{port}/x"),
        format!("https://user:word@127.0.0.2:{port}/x"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        format!("gopher://127.0.0.2:{port}/x"),
        "/x".to_owned(),
    ]
}

/// Which document names the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// The metadata: where clients are registered with the token that an administrator has lent us for that.
    Registration,
    /// The same, where anybody may register.
    OpenRegistration,
    /// The metadata: where tokens are, which an administrative client asks for.
    Token,
    /// The same, which a client asks for that was registered, to see whom they are for.
    Audience,
    /// The metadata: where keys are.
    Keys,
    /// The answer to a registration: where the client is managed.
    Management,
}

/// What keeps the controller from calling there.
const INSIDE: &str = "resolves to an address that is ";

impl Named {
    /// What is said of a place that could be called by its text. It is called only if nothing else is in the way.
    fn refused(self) -> &'static str {
        match self {
            Named::OpenRegistration | Named::Audience | Named::Keys => INSIDE,
            // What is lent goes to the issuer's own origin.
            Named::Registration => "its metadata has registration_endpoint",
            Named::Token => "its metadata has token_endpoint",
            Named::Management => "`registration_client_uri` is not at the origin of its issuer",
        }
    }

    /// What is said of a place that could not.
    fn unread(self) -> &'static str {
        match self {
            Named::Registration | Named::OpenRegistration => "`registration_endpoint` holds an unacceptable URL",
            Named::Token | Named::Audience => "`token_endpoint` holds an unacceptable URL",
            Named::Keys => "`jwks_uri` holds an unacceptable URL",
            Named::Management => "`registration_client_uri` is unacceptable",
        }
    }

    /// How often clients are registered at the issuer, at least and at most.
    fn registered(self, is_read: bool) -> std::ops::RangeInclusive<usize> {
        match self {
            Named::Audience if is_read => 1..=1,
            Named::Registration | Named::OpenRegistration | Named::Token | Named::Audience => 0..=0,
            // It is another object that tells.
            Named::Keys => 0..=1,
            Named::Management => 1..=usize::MAX,
        }
    }
}

/// Every place in every document that another reads.
fn table(port: u16) -> Vec<(Named, String)> {
    let of = |named: Named, places: Vec<String>| places.into_iter().map(move |place| (named, place));
    let first = [Named::Registration, Named::Token, Named::Keys, Named::Management];
    let all = first.into_iter().flat_map(|named| of(named, [dialed(port), unread(port)].concat()));
    // Whether the text is a place at all is seen before it is known who will go there.
    let more = [Named::OpenRegistration, Named::Audience].into_iter().flat_map(|named| of(named, dialed(port)));
    all.chain(more).collect()
}

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
        let own = |here: &[Named], path: &str| {
            if here.contains(&named) { json!(place) } else { json!(format!("{url}{path}")) }
        };
        let metadata = json!({"issuer": issuer,
            "registration_endpoint": own(&[Named::Registration, Named::OpenRegistration], "/register"),
            "token_endpoint": own(&[Named::Token, Named::Audience], "/token"),
            "jwks_uri": own(&[Named::Keys], "/jwks")});
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
        let registered = json!({"client_id": "c", "client_secret": "a-secret-for-tests", "client_secret_expires_at": 0,
            "client_name": "Reports", "token_endpoint_auth_method": "client_secret_basic",
            "grant_types": ["client_credentials"], "response_types": [],
            "registration_access_token": "a-registration-token",
            "registration_client_uri": own(&[Named::Management], "/register/c")});
        answer("POST", "/register", 201, &registered);
        Self { hop, name: format!("i{number}"), named, place: place.to_owned() }
    }

    fn issuer_of(hop: &Hop) -> String {
        format!("{}/realms/r", hop.url())
    }

    fn apply(&self, place: &Place) {
        let registration = match self.named {
            Named::Token => json!({"methods": ["Admin"], "adminCredentialRef": {"name": "keycloak-admin"}}),
            Named::OpenRegistration | Named::Audience => json!({"methods": ["DCR"]}),
            Named::Registration | Named::Keys | Named::Management => {
                json!({"methods": ["DCR"], "initialAccessTokenRef": {"name": "initial-access", "key": "token"}})
            }
        };
        place
            .cluster
            .apply(&json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": self.name},
            "spec": {"issuer": Self::issuer_of(&self.hop), "profile": "Keycloak", "registration": registration}}));
        let mut more = json!({"tokenEndpointAuthMethod": "client_secret_basic"});
        if self.named == Named::Audience {
            more["servers"] = json!([self.name]);
            let authorization = json!({"authorization": {"servers": [self.name]}});
            place.cluster.apply(&server("team", &self.name, &authorization));
        }
        let mut client = place.client(&self.name, &more);
        client["spec"]["authorizationServer"] = json!(self.name);
        place.cluster.apply(&client);
    }

    /// Whether the place is one by its text.
    fn is_read(&self, port: u16) -> bool {
        dialed(port).contains(&self.place)
    }

    /// What is said of the object once it was tried.
    fn told(&self, place: &Place) -> String {
        let (kind, namespace, type_, status) = match self.named {
            Named::Keys => ("McpAuthorizationServer", None, "KeysAvailable", "False"),
            Named::Audience => ("McpClient", Some("team"), "AudienceVerified", "Unknown"),
            _ => ("McpClient", Some("team"), "Registered", "False"),
        };
        until_within(PATIENCE, &format!("{:?} {} to be refused", self.named, self.place), || {
            let found = object(&place.cluster, kind, namespace, &self.name)?;
            let conditions = found["status"]["conditions"].as_array()?;
            conditions
                .iter()
                .find(|one| one["type"] == type_ && one["reason"] != "Pending" && one["status"] == status)?;
            Some(message(&found, type_))
        })
    }
}

#[test]
fn no_document_and_no_answer_leads_the_controller_inside() {
    let canaries = Canaries::new();
    let port = canaries.port();
    let place = Place::new(Way::ProviderDcr);
    let kubeconfig = place.cluster.kubeconfig_of(SYSTEM, ACCOUNT);
    let rows = table(port).into_iter().enumerate();
    let issuers: Vec<Issuer> = rows.map(|(n, (named, at))| Issuer::new(n, named, &at)).collect();
    issuers.iter().for_each(|issuer| issuer.apply(&place));
    let controller = Controller::launch_as(&kubeconfig, &["--no-inventory", ONE_ADDRESS]);
    for issuer in &issuers {
        let story = format!("{:?} {}", issuer.named, issuer.place);
        let said = issuer.told(&place);
        let is_read = issuer.is_read(port);
        // Of all the ways in which it may be refused, the one that is the last before it would be called.
        let why = if is_read { issuer.named.refused() } else { issuer.named.unread() };
        assert!(said.contains(why), "{story}: no {why} in {said}");
        for secret in
            ["a-registration-token", "a-token-for-tests", "a-secret-for-tests", "the-managers-secret", "user:word"]
        {
            assert!(!said.contains(secret), "{story}: {said}");
        }
        canaries.assert_silent(&story);
        let registered = issuer.hop.count("POST", "/register");
        assert!(issuer.named.registered(is_read).contains(&registered), "{story}: {registered}");
        let managed = issuer.hop.seen().iter().filter(|seen| seen.path.starts_with("/register/")).count();
        assert!(managed == 0 || issuer.named == Named::Keys, "{story}");
    }
    // It works where nothing leads inside: the table can fail.
    let own = issuers[0].hop.url();
    let first = Issuer::new(issuers.len(), Named::Keys, &format!("{own}/jwks"));
    let second = Issuer::new(issuers.len() + 1, Named::OpenRegistration, &format!("{own}/register"));
    let third = Issuer::new(issuers.len() + 2, Named::Audience, &format!("{own}/token"));
    let asked = [(&first.hop, "/register"), (&issuers[0].hop, "/register"), (&issuers[0].hop, "/token")];
    [&first, &second, &third].into_iter().for_each(|good| good.apply(&place));
    for (hop, path) in asked {
        until("the good ones to be asked", || (hop.count("POST", path) == 1).then_some(()));
    }
    drop(controller);
    canaries.assert_silent("all");
}

/// A name is looked up for each connection, and each time it is checked: one that was good is not good for that.
#[test]
fn a_name_that_turns_inside_after_it_was_good_is_not_followed_there() {
    let (hop, rebound) = (Hop::start(), Rebound::new());
    let port = hop.url().rsplit_once(':').unwrap().1.to_owned();
    let inside = TcpListener::bind(format!("127.0.0.2:{port}")).unwrap();
    inside.set_nonblocking(true).unwrap();
    let url = format!("http://localhost:{port}");
    let issuer = format!("{url}/as");
    let metadata = json!({"issuer": issuer, "registration_endpoint": format!("{url}/register"),
        "token_endpoint": format!("{url}/token"), "jwks_uri": format!("{url}/jwks")});
    let registered = json!({"client_id": "c", "client_secret": "a-secret-for-tests", "client_secret_expires_at": 0,
        "client_name": "Reports", "token_endpoint_auth_method": "client_secret_basic",
        "grant_types": ["client_credentials"], "response_types": [],
        "registration_access_token": "a-registration-token", "registration_client_uri": format!("{url}/register/c")});
    for (method, path, status, body) in [
        ("GET", "/.well-known/", 200, &metadata),
        ("GET", "/jwks", 200, &json!({"keys": []})),
        ("POST", "/register", 201, &registered),
        ("GET", "/register/c", 200, &registered),
        ("PUT", "/register/c", 200, &registered),
    ] {
        hop.fault(Matching::every(method, path), Fault::Instead(Answer::json(status, &body.to_string())));
    }
    let place = Place::new(Way::ProviderDcr);
    let mut anchor = place.anchor(&issuer);
    anchor["spec"]["registration"] = json!({"methods": ["DCR"]});
    place.cluster.apply(&anchor);
    let kubeconfig = place.cluster.kubeconfig_of(SYSTEM, ACCOUNT);
    let arguments = ["--no-inventory", ONE_ADDRESS];
    let _controller = Controller::launch_in(PUBLIC_URL, &kubeconfig, &rebound.environment(), &arguments);
    let wanted = |name: &str| json!({"clientName": name, "tokenEndpointAuthMethod": "client_secret_basic"});
    place.apply(&wanted("Reports"));
    place.wait_ready();
    let asked = || (hop.count("POST", "/register"), hop.count("PUT", "/register/c"));
    assert_eq!(asked(), (1, 0), "it was good");

    rebound.rebind();
    // What is registered goes on, and another one is not begun.
    place.apply(&wanted("Other"));
    until("an update to be refused", || message(&place.now()?, "Registered").contains(INSIDE).then_some(()));
    place.cluster.apply(&place.client("another", &wanted("Another")));
    until("a registration to be refused", || {
        let another = object(&place.cluster, "McpClient", Some("team"), "another")?;
        another["status"]["conditions"].is_array().then_some(())?;
        message(&another, "Registered").contains(INSIDE).then_some(())
    });
    assert_eq!(asked(), (1, 0));
    assert!(inside.accept().is_err(), "somebody inside was called");

    rebound.restore();
    until("what was refused to be done after all", || (asked() == (2, 1)).then_some(()));
    assert!(inside.accept().is_err(), "somebody inside was called");
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
