//! A panic says what the code had at hand, as `Debug` shows it: nothing of that is secret.
//!
//! The same binary is run once more and panics with everything that holds a secret, so that what is searched is what a process
//! writes when it dies.

use std::any::type_name;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::thread;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method};
use portcullis::api::core::Secret;
use portcullis::egress::{self, Content, Egress, Message};
use portcullis::generated;
use portcullis::generated::server::{CredentialHeader, Credentials, Grant, Oauth, Proof, UpstreamTls};
use portcullis::oauth::client_key::ClientKey;
use portcullis::oauth::client_registration::{AuthMethod, parse_registered};
use portcullis::oauth::token_request::{Authentication, parse_token};
use portcullis::proxy::review::Question;
use portcullis::registration::call::{Answer, Auth, Body, Call, Client, Heard, Purpose, Verb};
use portcullis::registration::claim::{Claimed, Mark, Means};
use portcullis::registration::ledger::Handle;
use portcullis::registration::{Action, Claim, Ledger, Seen};
use portcullis::sensitive::Sensitive;
use portcullis::upstream::{Subject, Upstream};
use serde_json::json;

use crate::support::canary::leaks;

/// Set for the process that panics.
const PANICS: &str = "PORTCULLIS_TEST_PANICS";
const THIS: &str = "panics::a_panic_says_nothing_secret_of_what_was_at_hand";

const SECRET: &str = "canary-client-secret-5d0c7a91";
const TOKEN: &str = "canary-access-token-b2e64f08";
const MANAGING: &str = "canary-registration-token-93fd1c";
const ASSERTION: &str = "canary-client-assertion-e07a55";
const CALLERS: &str = "canary-callers-token-41bb2de9";
/// What somebody careless would show.
const SHOWN: &str = "canary-that-is-shown-77c3e9a0";

const ISSUER: &str = "https://login.example.com";

/// Something that can stand in a panic, and its type.
struct Holder {
    of: &'static str,
    value: Box<dyn Debug + Send>,
}

fn holder<T: Debug + Send + 'static>(value: T) -> Holder {
    Holder { of: type_name::<T>(), value: Box::new(value) }
}

