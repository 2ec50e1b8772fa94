//! The attack matrix over HTTP: no forged token passes, none makes the gateway fetch what it names, and keys that cannot be
//! had never mean that a token is believed.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::attack_tokens::{ALGORITHMS, Attack, Forge, MAX_LIFETIME, ec_jwk, with};
use crate::support::by_hand::{ByHand, json_answer, say_all};
use crate::support::gateway::{Gateway, policy, server};
use crate::support::http::{self, Response};
use crate::support::issuer::{Document, Fault, Issuer};
use crate::support::now;
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::{until, until_within};

const RULES: &str =
    "  - name: all\n    effect: Allow\n    principals: [{groups: [engineers]}]\n    tools: [{patterns: [\"*\"]}]\n";
/// Where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:1";

fn trust(name: &str, issuer: &str) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {{name: {name}}}\nspec:\n  \
         issuer: {issuer}\n  validation: {{algorithms: [{}], maxLifetime: {MAX_LIFETIME}s, groups: {{claim: groups}}}}\n",
        ALGORITHMS.join(", "),
    )
}

/// Publishes the keys of a new forge at `issuer`.
fn forge(issuer: &Issuer, canary: &str) -> Forge {
    let forge = Forge::new(issuer.url(), "", canary, i64::try_from(now()).unwrap());
    issuer.publish(serde_json::from_str(&forge.jwks()).unwrap());
    forge
}

fn call(url: &str, token: &str) -> Response {
    http::post_2026(url, Some(token), "tools/call", &json!({"name": "echo", "arguments": {"message": "a"}}))
}

/// A gateway that trusts `issuer` alone, and the URL of its server.
fn start(issuer: &Issuer, upstream: &Upstream) -> (Gateway, String) {
    let gateway = Gateway::start(&[
        ("trust.yaml", &trust("local", issuer.url())),
        ("server.yaml", &server("echo", upstream.url())),
        ("policy.yaml", &policy("all", "echo", RULES)),
    ]);
    let url = gateway.url("echo");
    (gateway, url)
}

/// Starts, and waits until the forge's genuine token passes.
fn believed(issuer: &Issuer, upstream: &Upstream, canary: &str) -> (Gateway, Forge) {
    let mut forge = forge(issuer, canary);
    let (gateway, url) = start(issuer, upstream);
    forge.resource = url;
    until("the issuer's keys", || (call(&forge.resource, &forge.genuine()).status == 200).then_some(()));
    wait_listed(upstream);
    (gateway, forge)
}

/// Waits until the gateway has had its own look at the tools: whatever comes after that is a caller's.
fn wait_listed(upstream: &Upstream) {
    until("the gateway's look at the tools", || {
        let requests = upstream.seen().requests();
        requests.iter().any(|request| request.header("mcp-method") == ["tools/list"]).then_some(())
    });
}

#[test]
fn attack_no_forged_token_gets_through_the_gate() {
    let (issuer, upstream) = (Issuer::start(), Upstream::start(Sdk::Rmcp));
    let canary = TcpListener::bind("127.0.0.1:0").unwrap();
    canary.set_nonblocking(true).unwrap();
    let launched = Instant::now();
    let (_gateway, mut forge) = believed(&issuer, &upstream, &format!("http://{}", canary.local_addr().unwrap()));
    let url = forge.resource.clone();
    upstream.seen().clear();
    let fetched = issuer.hits(Document::Jwks);
    // What cannot stand in a header, or ends at the limit of a request's head before it is a token, is not sent.
    let sendable = |token: &str| token.len() < 32_000 && token.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let is_early = |attack: &Attack| ["Future", "Yet", "Lifetime"].iter().any(|word| attack.reason.contains(word));
    let mut attacks = forge.attacks();
    attacks.retain(|attack| !is_early(attack));
    // These are one second away from being good: they get the time that the others take.
    forge.now += 3600;
    attacks.extend(forge.attacks().into_iter().filter(is_early));
    forge.now -= 3600;
    let mut count = 0;
    for attack in attacks.iter().filter(|attack| sendable(&attack.token)) {
        let response = call(&url, &attack.token);
        assert!(matches!(response.status, 400 | 401), "{}: {response:?}", attack.name);
        assert!(response.header("www-authenticate").is_some(), "{}: {response:?}", attack.name);
        count += 1;
    }
    assert!(count > 230, "only {count} attacks were sent");
    let large = forge.attacks().into_iter().find(|attack| attack.name == "token of 1 MB").unwrap();
    assert!(matches!(call(&url, &large.token).status, 400 | 401 | 431), "a token of 1 MB");
    assert!(upstream.seen().requests().is_empty(), "{:?}", upstream.seen().requests());
    assert!(canary.accept().is_err(), "a URL from a token's header was fetched");
    let unknown_keys = issuer.hits(Document::Jwks) - fetched;
    assert!(unknown_keys <= windows(launched), "{unknown_keys} fetches for invented keys");
    assert_eq!(call(&url, &forge.genuine()).status, 200);
}

