//! Who calls, in a cluster: ServiceAccounts and clients of the gateway's own issuer, with tokens of the real API server.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use portcullis::generated::authority::{Authority, TypRule};
use portcullis::generated::codec::Generated;
use portcullis::generated::server::Credentials;
use portcullis::generated::{ObjectId, Server};
use portcullis::identity::anchor::Anchor;
use portcullis::identity::principal::{Groups, Kind};
use portcullis::identity::token::{Use, Verified, admit, verify};
use serde_json::{Value, json};

use super::{Controller, VERSION, generated_of, message, object, server, wait_condition};
use crate::chart::installed;
use crate::support::kube::{Cluster, GATEWAY, SYSTEM};
use crate::support::wait::until;
use crate::support::{now, runtime};

const RESOURCE: &str = "https://mcp.example.com/team/notes";

pub(super) fn authority(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": VERSION, "kind": "McpAuthorizationServer", "metadata": {"name": name}, "spec": spec})
}

fn account(cluster: &Cluster, namespace: &str, name: &str) {
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}}),
    );
}

/// A trust anchor as proxies are given it.
fn given_authority(cluster: &Cluster, name: &str) -> Authority {
    let source = object(cluster, "McpAuthorizationServer", None, name).unwrap();
    match generated_of(cluster, "authority", &source) {
        Some(Generated::Authority(authority)) => authority,
        other => panic!("{other:?}"),
    }
}

fn given_server(cluster: &Cluster, name: &str) -> Option<Server> {
    match generated_of(cluster, "server", &object(cluster, "McpServer", Some("team"), name)?)? {
        Generated::Server(server) => Some(server),
        other => panic!("{other:?}"),
    }
}

/// What a proxy says of a token at the server `team/notes`: the caller, or the reason why it is refused.
fn judged(authority: &Authority, token: &str) -> Result<Verified, &'static str> {
    let anchors = [Arc::new(Anchor::compile(authority).unwrap())];
    let id = ObjectId { uid: "u".into(), namespace: "team".into(), name: "notes".into(), generation: 1 };
    let server = Use { anchors: &anchors, id: &id, resource: RESOURCE, audiences: &[] };
    let now = i64::try_from(now()).unwrap();
    let verified = verify(token, &anchors, now).map_err(|error| error.reason())?;
    admit(&verified, &server, now).map(drop).map_err(|error| error.reason())?;
    Ok(verified)
}

#[test]
fn service_accounts_of_the_cluster_are_callers_with_tokens_made_for_a_server_and_no_others() {
    let cluster = installed();
    for (namespace, name) in [("ci", "release-bot"), (GATEWAY, "portcullis-upstream")] {
        if namespace != GATEWAY {
            cluster.namespace(namespace, &[]);
        }
        account(&cluster, namespace, name);
    }
    cluster.apply(&authority("cluster", &json!({"kubernetes": {}})));
    cluster.apply(&authority("reviewed", &json!({"kubernetes": {"tokenReview": true}})));
    let _controller = Controller::start(&cluster);
    for name in ["cluster", "reviewed"] {
        wait_condition(&cluster, ("McpAuthorizationServer", None, name), ("KeysAvailable", "True", "KeysAvailable"));
    }
    let cluster_authority = given_authority(&cluster, "cluster");
    let issuer = cluster_authority.issuer.as_str();

    // The API server's audiences are its own words.
    let default = cluster.service_account_token("ci", "release-bot", &[]);
    let claims = URL_SAFE_NO_PAD.decode(default.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["iss"], issuer);
    let TypRule::ServiceAccount { api_audiences, .. } = &cluster_authority.rules.typ else { panic!() };
    for audience in claims["aud"].as_array().unwrap() {
        assert!(api_audiences.contains(&audience.as_str().unwrap().to_owned()), "{audience} {api_audiences:?}");
    }

    let asked = |audiences: &[&str]| {
        let token = cluster.service_account_token("ci", "release-bot", audiences);
        judged(&cluster_authority, &token)
    };
    for audience in [RESOURCE, "portcullis:team/notes"] {
        let verified = asked(&[audience]).unwrap();
        let principal = verified.principal();
        assert_eq!(
            (principal.kind, &*principal.subject),
            (Kind::ServiceAccount, "system:serviceaccount:ci:release-bot")
        );
        assert_eq!(principal.groups, Groups::of_service_account("ci"));
    }
    // Whether the API server is asked too is the authority's, and nothing that a token says.
    let token = cluster.service_account_token("ci", "release-bot", &[RESOURCE]);
    let needs_review = |authority: &Authority| judged(authority, &token).unwrap().needs_review();
    assert!(!needs_review(&cluster_authority) && needs_review(&given_authority(&cluster, "reviewed")));
    assert_eq!(asked(&[]).unwrap_err(), "ApiServerAudience");
    assert_eq!(asked(&[RESOURCE, api_audiences[0].as_str()]).unwrap_err(), "ApiServerAudience");
    assert_eq!(asked(&["portcullis:team/other"]).unwrap_err(), "AudienceMismatch");
    assert_eq!(asked(&["https://mcp.example.com"]).unwrap_err(), "AudienceMismatch");
    let own = cluster.service_account_token(GATEWAY, "portcullis-upstream", &[RESOURCE]);
    assert_eq!(judged(&cluster_authority, &own).unwrap_err(), "GatewaysOwnToken");
}

