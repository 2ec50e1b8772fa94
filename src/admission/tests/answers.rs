//! What is refused, what is warned of, and what is admitted.

use serde_json::json;

use super::*;
use crate::admission::judge::wanted;

fn allow() -> Value {
    policy("team", json!({"servers": ["a"]}), json!([rule("r", "Allow", json!({}))]))
}

#[test]
fn what_is_wrong_in_itself_is_refused_with_field_and_remedy() {
    let mut misspelled = allow();
    misspelled["spec"]["rules"][0]["whne"] = "args.a == 1".into();
    let answer = answer(&world(), None, Some(&misspelled));
    let refusal = answer.refusal().unwrap();
    assert_eq!((refusal.reason, refusal.causes[0][0].as_str()), ("Invalid", "UnknownField"));
    assert_eq!(refusal.causes[0][1], "spec.rules[0].whne");
    let sent: Value = serde_json::from_slice(&answer.encode()).unwrap();
    let details = &sent["response"]["status"]["details"];
    assert_eq!(
        (&details["kind"], &details["name"]),
        (&json!("McpPolicy"), &json!("p")),
        "kubectl names the object by these"
    );
    assert!(refusal.message.contains("did you mean \"when\"?"), "{}", refusal.message);
    let sent: Value = serde_json::from_slice(&answer.encode()).unwrap();
    assert_eq!(sent["response"]["allowed"], false);
    assert_eq!(
        (&sent["response"]["status"]["code"], &sent["apiVersion"]),
        (&422.into(), &"admission.k8s.io/v1".into())
    );
    assert_eq!(sent["response"]["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
}

#[test]
fn what_depends_on_others_is_a_warning() {
    let stranger = policy("team", json!({"servers": ["nowhere"]}), json!([rule("r", "Deny", json!({}))]));
    let warned = answer(&world(), None, Some(&stranger));
    assert_eq!(warned.refusal(), None);
    assert!(warned.warnings()[0].contains("no McpServer team/nowhere"), "{:?}", warned.warnings());
    assert_eq!(warned.outcome(), "Warned");
    assert_eq!(answer(&nothing_known(), None, Some(&allow())).refusal(), None);
}

#[test]
fn an_update_that_changes_neither_spec_nor_labels_is_never_refused() {
    let mut slipped_past = allow();
    slipped_past["spec"]["rules"][0]["whne"] = "x".into();
    let mut touched = slipped_past.clone();
    touched["metadata"]["finalizers"] = json!(["a/b"]);
    touched["metadata"]["annotations"] = json!({"a": "b"});
    touched["status"] = json!({"conditions": []});
    assert_eq!(answer(&world(), Some(&slipped_past), Some(&touched)).outcome(), "Admitted");
    touched["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(answer(&world(), Some(&slipped_past), Some(&touched)).outcome(), "Invalid");
    // And it can be deleted.
    assert_eq!(answer(&world(), Some(&slipped_past), None).refusal(), None);
}

#[test]
fn who_claims_a_path_that_is_taken_is_told() {
    let twin = server("twin", json!({}), json!({"path": "/team/a"}));
    let warned = answer(&world(), None, Some(&twin));
    assert_eq!((warned.refusal(), warned.warnings().len()), (None, 1));
    let said = &warned.warnings()[0];
    assert!(said.contains("/team/a is claimed by McpServer team/a and McpServer team/twin (PathConflict)"), "{said}");
}

#[test]
fn what_is_not_known_is_asked_for() {
    let mut world = world();
    let named = json!({"targets": {"servers": ["a", "new"]}, "rules": [rule("r", "Allow", json!({
        "principals": [{"groups": ["g"], "authority": "later"}, {"mcpClients": ["bot"]}]
    }))]});
    let mut new = allow();
    patch(&mut new["spec"], &named);
    let keys = |world: &World, new: &Value| -> Vec<String> {
        wanted(&review(None, Some(new)), world).iter().map(ToString::to_string).collect()
    };
    assert_eq!(keys(&world, &new), ["McpAuthorizationServer later", "McpClient team/bot", "McpServer team/new"]);
    // What is found is no reason to warn.
    put(&mut world, &authority("later"));
    let fresh = crate::api::object::read(&server("new", json!({}), json!({}))).unwrap();
    let warnings = |found: &[crate::api::Object]| {
        let review = review(None, Some(&new));
        let found = looked_up(&review, &world, found);
        let answer = judge(&review, &world, &found).decide(&[]).tell(&review, &world, &found, 0);
        answer.warnings().iter().filter(|warning| warning.contains("ServerNotFound")).count()
    };
    assert_eq!((warnings(&[]), warnings(&[fresh])), (1, 0));
}

#[test]
fn secrets_are_presumed_and_config_maps_are_asked_for() {
    let headers = json!([{"name": "authorization", "secretKeyRef": {"name": "s", "key": "k"}}]);
    let lock = json!({"configMapName": "lock", "sha256": "0".repeat(64)});
    let locked = server(
        "c",
        json!({}),
        json!({
            "upstream": {"credentials": {"none": null, "headers": headers}}, "tools": {"lock": lock}
        }),
    );
    let world = world();
    let review = review(None, Some(&locked));
    assert_eq!(wanted(&review, &world).iter().map(ToString::to_string).collect::<Vec<_>>(), ["ConfigMap team/lock"]);
    let warnings = answer(&world, None, Some(&locked)).warnings().to_vec();
    assert!(warnings.len() == 1 && warnings[0].contains("LockNotFound"), "{warnings:?}");
    // Of the objects that are there, it is not said by this process.
    let mut world = world;
    put(&mut world, &locked);
    let served = world.fleet().by_name("team", "c").unwrap();
    assert_eq!((&served.server.state, &served.server.lock), (&crate::generated::server::State::Enabled, &None));
}

#[test]
fn a_clients_secret_is_presumed_and_what_else_hinders_it_is_a_warning() {
    let client = |spec: Value| {
        let mut whole = json!({"authorizationServer": "corp", "method": "Preregistered", "registration":
            {"clientId": "dashboards", "clientSecretRef": {"name": "given", "key": "secret"}}});
        patch(&mut whole, &spec);
        object("McpClient", Some("team"), "dashboards", json!({}), whole)
    };
    let mut world = world();
    let told = |world: &World, old: Option<&Value>, new: &Value| {
        let answer = answer(world, old, Some(new));
        assert_eq!(answer.refusal(), None);
        answer.warnings().to_vec()
    };
    let first = client(json!({}));
    assert_eq!(told(&world, None, &first), [""; 0]);
    put(&mut world, &first);
    let changed = client(json!({"registration": {"servers": ["a"]}}));
    assert_eq!(told(&world, Some(&first), &changed), [""; 0]);
    for (word, spec) in [
        ("AuthorityNotFound", json!({"authorizationServer": "nowhere"})),
        ("ServerNotFound", json!({"registration": {"servers": ["nowhere"]}})),
        ("MethodNotAllowed", json!({"method": "DCR", "registration": {"clientId": null, "clientSecretRef": null}})),
    ] {
        let warned = told(&world, Some(&first), &client(spec));
        assert!(warned.len() == 1 && warned[0].contains(word), "{warned:?}");
    }
}

/// What is wrong with the pair is told whether the client has a secret, of which nothing is seen here, or a key.
#[test]
fn a_client_that_does_not_fit_its_upstream_is_told_however_it_is_proved() {
    let mut world = world();
    put(&mut world, &authority("partner"));
    let with = |grant: &str| {
        let oauth = json!({"client": "gateway", "grant": grant});
        server("c", json!({}), json!({"upstream": {"credentials": {"none": null, "oauth": oauth}}}))
    };
    let mut warned = Vec::new();
    for proof in [
        json!({"clientSecretRef": {"name": "given", "key": "secret"}}),
        json!({"clientSecretRef": {"name": "given", "key": "secret"}, "tokenEndpointAuthMethod": "client_secret_post"}),
        json!({"tokenEndpointAuthMethod": "private_key_jwt"}),
    ] {
        let mut registration = json!({"clientId": "gateway"});
        patch(&mut registration, &proof);
        let spec = json!({"authorizationServer": "partner", "method": "Preregistered", "registration": registration});
        put(&mut world, &object("McpClient", Some("team"), "gateway", json!({}), spec));
        assert_eq!(answer(&world, None, Some(&with("ClientCredentials"))).warnings(), [""; 0], "{proof}");
        warned.push(answer(&world, None, Some(&with("TokenExchange"))).warnings().to_vec());
    }
    assert!(warned[0].len() == 1 && warned[0][0].contains("callers have no tokens of partner"), "{warned:?}");
    assert!(warned.iter().all(|said| *said == warned[0]), "{warned:?}");
}

#[test]
fn an_upstreams_client_is_asked_for_and_what_keeps_it_from_being_one_is_a_warning() {
    let calling =
        server("c", json!({}), json!({"upstream": {"credentials": {"none": null, "oauth": {"client": "gateway"}}}}));
    let client = |spec: Value| {
        let mut whole = json!({"authorizationServer": "corp", "method": "Preregistered", "registration":
            {"clientId": "gateway", "clientSecretRef": {"name": "given", "key": "secret"}}});
        patch(&mut whole, &spec);
        object("McpClient", Some("team"), "gateway", json!({}), whole)
    };
    let token = client(json!({"method": "Token", "registration": null, "token": {"subject": "ana", "servers": ["a"]}}));
    let review = review(None, Some(&calling));
    let warnings = |world: &World, found: &[&Value]| -> Vec<String> {
        let found: Vec<Object> = found.iter().map(|found| crate::api::object::read(found).unwrap()).collect();
        let found = looked_up(&review, world, &found);
        judge(&review, world, &found).decide(&[]).tell(&review, world, &found, 0).warnings().to_vec()
    };
    let mut world = world();
    assert_eq!(wanted(&review, &world).iter().map(ToString::to_string).collect::<Vec<_>>(), ["McpClient team/gateway"]);
    let lacking = warnings(&world, &[]);
    assert!(lacking.len() == 1 && lacking[0].contains("no McpClient team/gateway"), "{lacking:?}");
    assert!(lacking[0].contains("spec.upstream.credentials.oauth.client"), "{lacking:?}");
    // Its Secret is presumed, as every one.
    assert_eq!(warnings(&world, &[&client(json!({}))]), [""; 0]);
    assert!(warnings(&world, &[&token])[0].contains("has the method Token"));
    put(&mut world, &client(json!({})));
    assert_eq!((wanted(&review, &world).len(), warnings(&world, &[])), (0, Vec::new()));
    put(&mut world, &token);
    assert!(warnings(&world, &[])[0].contains("has the method Token"));
    // Whoever mends the client opens no server by that: it counts as one that takes calls.
    put(&mut world, &calling);
    let served = world.fleet().by_name("team", "c").unwrap();
    assert_eq!(served.server.state, crate::generated::server::State::Enabled);
}

#[test]
fn an_invalid_policy_stands_as_at_a_proxy() {
    let mut world = world();
    let mut mixed = policy(
        "team",
        json!({"servers": ["a"]}),
        json!([rule("yes", "Allow", json!({})), rule("no", "Deny", json!({"tools": [{"names": ["get_secret"]}]}))]),
    );
    put(&mut world, &mixed);
    let names = |world: &World| -> Vec<String> {
        let served = world.fleet().by_name("team", "a").unwrap();
        served.layers.rules().iter().map(|rule| rule.reference.rule.to_string()).collect()
    };
    assert_eq!(names(&world).len(), 2);
    mixed["spec"]["rules"][0]["whne"] = "x".into();
    put(&mut world, &mixed);
    assert_eq!(names(&world), ["no"]);
    // Made anew, it was never accepted.
    mixed["metadata"]["uid"] = "another".into();
    put(&mut world, &mixed);
    assert!(world.fleet().by_name("team", "a").unwrap().layers.denied.is_some());
    world.remove(&review(None, Some(&mixed)).key);
    assert!(world.fleet().by_name("team", "a").unwrap().layers.denied.is_none());
}

#[test]
fn the_order_in_which_the_world_is_told_does_not_matter() {
    let objects = [
        authority("corp"),
        server("a", json!({"tier": "gold"}), json!({})),
        policy("team", json!({"selector": {"matchLabels": {"tier": "gold"}}}), json!([rule("r", "Allow", json!({}))])),
        policy(
            SYSTEM,
            json!({"selector": {}, "namespaceSelector": {"matchLabels": {"stage": "prod"}}}),
            json!([rule("g", "Deny", json!({"tools": [{"names": ["get_x"]}]}))]),
        ),
    ];
    let seen = |order: &[usize]| {
        let mut world = nothing_known();
        order.iter().for_each(|index| put(&mut world, &objects[*index]));
        world.put(Kind::Namespace, json!({"metadata": {"name": "team", "labels": {"stage": "prod"}}}));
        let served = world.fleet().by_name("team", "a").unwrap();
        let mut rules: Vec<String> = served.layers.rules().iter().map(|rule| rule.reference.rule.to_string()).collect();
        rules.sort();
        (served.server.authorities.clone(), rules)
    };
    let expected = (vec!["corp".to_owned()], vec!["g".to_owned(), "r".to_owned()]);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        assert_eq!(seen(&order), expected, "{order:?}");
    }
}