/// It does what every type with a secret must not.
#[derive(Debug)]
struct Careless(#[expect(dead_code, reason = "it is shown")] String);

fn sensitive(text: &str) -> Sensitive {
    Sensitive::new(text)
}

/// Everything that holds a secret and can be shown.
fn holders(key: &[u8]) -> Vec<Holder> {
    let mut all = of_registrations(&BASE64_STANDARD.encode(key));
    all.extend(of_requests());
    all.extend(of_upstreams(&BASE64_STANDARD.encode(key)));
    all.push(holder(ClientKey::new(key).unwrap()));
    all
}

/// A ledger with each kind of secret that one has.
fn ledger(pkcs8: &str) -> Ledger {
    let registration = |id: &str, handle: serde_json::Value| {
        json!({"client_id": id, "client_secret": SECRET, "secret_expires_at": null, "secret_since": 1, "registered_at": 1,
            "updated_at": 1, "handle": handle, "digest": "", "kids": [], "substituted": []})
    };
    let managed = json!({"Protocol": {"uri": ISSUER, "token": MANAGING}});
    let text = json!({"version": 1, "owner": {"kind": "McpClient", "namespace": "team", "name": "reports", "uid": "u"},
        "cluster": "c", "authority": "corp", "issuer": ISSUER, "profile": "Generic", "method": "Dcr",
        "deletion": {"policy": "Delete", "timeout_seconds": 1, "on_unavailable": "Orphan"},
        "keys": [{"kid": "k", "pkcs8": pkcs8, "public": {}, "made": 1}], "attempts": 1, "step": "Idle",
        "current": registration("one", managed.clone()),
        "retired": [{"registration": registration("before", managed), "until": 1}],
        "lost": [], "lost_besides": 0, "forgotten": null, "released": null});
    let ledger = Ledger::decode(text.to_string().as_bytes()).unwrap();
    let kept = String::from_utf8(ledger.encode().unwrap()).unwrap();
    assert!([SECRET, MANAGING, pkcs8].iter().all(|secret| kept.contains(secret)), "it holds them");
    ledger
}

fn of_registrations(pkcs8: &str) -> Vec<Holder> {
    let ledger = ledger(pkcs8);
    let handle = Handle::Protocol { uri: ISSUER.to_owned(), token: sensitive(MANAGING) };
    let call = Call {
        purpose: Purpose::Update,
        verb: Verb::Put,
        url: ISSUER.to_owned(),
        auth: Auth::Registration(sensitive(MANAGING)),
        body: Body::Json(sensitive(&json!({"client_secret": SECRET}).to_string())),
        says: Some(sensitive(SECRET)),
    };
    let client = Client {
        client_id: "one".to_owned(),
        client_secret: Some(sensitive(SECRET)),
        secret_expires_at: None,
        handle: Some(handle.clone()),
        auth_method: Some(AuthMethod::ClientSecretBasic),
        is_disabled: false,
        differences: Vec::new(),
        found: None,
    };
    let answer = json!({"client_id": "one", "client_secret": SECRET, "client_secret_expires_at": 0,
        "registration_client_uri": format!("{ISSUER}/one"), "registration_access_token": MANAGING,
        "client_name": SECRET, "client_uri": MANAGING, "jwks": {"keys": [{"kty": "EC", "d": SECRET}]}});
    let registered = parse_registered(answer.to_string().as_bytes(), ISSUER).unwrap();
    assert_eq!(registered.client_secret.as_ref().map(Sensitive::expose), Some(SECRET));
    let claim = Claim {
        claimed: Claimed { client_id: "one".to_owned(), mark: Some(Mark::None) },
        issuer: ISSUER.to_owned(),
        means: Means::Protocol { uri: ISSUER.to_owned(), token: sensitive(MANAGING) },
    };
    let mut seen = Seen::stored(ledger.clone(), 0);
    seen.give(Some(&sensitive(SECRET)));
    seen.set_claim(Some(claim.clone()));
    let sent = vec![sensitive(MANAGING), sensitive(SECRET)];
    let body = answer.to_string().into_bytes();
    vec![
        holder(Answer { status: 200, body, retry_after: None, denies_token: false, sent }),
        holder(Action::Send(call.clone())),
        holder(call),
        holder(Heard::Client(Box::new(client.clone()))),
        holder(Heard::Secret(sensitive(SECRET))),
        holder(client),
        holder(registered),
        holder(claim),
        holder(handle),
        holder(seen),
        holder(ledger),
        // What an owner's Secret is to hold.
        holder(BTreeMap::from([
            ("private_key.pem".to_owned(), sensitive(pkcs8)),
            ("client_secret".into(), sensitive(SECRET)),
        ])),
    ]
}

fn of_requests() -> Vec<Holder> {
    let answer = json!({"access_token": TOKEN, "token_type": "Bearer", "refresh_token": TOKEN, "expires_in": 60});
    let token = parse_token(answer.to_string().as_bytes(), 0).unwrap();
    assert_eq!(token.access_token.expose(), TOKEN);
    let message = |content| Message {
        method: Method::POST,
        url: ISSUER.to_owned(),
        authorization: Some(sensitive(&format!("Bearer {TOKEN}"))),
        content,
    };
    let answered = egress::Answer {
        status: 401,
        retry_after: None,
        challenges: vec![http::HeaderValue::from_str(&format!("Bearer error_description=\"{TOKEN}\"")).unwrap()],
        is_json: true,
        body: Bytes::from(answer.to_string()),
    };
    vec![
        holder(token),
        holder(Authentication::client_secret_basic("one", &sensitive(SECRET))),
        holder(Authentication::client_secret_post("one", &sensitive(SECRET))),
        holder(Authentication::private_key_jwt("one", &sensitive(ASSERTION))),
        holder(message(Content::Form(sensitive(&format!("client_assertion={ASSERTION}"))))),
        holder(message(Content::Json(sensitive(&json!({"client_secret": SECRET}).to_string())))),
        holder(answered),
        holder(Question { token: sensitive(CALLERS), audiences: Vec::new() }),
        holder(Subject {
            token: sensitive(CALLERS),
            authority: "corp".to_owned(),
            issuer: ISSUER.to_owned(),
            expires: 1,
        }),
    ]
}

fn of_upstreams(pkcs8: &str) -> Vec<Holder> {
    let oauth = |proof| Oauth {
        issuer: ISSUER.to_owned(),
        ca_pem: None,
        token_endpoint: format!("{ISSUER}/token"),
        client_id: "one".to_owned(),
        proof,
        grant: Grant::ClientCredentials,
        scopes: Vec::new(),
        resource: "https://mcp.example.com/mcp".to_owned(),
        says_resource: true,
    };
    let header = CredentialHeader { name: "x-api-key".to_owned(), value: sensitive(SECRET) };
    let all = [
        Credentials::Headers(vec![header]),
        Credentials::ServiceAccount { token: sensitive(TOKEN) },
        Credentials::Oauth(Box::new(oauth(Proof::Basic(sensitive(SECRET))))),
        Credentials::Oauth(Box::new(oauth(Proof::Post(sensitive(SECRET))))),
        Credentials::Oauth(Box::new(oauth(Proof::Key(sensitive(pkcs8))))),
    ];
    let egress = Egress::new(egress::Policy::default()).unwrap();
    let mut holders = Vec::new();
    for credentials in all {
        let config = generated::server::Upstream {
            url: "https://mcp.example.com/mcp".to_owned(),
            tls: UpstreamTls::default(),
            credentials: credentials.clone(),
        };
        let upstream = Upstream::new(&config, &egress).unwrap();
        // As it goes over the wire: with what identifies the gateway among its headers.
        holders.push(holder(upstream.request(Method::POST, &HeaderMap::new(), Bytes::new())));
        holders.push(holder(upstream));
        if let Credentials::Oauth(oauth) = credentials {
            holders.extend([holder(oauth.proof.clone()), holder(oauth)]);
        }
        holders.push(holder(config));
    }
    let data = BTreeMap::from([("client_secret".to_owned(), SECRET.as_bytes().to_vec())]);
    holders.push(holder(Secret { metadata: Default::default(), data }));
    holders
}

impl Holder {
    /// A call that has failed with it.
    fn failed(self) -> Result<(), Box<dyn Debug + Send>> {
        Err(self.value)
    }
}

/// Panics with it, as people do and as `unwrap` does.
fn panic_with(holder: Holder) {
    let name = format!("with {}", holder.of);
    let thread = thread::Builder::new().name(name).spawn(move || {
        let people = catch_unwind(AssertUnwindSafe(|| panic!("{:#?}", holder.value)));
        assert!(people.is_err());
        holder.failed().unwrap();
    });
    assert!(thread.unwrap().join().is_err());
}

#[test]
fn a_panic_says_nothing_secret_of_what_was_at_hand() {
    let careless = holder(Careless(SHOWN.to_owned()));
    if let Ok(key) = std::env::var(PANICS) {
        let key = BASE64_STANDARD.decode(key).unwrap();
        holders(&key).into_iter().chain([careless]).for_each(panic_with);
        return;
    }
    let key = ClientKey::generate().unwrap();
    let base64 = BASE64_STANDARD.encode(&key);
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([THIS, "--exact", "--nocapture", "--test-threads=1"]).env(PANICS, &base64).env("RUST_BACKTRACE", "0");
    let output = child.output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{said}");
    for holder in holders(&key).iter().chain([&careless]) {
        let panics = said.matches(&format!("thread 'with {}'", holder.of)).count();
        assert!(panics >= 2, "{} has panicked {panics} times: {said}", holder.of);
    }
    // Bytes are shown as numbers.
    let compact: String = said.split_whitespace().collect();
    let shows = |secret: &str| {
        let numbers: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
        leaks(secret, said.as_bytes()) || compact.contains(&numbers.join(","))
    };
    assert!(shows(SHOWN), "what is shown is found: {said}");
    for secret in [SECRET, TOKEN, MANAGING, ASSERTION, CALLERS, &base64] {
        assert!(!shows(secret), "{secret} in {said}");
    }
}