#[test]
fn an_upstream_is_shown_a_token_for_itself_alone_which_outlives_its_controller() {
    let cluster = installed();
    cluster.namespace("team", &[]);
    cluster.apply(&authority("cluster", &json!({"kubernetes": {}})));
    let upstream =
        json!({"service": {"name": "notes", "port": 8443, "scheme": "https"}, "credentials": {"serviceAccount": {}}});
    let spec = json!({"upstream": upstream, "authorization": {"servers": ["cluster"]}});
    cluster.apply(&server("team", "notes", &spec));
    cluster.delete("v1", "ServiceAccount", Some(GATEWAY), "portcullis-upstream");
    let controller = Controller::start(&cluster);
    wait_condition(&cluster, ("McpServer", Some("team"), "notes"), ("ResolvedRefs", "False", "UpstreamTokenMissing"));
    account(&cluster, GATEWAY, "portcullis-upstream");
    let served =
        wait_condition(&cluster, ("McpServer", Some("team"), "notes"), ("ResolvedRefs", "True", "ResolvedRefs"));
    let given = given_server(&cluster, "notes").unwrap();
    assert_eq!(given.upstream.url, "https://notes.team.svc:8443/mcp");
    let Credentials::ServiceAccount { token } = &given.upstream.credentials else { panic!() };

    let review = |audience: &str| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token.expose(), "audiences": [audience]}});
        let asked = http::Request::post("/apis/authentication.k8s.io/v1/tokenreviews");
        let asked = asked.body(serde_json::to_vec(&review).unwrap()).unwrap();
        let answer: Value = runtime().block_on(cluster.client().request(asked)).unwrap();
        answer["status"]["authenticated"] == true
    };
    assert!(review("portcullis-upstream:team/notes"));
    assert!(!review("portcullis-upstream:team/other") && !review("https://kubernetes.default.svc"));

    // Whoever leads next goes on with it.
    controller.stop();
    let controller = Controller::start(&cluster);
    controller.wait_leading();
    until("the server to be looked at", || {
        let looks = "portcullis_reconciles_total{kind=\"McpServer\",result=\"done\"}";
        (controller.metric(looks) >= 1.0).then_some(())
    });
    assert_eq!(given_server(&cluster, "notes").unwrap(), given);
    let told = json!([served, object(&cluster, "McpServer", Some("team"), "notes")]).to_string();
    assert!(!told.contains(token.expose()) && !controller.process.stderr().contains(token.expose()));
}