/// How often an issuer may have been asked for unknown keys since the gateway was launched then: its own first fetch opened a window
/// of half a minute at least, and so does every other.
fn windows(launched: Instant) -> usize {
    usize::try_from(launched.elapsed().as_secs() / 30).unwrap()
}

#[test]
fn attack_other_kinds_of_tokens_where_access_tokens_are_not_marked() {
    let (issuer, upstream) = (Issuer::start(), Upstream::start(Sdk::Rmcp));
    let mut forge = forge(&issuer, NOWHERE);
    let compatible = trust("local", issuer.url()).replace("validation: {", "validation: {typ: Compatible, ");
    let gateway = Gateway::start(&[
        ("trust.yaml", &compatible),
        ("server.yaml", &server("echo", upstream.url())),
        ("policy.yaml", &policy("all", "echo", RULES)),
    ]);
    forge.resource = gateway.url("echo");
    until("the issuer's keys", || (call(&forge.resource, &forge.unmarked(&[])).status == 200).then_some(()));
    wait_listed(&upstream);
    upstream.seen().clear();
    for attack in forge.other_kinds() {
        assert_eq!(call(&forge.resource, &attack.token).status, 401, "{}", attack.name);
    }
    assert!(upstream.seen().requests().is_empty());
}

/// As many callers at once as there are threads, each with keys that nobody has.
fn flood(url: &str, forge: &Forge, name: &str) -> usize {
    const THREADS: usize = 8;
    const EACH: usize = 20;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for turn in 0..EACH {
                    let kid = format!("{name}-{thread}-{turn}");
                    let bogus = forge.token(&with(&forge.header(), "kid", json!(kid)), &forge.claims());
                    assert_eq!(call(url, &bogus).status, 401);
                }
            });
        }
    });
    THREADS * EACH
}

/// What the clock alone decides, `issuer::jwks` shows with one that stands: five hundred unknown keys, one fetch.
#[test]
fn attack_unknown_keys_cost_one_fetch_and_bring_a_rotated_key() {
    let upstream = Upstream::start(Sdk::Rmcp);
    // A machine that takes longer than a window and the next for all of this says nothing of one window: another try.
    until_within(Duration::from_secs(600), "a flood within one window", || {
        let (issuer, launched) = (Issuer::start(), Instant::now());
        let (_gateway, old) = believed(&issuer, &upstream, NOWHERE);
        let url = &old.resource;
        let fetched = issuer.hits(Document::Jwks);
        let mut new = forge(&issuer, NOWHERE);
        new.resource.clone_from(url);
        let mut keys: Value = serde_json::from_str(&new.jwks()).unwrap();
        keys["keys"][0]["kid"] = "rotated".into();
        // The id that the old key had is another key's now.
        keys["keys"][1]["kid"] = "ec-1".into();
        issuer.publish(keys);
        let rotated = new.token(&with(&new.header(), "kid", json!("rotated")), &new.claims());
        let mut floods = flood(url, &old, "early");
        let early = issuer.hits(Document::Jwks) - fetched;
        assert!(early <= windows(launched), "{early} fetches for {floods} unknown keys");
        until("the rotated key", || {
            floods += 1;
            let bogus = old.token(&with(&old.header(), "kid", json!(format!("bogus-{floods}"))), &old.claims());
            assert_eq!(call(url, &bogus).status, 401);
            (call(url, &rotated).status == 200).then_some(())
        });
        floods += flood(url, &old, "late");
        let (fetches, windows) = (issuer.hits(Document::Jwks) - fetched, windows(launched));
        assert!((1..=windows).contains(&fetches), "{fetches} fetches for {floods} unknown keys in {windows} windows");
        assert_eq!(call(url, &old.genuine()).status, 401, "another key lies under its id now, cached or not");
        (windows == 1).then_some(())
    });
}

#[test]
fn who_calls_before_the_first_keys_are_there_waits_for_them() {
    let upstream = Upstream::start(Sdk::Rmcp);
    // Who waits is given up after five seconds; a machine that takes longer for the documents says nothing: another try.
    until_within(Duration::from_secs(300), "a caller to be served once the keys came", || {
        let (metadata, keys) = (ByHand::start(), Issuer::start());
        let origin = metadata.url().trim_end_matches("/mcp").to_owned();
        let gateway = Gateway::start(&[
            ("trust.yaml", &trust("local", &origin)),
            ("server.yaml", &server("echo", upstream.url())),
            ("policy.yaml", &policy("all", "echo", RULES)),
        ]);
        let (answering, _) = metadata.take("/.well-known/");
        let mut claims = keys.claims("ana", &gateway.url("echo"));
        (claims["iss"], claims["groups"]) = (json!(origin), json!(["engineers"]));
        let token = keys.key().sign(&keys.key().header(), &claims);
        let (url, asked) = (gateway.url("echo"), Instant::now());
        let caller = std::thread::spawn(move || call(&url, &token));
        // Whoever needs no keys to be judged is answered meanwhile.
        assert_eq!(call(&gateway.url("echo"), "none").status, 401);
        let is_early = caller.is_finished() && asked.elapsed() < Duration::from_secs(5);
        assert!(!is_early, "it was refused though its keys were on their way");
        let document = json!({"issuer": origin, "jwks_uri": format!("{}/jwks", keys.url())});
        say_all(answering, &json_answer("", &document.to_string()));
        let answer = caller.join().unwrap();
        let is_given_up = answer.status == 503 && asked.elapsed() >= Duration::from_secs(5);
        assert!(answer.status == 200 || is_given_up, "{answer:?}");
        (answer.status == 200).then_some(())
    });
}