pub(super) fn client(spec: &Value) -> Value {
    let mut object = json!({"apiVersion": VERSION, "kind": "McpClient", "metadata": {"namespace": "team", "name": "ana"},
        "spec": {"authorizationServer": "local", "method": "Token",
            "token": {"subject": "ana", "groups": ["dev", "sre"], "servers": ["notes"]}}});
    for (member, value) in spec.as_object().unwrap() {
        object["spec"][member] = value.clone();
    }
    object
}

/// The token in a Secret of the namespace `team`.
fn token_in(cluster: &Cluster, secret: &str) -> Option<String> {
    let secret = cluster.get("v1", "Secret", Some("team"), secret)?;
    let text = secret["data"]["token"].as_str()?;
    String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).ok()
}

/// Asks for a look at the client now, instead of when it is due.
fn nudge(cluster: &Cluster, spec: &Value, times: u32) {
    let mut object = client(spec);
    object["metadata"]["labels"] = json!({"nudged": times.to_string()});
    cluster.apply(&object);
}

pub(super) const ANA: (&str, Option<&str>, &str) = ("McpClient", Some("team"), "ana");
const ISSUED: (&str, &str, &str) = ("TokenIssued", "True", "TokenIssued");

/// A cluster with an issuer of its own, a server, and a client that has its token.
pub(super) fn with_client() -> (Cluster, Controller) {
    let cluster = installed();
    cluster.namespace("team", &[]);
    cluster.apply(&authority("local", &json!({"local": {}})));
    let spec = json!({"authorization": {"servers": ["local"], "scopes": {"baseline": ["mcp:use"]}}});
    cluster.apply(&server("team", "notes", &spec));
    cluster.apply(&client(&json!({})));
    let controller = Controller::start(&cluster);
    let told = wait_condition(&cluster, ANA, ("TokenIssued", "False", "SecretForbidden"));
    let (_, binding) =
        message(&told, "TokenIssued").split_once("applies:\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    cluster.apply_yaml(&binding);
    wait_condition(&cluster, ANA, ISSUED);
    (cluster, controller)
}

#[test]
fn a_client_is_given_a_token_that_is_mended_narrowed_and_ends_with_it() {
    let (cluster, controller) = with_client();
    let judged_now = |token: &str| judged(&given_authority(&cluster, "local"), token).map(|verified| verified.issued());
    let first = token_in(&cluster, "ana-token").unwrap();
    let verified = judged(&given_authority(&cluster, "local"), &first).unwrap();
    let principal = verified.principal();
    assert_eq!((principal.kind, &*principal.subject), (Kind::User, "ana"));
    assert!(principal.client.as_deref().unwrap().starts_with("team/ana/") && verified.scopes().contains("mcp:use"));
    let told = wait_condition(&cluster, ANA, ISSUED);
    assert_eq!(told["status"]["token"]["jti"], verified.token_id().unwrap());
    assert_eq!(told["status"]["clientId"], principal.client.as_deref().unwrap());

    // What somebody makes of the Secret is mended: another text, and nothing at all.
    let text = "kubectl edited this";
    cluster.kubectl(&[
        "-n",
        "team",
        "patch",
        "secret",
        "ana-token",
        "-p",
        &json!({"stringData": {"token": text}}).to_string(),
    ]);
    nudge(&cluster, &json!({}), 1);
    let second = until("the Secret to be mended", || token_in(&cluster, "ana-token").filter(|token| token != text));
    cluster.delete("v1", "Secret", Some("team"), "ana-token");
    nudge(&cluster, &json!({}), 2);
    let third = until("the Secret to be made again", || token_in(&cluster, "ana-token"));
    for token in [&first, &second, &third] {
        assert!(judged_now(token).is_ok(), "mending ends no token");
    }

    // Less than before: what says more ends.
    let less = json!({"token": {"subject": "ana", "groups": ["dev"], "servers": ["notes"]}});
    cluster.apply(&client(&less));
    let narrow = until("a token that says less", || token_in(&cluster, "ana-token").filter(|token| *token != third));
    until("older tokens to end", || (judged_now(&third) == Err("TokenRevoked")).then_some(()));
    assert_eq!(judged_now(&first), Err("TokenRevoked"));
    let narrowed = judged(&given_authority(&cluster, "local"), &narrow).unwrap();
    assert_eq!(narrowed.principal().groups, Groups::Known(["dev".into()].into()));

    // Its author ends what was given out.
    let mut later = less.clone();
    later["validAfter"] = jiff::Timestamp::from_second(narrowed.issued().unwrap() + 1).unwrap().to_string().into();
    cluster.apply(&client(&later));
    until("older tokens to end", || (judged_now(&narrow) == Err("TokenRevoked")).then_some(()));
    let last = until("a new token", || token_in(&cluster, "ana-token").filter(|token| *token != narrow));
    assert!(judged_now(&last).is_ok());
    let mut earlier = later.clone();
    earlier["validAfter"] = "2020-01-01T00:00:00Z".into();
    let refused = runtime().block_on(cluster.try_apply(&client(&earlier))).unwrap_err();
    assert!(refused.to_string().contains("validAfter cannot be moved back"), "{refused}");

    // Another controller goes on with key and token, and the client's end is theirs.
    controller.stop();
    let controller = Controller::start(&cluster);
    controller.wait_leading();
    assert!(judged_now(&last).is_ok());
    cluster.delete(VERSION, "McpClient", Some("team"), "ana");
    until("its tokens to end", || (judged_now(&last) == Err("ClientNotListed")).then_some(()));

    for token in [first, second, third, narrow, last] {
        let signature = token.rsplit('.').next().unwrap();
        for (version, kind) in [(VERSION, "McpClient"), ("v1", "ConfigMap"), ("events.k8s.io/v1", "Event")] {
            assert!(!json!(cluster.list(version, kind, None)).to_string().contains(signature), "{kind}");
        }
        assert!(!controller.process.stderr().contains(signature));
    }
}

#[test]
fn a_secret_of_somebody_else_is_left_alone_and_a_name_that_is_given_up_is_freed() {
    let (cluster, _controller) = with_client();
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs", "namespace": "team"},
        "stringData": {"token": "not yours"}}));
    let named = |name: &str| json!({"token": {"subject": "ana", "groups": ["dev", "sre"], "servers": ["notes"], "secretName": name}});
    cluster.apply(&client(&named("theirs")));
    wait_condition(&cluster, ANA, ("TokenIssued", "False", "SecretConflict"));
    assert_eq!(token_in(&cluster, "theirs").unwrap(), "not yours");
    cluster.apply(&client(&named("mine")));
    wait_condition(&cluster, ANA, ISSUED);
    until("the earlier Secret to go", || token_in(&cluster, "ana-token").is_none().then_some(()));
    assert!(judged(&given_authority(&cluster, "local"), &token_in(&cluster, "mine").unwrap()).is_ok());
}

#[test]
fn a_signing_key_is_made_once_owned_by_its_authority_and_a_damaged_one_is_told_of() {
    let cluster = installed();
    cluster.apply(&authority("local", &json!({"local": {}})));
    let one = Controller::start(&cluster);
    let two = Controller::start(&cluster);
    let local = ("McpAuthorizationServer", None, "local");
    let source = wait_condition(&cluster, local, ("KeysAvailable", "True", "KeysAvailable"));
    let name = format!("issuer-{}", source["metadata"]["uid"].as_str().unwrap());
    let key = cluster.get("v1", "Secret", Some(SYSTEM), &name).unwrap();
    assert_eq!((&key["immutable"], &key["metadata"]["ownerReferences"][0]["name"]), (&json!(true), &json!("local")));
    let keys = given_authority(&cluster, "local").key_set.unwrap();
    one.stop();
    two.wait_leading();
    assert_eq!(given_authority(&cluster, "local").key_set.unwrap(), keys);
    two.stop();

    cluster.delete("v1", "Secret", Some(SYSTEM), &name);
    let broken = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": SYSTEM},
        "stringData": {"signing-key.p8": "no key"}});
    cluster.apply(&broken);
    cluster.namespace("team", &[]);
    cluster.apply(&server("team", "notes", &json!({"authorization": {"servers": ["local"]}})));
    cluster.apply(&client(&json!({})));
    let _three = Controller::start(&cluster);
    let told = wait_condition(&cluster, ANA, ("TokenIssued", "False", "SigningKeyDamaged"));
    assert!(message(&told, "TokenIssued").contains("restore it from a backup"));
    assert_eq!(cluster.get("v1", "Secret", Some(SYSTEM), &name).unwrap()["data"]["signing-key.p8"], "bm8ga2V5");
}