#[test]
fn attack_one_issuers_token_by_another_issuers_key_of_the_same_id() {
    let (ours, theirs, upstream) = (Issuer::start(), Issuer::start(), Upstream::start(Sdk::Rmcp));
    let mut forge = forge(&ours, NOWHERE);
    theirs.publish(json!({"keys": [ec_jwk("ec-1", &forge.stranger)]}));
    let both = server("echo", upstream.url()).replace("[local]", "[local, partner]");
    let gateway = Gateway::start(&[
        ("ours.yaml", &trust("local", ours.url())),
        ("theirs.yaml", &trust("partner", theirs.url())),
        ("server.yaml", &both),
        ("policy.yaml", &policy("all", "echo", RULES)),
    ]);
    forge.resource = gateway.url("echo");
    let url = &forge.resource;
    let by_partner =
        |issuer: &Issuer| forge.by_stranger(&forge.header(), &with(&forge.claims(), "iss", json!(issuer.url())));
    until("our keys", || (call(url, &forge.genuine()).status == 200).then_some(()));
    // Good for the partner's own name: believed, and granted nothing, since the rule is about our groups.
    until("the partner's keys", || (call(url, &by_partner(&theirs)).status == 200).then_some(()));
    let calls = upstream.seen().calls().len();
    assert_eq!(call(url, &by_partner(&ours)).status, 401);
    let crossed = with(&forge.claims(), "iss", json!(theirs.url()));
    assert_eq!(call(url, &forge.token(&forge.header(), &crossed)).status, 401);
    assert_eq!(upstream.seen().calls().len(), calls);
}

#[test]
fn attack_groups_that_are_not_all_known_grant_nothing() {
    let (issuer, upstream) = (Issuer::start(), Upstream::start(Sdk::Rmcp));
    let (_gateway, forge) = believed(&issuer, &upstream, NOWHERE);
    upstream.seen().clear();
    let many: Vec<_> = (0..513).map(|n| format!("{n:x}")).chain(["engineers".to_owned()]).collect();
    let edits = [
        ("groups", json!(many)),
        ("groups", json!("engineers")),
        ("groups", json!(["engineers", 1])),
        ("hasgroups", json!(true)),
        ("_claim_names", json!({"groups": "src1"})),
    ];
    for (claim, value) in edits {
        let token = forge.token(&forge.header(), &with(&forge.claims(), claim, value.clone()));
        let answer = call(&forge.resource, &token).json();
        assert_eq!(answer["error"]["code"], -32602, "{claim} {value}: {answer}");
    }
    assert!(upstream.seen().calls().is_empty());
}

#[test]
fn duty_18_99_keys_that_cannot_be_had_are_no_reason_to_believe() {
    let upstream = Upstream::start(Sdk::Rmcp);
    let elsewhere = Issuer::start();
    let faults = [
        ("broken", Fault::Status(500)),
        ("moved", Fault::Redirect(format!("{}/jwks", elsewhere.url()))),
        ("slow", Fault::Slow(Duration::from_secs(60))),
        ("huge", Fault::Huge(1 << 20)),
        ("cut", Fault::Body("{".to_owned())),
    ];
    let issuers: Vec<_> = faults
        .into_iter()
        .map(|(name, fault)| {
            let issuer = Issuer::start();
            let forge = forge(&issuer, NOWHERE);
            elsewhere.publish(serde_json::from_str(&forge.jwks()).unwrap());
            issuer.fail(Document::Jwks, fault);
            (name, issuer, forge)
        })
        .collect();
    let mut files = Vec::new();
    for (name, issuer, _) in &issuers {
        let server = server(name, upstream.url()).replace("[local]", &format!("[{name}]"));
        let policy = policy(name, name, RULES).replace("authority: local", &format!("authority: {name}"));
        files.push((format!("{name}.yaml"), format!("{}---\n{server}---\n{policy}", trust(name, issuer.url()))));
    }
    let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    let gateway = Gateway::launch(&files, &[]);
    for (name, issuer, mut forge) in issuers {
        until("the fetch of the keys", || (issuer.hits(Document::Jwks) > 0).then_some(()));
        forge.resource = gateway.url(name);
        let response = call(&forge.resource, &forge.genuine());
        assert_eq!(response.status, 503, "{name}: no keys, no verdict: {response:?}");
        assert!(response.header("retry-after").is_some() && response.header("www-authenticate").is_none(), "{name}");
    }
    assert_eq!(elsewhere.hits(Document::Jwks), 0, "a redirect was followed");
    assert!(upstream.seen().calls().is_empty());
}