/// Runs `portcullis token` against the cluster, as an administrator.
fn token_verb(cluster: &Cluster, arguments: &[&str]) -> std::process::Output {
    let mut command = crate::support::process::portcullis();
    command.arg("token").args(arguments).arg("--cluster").env("KUBECONFIG", cluster.kubeconfig());
    command.output().unwrap()
}

#[test]
fn tokens_are_issued_listed_and_revoked_in_a_cluster_as_on_one_machine() {
    let (cluster, _controller) = with_client();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let judged_now = |token: &str| judged(&given_authority(&cluster, "local"), token).map(drop);
    let issue = ["issue", "--for", "Bob Lee", "--server", "team/notes", "--group", "sre", "--label", "laptop"];
    let issued = token_verb(&cluster, &issue);
    assert!(issued.status.success(), "{}", text(&issued.stderr));
    let token = text(&issued.stdout).trim().to_owned();
    until("proxies to be told of the client", || judged_now(&token).is_ok().then_some(()));
    assert!(text(&issued.stderr).contains("for Bob Lee, until"), "{}", text(&issued.stderr));
    let verified = judged(&given_authority(&cluster, "local"), &token).unwrap();
    assert_eq!(&*verified.principal().subject, "Bob Lee");
    let id = verified.token_id().unwrap();

    let listed = || {
        let output = token_verb(&cluster, &["list", "--namespace", "team", "-o", "json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
    };
    let tokens = listed();
    let bobs = tokens.iter().find(|one| one["jti"] == id).unwrap();
    assert_eq!(
        (&bobs["state"], &bobs["label"], &bobs["subject"]),
        (&json!("active"), &json!("laptop"), &json!("Bob Lee"))
    );
    assert!(tokens.len() == 2 && !json!(tokens).to_string().contains(token.rsplit('.').next().unwrap()));

    let revoked = token_verb(&cluster, &["revoke", "--namespace", "team", "--for", "Bob Lee"]);
    assert!(revoked.status.success(), "{}", text(&revoked.stderr));
    until("the token to end", || (judged_now(&token) == Err("TokenRevoked")).then_some(()));
    let nobody = token_verb(&cluster, &["revoke", "--namespace", "team", "--for", "carol"]);
    assert_eq!(nobody.status.code(), Some(1), "{}", text(&nobody.stderr));

    // One token by its id: its authority lists it, beside what was listed before.
    let anas = token_in(&cluster, "ana-token").unwrap();
    let id = judged(&given_authority(&cluster, "local"), &anas).unwrap().token_id().unwrap().to_owned();
    for _ in 0..2 {
        let revoked = token_verb(&cluster, &["revoke", "--namespace", "team", "--id", &id]);
        assert!(revoked.status.success(), "{}", text(&revoked.stderr));
    }
    until("the token to end", || (judged_now(&anas) == Err("TokenRevoked")).then_some(()));
    let source = object(&cluster, "McpAuthorizationServer", None, "local").unwrap();
    assert_eq!(source["spec"]["revoked"], json!([{"jti": id}]));

    // What cannot be issued says why, and what stays.
    let nowhere = token_verb(&cluster, &["issue", "--for", "bob", "--server", "team/none"]);
    assert!(text(&nowhere.stderr).contains("cannot read McpServer team/none"), "{}", text(&nowhere.stderr));
    let short = token_verb(&cluster, &["issue", "--for", "bob", "--server", "team/notes", "--lifetime", "1m"]);
    let said = text(&short.stderr);
    assert!(said.contains("BoundsExceeded") && said.contains("kubectl delete mcpclient bob-"), "{said}");
}
