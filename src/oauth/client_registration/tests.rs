use proptest::prelude::*;

use super::super::client_key::ClientKey;
use super::*;

const ISSUER: &str = "https://as.example/realms/a";
const SECRET: &str = "cf136dc3c1fc93f31185e5885805d";
const TOKEN: &str = "this.is.an.access.token.value.ffx83";

fn metadata() -> ClientMetadata {
    ClientMetadata {
        client_name: "Reporting agent".to_owned(),
        application_type: ApplicationType::Web,
        redirect_uris: vec!["https://gw.example/a".to_owned(), "https://gw.example/b".to_owned()],
        grant_types: vec!["authorization_code".to_owned(), "refresh_token".to_owned()],
        response_types: vec!["code".to_owned()],
        auth_method: AuthMethod::PrivateKeyJwt,
        scopes: vec!["mcp:use".to_owned(), "mcp:admin".to_owned()],
        keys: Keys::At("https://gw.example/-/jwks".to_owned()),
        software_id: "4f0c9d3e".to_owned(),
        software_version: "7".to_owned(),
        software_statement: None,
    }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// What a server that keeps everything as it was asked answers.
fn answered(mut members: Map<String, Value>) -> Result<Registered, RegistrationError> {
    members.insert("client_id".to_owned(), json!("s6BhdRkqt3"));
    parse_registered(Value::Object(members).to_string().as_bytes(), ISSUER)
}

fn jwks(keys: &[Value]) -> Value {
    json!({ "keys": keys })
}

fn key() -> Value {
    ClientKey::new(&ClientKey::generate().unwrap()).unwrap().public_jwk()
}

/// The example of RFC 7591 section 3.2.1, with the two members of RFC 7592 section 3.
fn example() -> Map<String, Value> {
    object(json!({
        "registration_access_token": TOKEN,
        "registration_client_uri": "https://as.example/register/s6BhdRkqt3",
        "client_id": "s6BhdRkqt3",
        "client_secret": SECRET,
        "client_id_issued_at": 2_893_256_800_i64,
        "client_secret_expires_at": 2_893_276_800_i64,
        "redirect_uris": ["https://client.example.org/callback", "https://client.example.org/callback2"],
        "grant_types": ["authorization_code", "refresh_token"],
        "client_name": "My Example Client",
        "client_name#ja-Jpan-JP": "\u{30AF}\u{30E9}\u{30A4}\u{30A2}\u{30F3}\u{30C8}\u{540D}",
        "token_endpoint_auth_method": "client_secret_basic",
        "logo_uri": "https://client.example.org/logo.png",
        "jwks_uri": "https://client.example.org/my_public_keys.jwks",
        "example_extension_parameter": "example_value",
    }))
}

fn with(name: &str, value: Value) -> Result<Registered, RegistrationError> {
    let mut members = example();
    members.insert(name.to_owned(), value);
    parse_registered(Value::Object(members).to_string().as_bytes(), ISSUER)
}

#[test]
fn a_request_says_what_was_set_and_nothing_else() {
    let whole = metadata();
    assert_eq!(
        whole.create_body(),
        json!({
            "client_name": "Reporting agent",
            "application_type": "web",
            "redirect_uris": ["https://gw.example/a", "https://gw.example/b"],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "private_key_jwt",
            "scope": "mcp:use mcp:admin",
            "jwks_uri": "https://gw.example/-/jwks",
            "software_id": "4f0c9d3e",
            "software_version": "7",
        })
    );
    let service = ClientMetadata {
        redirect_uris: Vec::new(),
        grant_types: vec!["client_credentials".to_owned()],
        response_types: Vec::new(),
        scopes: Vec::new(),
        keys: Keys::Inline(jwks(&[json!({"kty": "EC"})])),
        software_id: String::new(),
        software_version: String::new(),
        software_statement: Some("e30.e30.AA".to_owned()),
        ..whole
    };
    assert_eq!(
        service.create_body(),
        json!({
            "client_name": "Reporting agent",
            "application_type": "web",
            "grant_types": ["client_credentials"],
            "response_types": [],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [{"kty": "EC"}]},
            "software_statement": "e30.e30.AA",
        })
    );
}

#[test]
fn an_update_says_all_of_it_and_nothing_that_only_a_server_sets() {
    let metadata = metadata();
    let read = |body: &Sensitive| -> Map<String, Value> { serde_json::from_str(body.expose()).unwrap() };
    let body = read(&metadata.update_body("s6BhdRkqt3", Some(&Sensitive::new(SECRET))));
    assert_eq!((&body["client_id"], &body["client_secret"]), (&json!("s6BhdRkqt3"), &json!(SECRET)));
    for (name, value) in object(metadata.create_body()) {
        assert_eq!(body[&name], value, "RFC 7592 section 2.2: what is omitted is deleted");
    }
    let server_only =
        ["registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"];
    assert!(server_only.iter().all(|name| !body.contains_key(*name)));
    assert!(!read(&metadata.update_body("s6BhdRkqt3", None)).contains_key("client_secret"));
    let shown = format!("{:?}", metadata.update_body("s6BhdRkqt3", Some(&Sensitive::new(SECRET))));
    assert!(!shown.contains(SECRET));
}

#[test]
fn the_example_of_the_specification_is_read() {
    let registered = parse_registered(Value::Object(example()).to_string().as_bytes(), ISSUER).unwrap();
    assert_eq!(registered.client_id, "s6BhdRkqt3");
    assert_eq!(registered.client_secret, Some(Sensitive::new(SECRET)));
    assert_eq!(registered.secret_expires_at, Some(2_893_276_800));
    assert_eq!(registered.issued_at, Some(2_893_256_800));
    let management = registered.management.clone().unwrap();
    assert_eq!(management.uri, "https://as.example/register/s6BhdRkqt3");
    assert_eq!(management.token.expose(), TOKEN);
    let public: Vec<&str> = registered.metadata.keys().map(String::as_str).collect();
    let expected =
        ["client_name", "grant_types", "jwks_uri", "logo_uri", "redirect_uris", "token_endpoint_auth_method"];
    assert_eq!(public, expected);
    let shown = format!("{registered:?} {:?}", registered.metadata);
    assert!(!shown.contains(SECRET) && !shown.contains(TOKEN), "{shown}");
}

#[test]
fn a_plain_answer_without_management_or_secret_is_enough() {
    let registered = parse_registered(br#"{"client_id":"c"}"#, ISSUER).unwrap();
    assert_eq!(
        registered,
        Registered {
            client_id: "c".to_owned(),
            client_secret: None,
            secret_expires_at: None,
            issued_at: None,
            management: None,
            metadata: Map::new(),
        }
    );
    let nulls = br#"{"client_id":"c","client_secret":null,"registration_access_token":null,"scope":null}"#;
    assert_eq!(parse_registered(nulls, ISSUER), Ok(registered));
    assert_eq!(with("client_secret_expires_at", json!(0)).unwrap().secret_expires_at, None, "0 is never");
    let bare = br#"{"client_id":"c","registration_client_uri":"https://elsewhere.example/"}"#;
    assert_eq!(parse_registered(bare, ISSUER).unwrap().management, None, "without a token nothing is sent there");
}

#[test]
fn answers_that_cannot_be_used_are_refused() {
    for (name, value, reason) in [
        ("client_id", json!(null), "RegistrationIncomplete"),
        ("client_id", json!(""), "RegistrationMalformed"),
        ("client_id", json!(7), "RegistrationMalformed"),
        ("client_id", json!("a\nb"), "RegistrationMalformed"),
        ("client_id", json!("cl\u{ef}ent"), "RegistrationMalformed"),
        ("client_id", json!("a".repeat(2049)), "RegistrationMalformed"),
        ("client_secret", json!(["x"]), "RegistrationMalformed"),
        ("client_secret", json!("a".repeat(4097)), "RegistrationMalformed"),
        ("client_secret_expires_at", json!("0"), "RegistrationMalformed"),
        ("client_secret_expires_at", json!(-1), "RegistrationMalformed"),
        ("client_secret_expires_at", json!(1.5), "RegistrationMalformed"),
        ("client_secret_expires_at", json!(u64::MAX), "RegistrationMalformed"),
        ("client_id_issued_at", json!({}), "RegistrationMalformed"),
        ("registration_access_token", json!("a b"), "RegistrationMalformed"),
        ("registration_access_token", json!("a\r\nX-Evil: 1"), "RegistrationMalformed"),
        ("registration_access_token", json!("a".repeat(8001)), "RegistrationMalformed"),
        ("registration_client_uri", json!(null), "RegistrationIncomplete"),
        ("registration_client_uri", json!(["https://as.example/"]), "RegistrationMalformed"),
        ("registration_client_uri", json!("/register/1"), "UrlMalformed"),
        ("registration_client_uri", json!("http://as.example/register/1"), "UrlNotHttps"),
        ("registration_client_uri", json!("http://127.0.0.1/register/1"), "RegistrationElsewhere"),
        ("registration_client_uri", json!("https://as.example@evil.example/1"), "UrlHasUserInfo"),
        ("registration_client_uri", json!("https://as.example.evil.example/1"), "RegistrationElsewhere"),
        ("registration_client_uri", json!("https://evil.example/?https://as.example"), "RegistrationElsewhere"),
        ("registration_client_uri", json!("https://as.example:8443/1"), "RegistrationElsewhere"),
        ("registration_client_uri", json!("https://as.example/a/../b"), "UrlPathAmbiguous"),
    ] {
        let error = with(name, value.clone()).unwrap_err();
        assert_eq!(error.reason(), reason, "{name}: {value:.60}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(SECRET) && !shown.contains(TOKEN), "{shown}");
    }
}

#[test]
fn the_management_endpoint_may_be_written_in_any_way_that_is_the_issuers_origin() {
    let uri = |uri: &str, issuer: &str| {
        let body = json!({"client_id": "c", "registration_access_token": TOKEN, "registration_client_uri": uri});
        parse_registered(body.to_string().as_bytes(), issuer).map(|registered| registered.management.unwrap().uri)
    };
    let explicit = "https://as.example:443/register?client_id=c";
    assert_eq!(uri(explicit, ISSUER).as_deref(), Ok(explicit));
    let local = "http://127.0.0.1:8080/reg/c";
    assert_eq!(uri(local, "http://127.0.0.1:8080").as_deref(), Ok(local));
    assert!(uri(local, "http://127.0.0.1:8081").is_err() && uri(local, "https://127.0.0.1:8080").is_err());
}

#[test]
fn hostile_documents_are_refused() {
    let deep = format!(r#"{{"client_id":"c","x":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    let large = format!(r#"{{"client_id":"c","x":"{}"}}"#, "x".repeat(64 * 1024));
    for (text, reason) in [
        (r#"{"client_id":"c","client_id":"d"}"#, "JsonDuplicateMember"),
        (r#"{"client_id":"c","client_secret":"a","client_\u0073ecret":"b"}"#, "JsonDuplicateMember"),
        (r#"{"client_id":"c","jwks":{"keys":[{"kty":"EC","kty":"RSA"}]}}"#, "JsonDuplicateMember"),
        (r#"["client_id"]"#, "JsonNotAnObject"),
        (r#"{"client_id":"c"} {}"#, "JsonMalformed"),
        ("<html>", "JsonMalformed"),
        ("", "JsonMalformed"),
        ("{}", "RegistrationIncomplete"),
        (&deep, "JsonTooDeep"),
        (&large, "RegistrationTooLarge"),
    ] {
        assert_eq!(parse_registered(text.as_bytes(), ISSUER).unwrap_err().reason(), reason, "{text:.60}");
    }
}

#[test]
fn public_metadata_repeats_no_secret_and_no_private_key() {
    let mut public = key();
    public["d"] = json!("canary");
    for (name, value) in [
        ("client_name", json!(format!("agent {SECRET}"))),
        ("scope", json!(TOKEN)),
        ("contacts", json!(["a", {"x": [SECRET]}])),
        ("tos_uri", json!({TOKEN: 1})),
        ("unknown", json!("canary")),
        ("software_statement", json!("canary")),
        ("jwks", jwks(&[public])),
        ("jwks", json!({"keys": "canary"})),
        ("jwks", json!("canary")),
    ] {
        let registered = with(name, value).unwrap();
        if registered.metadata.contains_key("jwks") {
            let keys = ClientMetadata { keys: Keys::Inline(jwks(&[key()])), ..metadata() };
            let found = keys.drift(&registered.metadata);
            assert!(found.iter().any(|difference| difference.field == "jwks" && difference.weakens));
        }
        let shown = Value::Object(registered.metadata).to_string();
        assert!(["canary", SECRET, TOKEN].iter().all(|secret| !shown.contains(secret)), "{name}: {shown}");
    }
}

#[test]
fn what_hides_behind_a_secret_still_weakens() {
    let metadata = ClientMetadata { redirect_uris: vec!["https://gw.example/a".to_owned()], ..metadata() };
    for uris in [json!(["https://gw.example/a", format!("https://evil.example/{TOKEN}")]), json!([SECRET])] {
        let found = metadata.drift(&with("redirect_uris", uris).unwrap().metadata);
        let redirects = found.iter().find(|difference| difference.field == "redirect_uris").unwrap();
        assert!(redirects.weakens && redirects.got == "something unreadable", "{redirects:?}");
    }
}

#[test]
fn what_is_absent_is_its_default() {
    let bare = ClientMetadata {
        redirect_uris: Vec::new(),
        grant_types: vec!["authorization_code".to_owned()],
        auth_method: AuthMethod::ClientSecretBasic,
        keys: Keys::None,
        scopes: Vec::new(),
        software_id: String::new(),
        software_version: String::new(),
        client_name: String::new(),
        ..metadata()
    };
    assert_eq!(bare.drift(&Map::new()), []);
    let nulls = json!({"grant_types": null, "response_types": null, "token_endpoint_auth_method": null});
    assert_eq!(bare.drift(&object(nulls)), []);
    let other = ClientMetadata {
        grant_types: vec!["client_credentials".to_owned()],
        response_types: Vec::new(),
        auth_method: AuthMethod::ClientSecretPost,
        application_type: ApplicationType::Native,
        ..bare
    };
    let found: Vec<_> = other.drift(&Map::new()).into_iter().map(|d| (d.field, d.weakens)).collect();
    let expected = [
        ("application_type", false),
        ("grant_types", true),
        ("response_types", true),
        ("token_endpoint_auth_method", false),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_difference_says_what_was_asked_for_and_what_is() {
    let mut got = metadata().members();
    got.insert("grant_types".to_owned(), json!(["implicit", "authorization_code"]));
    got.insert("client_name".to_owned(), json!(format!("a\r\nb{}", "c".repeat(1000))));
    got.remove("software_id");
    let differences = metadata().drift(&got);
    assert_eq!(differences.len(), 3);
    assert!(differences[0].got.starts_with("a bccc") && differences[0].got.chars().count() == 201);
    let expected = Difference {
        field: "grant_types",
        wanted: "authorization_code refresh_token".to_owned(),
        got: "authorization_code implicit".to_owned(),
        weakens: true,
    };
    assert_eq!(differences[1], expected);
    assert_eq!((differences[2].field, differences[2].got.as_str()), ("software_id", "nothing"));
}

/// What Keycloak 26.7 made of a native client with `code`.
#[test]
fn an_answer_with_nothing_in_it_gives_nothing() {
    let mut got = metadata().members();
    got.insert("response_types".to_owned(), json!(["code", "none"]));
    assert_eq!(metadata().drift(&got), []);
    got.insert("response_types".to_owned(), json!(["code", "none", "token"]));
    let found = metadata().drift(&got);
    assert_eq!((found.len(), found[0].got.as_str(), found[0].weakens), (1, "code token", true));
}

#[test]
fn another_way_to_authenticate_weakens_unless_it_rests_on_the_same_secret() {
    use AuthMethod as M;
    let methods = ["private_key_jwt", "client_secret_basic", "client_secret_post", "client_secret_jwt", "none", "x"];
    for (wanted, strong) in [
        (M::PrivateKeyJwt, &["private_key_jwt"][..]),
        (M::ClientSecretBasic, &["client_secret_basic", "client_secret_post", "client_secret_jwt"]),
        (M::ClientSecretPost, &["client_secret_basic", "client_secret_post", "client_secret_jwt"]),
        (M::None, &methods),
    ] {
        let metadata = ClientMetadata { auth_method: wanted, ..metadata() };
        for method in methods {
            let mut got = metadata.members();
            got.insert("token_endpoint_auth_method".to_owned(), json!(method));
            let found: Vec<_> = metadata.drift(&got).into_iter().map(|d| (d.field, d.weakens)).collect();
            let expected =
                (method != wanted.as_str()).then(|| ("token_endpoint_auth_method", !strong.contains(&method)));
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{wanted:?} {method}");
        }
        assert_eq!(wanted.as_str().parse(), Ok(wanted));
    }
    assert_eq!("client_secret_jwt".parse::<M>(), Err(AuthMethodError));
}

#[test]
fn foreign_keys_are_found_in_every_form() {
    let (own, foreign) = (key(), key());
    let mut dressed = own.clone();
    dressed["kid"] = json!("another name");
    let odd = json!({"kty": "AKP", "pub": "AAAA"});
    let inline = ClientMetadata { keys: Keys::Inline(jwks(&[own.clone(), odd.clone()])), ..metadata() };
    let at = metadata();
    let none = ClientMetadata { keys: Keys::None, auth_method: AuthMethod::None, ..metadata() };
    for (wanted, members, expected) in [
        (&inline, json!({"jwks": jwks(&[odd.clone(), dressed])}), None),
        (&inline, json!({"jwks": jwks(std::slice::from_ref(&own))}), Some(false)),
        (&inline, json!({}), Some(false)),
        (&inline, json!({"jwks": jwks(&[])}), Some(false)),
        (&inline, json!({"jwks": jwks(&[own.clone(), odd.clone(), foreign.clone()])}), Some(true)),
        (&inline, json!({"jwks": jwks(&[own.clone(), json!({"kty": "AKP", "pub": "AAAB"})])}), Some(true)),
        (&inline, json!({"jwks": "keys"}), Some(true)),
        (&inline, json!({"jwks": jwks(&[own.clone(), odd]), "jwks_uri": "https://evil.example"}), Some(true)),
        (&at, json!({"jwks_uri": "https://gw.example/-/jwks"}), None),
        (&at, json!({"jwks_uri": "https://gw.example/-/jwks", "jwks": null}), None),
        (&at, json!({}), Some(false)),
        (&at, json!({"jwks_uri": "https://evil.example/-/jwks"}), Some(true)),
        (&at, json!({"jwks_uri": ["https://gw.example/-/jwks"]}), Some(true)),
        (&at, json!({"jwks_uri": "https://gw.example/-/jwks", "jwks": jwks(&[foreign])}), Some(true)),
        (&none, json!({"jwks": jwks(&[own])}), None),
    ] {
        let mut got = wanted.members();
        got.remove("jwks");
        got.remove("jwks_uri");
        got.extend(object(members.clone()));
        let found = wanted.drift(&got);
        assert!(found.len() <= 1, "{found:?}");
        assert_eq!(found.first().map(|difference| difference.weakens), expected, "{members}");
    }
}

#[test]
fn refusals_are_told_apart() {
    use RefusalKind::*;
    for (status, error, kind) in [
        (400, "invalid_redirect_uri", Terminal),
        (400, "invalid_client_metadata", Terminal),
        (400, "invalid_software_statement", Terminal),
        (400, "unapproved_software_statement", Terminal),
        (401, "invalid_token", Credential),
        (403, "insufficient_scope", Credential),
        (503, "invalid_token", Later),
    ] {
        let body = json!({"error": error, "error_description": format!("see {TOKEN}")}).to_string();
        let refusal = refusal(status, body.as_bytes(), &[&Sensitive::new(TOKEN)]);
        assert_eq!((refusal.kind, refusal.error), (kind, Some(error)));
        assert_eq!(refusal.description.as_deref(), Some("see [removed]"));
    }
}

/// Some of each, in any order: servers keep sets.
fn some(of: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<String>> {
    let items: Vec<String> = of.iter().map(|item| (*item).to_owned()).collect();
    proptest::sample::subsequence(items, least..=of.len()).prop_shuffle()
}

fn any_metadata() -> impl Strategy<Value = ClientMetadata> {
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let keys = prop_oneof![
        Just(Keys::None),
        Just(Keys::At("https://gw.example/-/jwks".to_owned())),
        Just(Keys::Inline(jwks(&[key]))),
    ];
    let method = prop_oneof![
        Just(AuthMethod::PrivateKeyJwt),
        Just(AuthMethod::ClientSecretBasic),
        Just(AuthMethod::ClientSecretPost),
        Just(AuthMethod::None),
    ];
    let lists = (
        some(&["https://gw.example/a", "http://127.0.0.1/b", "com.example.app:/c"], 0),
        some(&["authorization_code", "refresh_token", "client_credentials"], 0),
        some(&["code"], 0),
        some(&["mcp:use", "mcp:admin", "openid"], 0),
    );
    let texts = (".{0,20}", ".{0,10}", ".{0,10}", any::<bool>(), proptest::option::of("[a-z.]{1,9}"));
    (lists, texts, keys, method).prop_map(|(lists, texts, keys, auth_method)| ClientMetadata {
        client_name: texts.0,
        application_type: if texts.3 { ApplicationType::Native } else { ApplicationType::Web },
        redirect_uris: lists.0,
        grant_types: lists.1,
        response_types: lists.2,
        auth_method,
        scopes: lists.3,
        keys,
        software_id: texts.1,
        software_version: texts.2,
        software_statement: texts.4,
    })
}

/// What no request says, and what a server may say of its own accord.
const ADDED: &[&str] = &[
    "client_secret_x",
    "contacts",
    "default_max_age",
    "id_token_signed_response_alg",
    "logo_uri",
    "require_auth_time",
    "subject_type",
    "tls_client_certificate_bound_access_tokens",
];

proptest! {
    #[test]
    fn what_a_server_keeps_as_it_was_asked_for_is_no_drift_whatever_it_adds(
        metadata in any_metadata(),
        added in proptest::collection::btree_map(proptest::sample::select(ADDED), any::<i64>().prop_map(Value::from), 0..4),
    ) {
        let mut members = object(metadata.create_body());
        for name in ["redirect_uris", "grant_types", "response_types"] {
            if let Some(Value::Array(items)) = members.get_mut(name) {
                items.reverse();
            }
        }
        if !metadata.scopes.is_empty() {
            let reversed: Vec<&str> = metadata.scopes.iter().rev().map(String::as_str).collect();
            members.insert("scope".to_owned(), json!(reversed.join(" ")));
        }
        members.extend(added.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let registered = answered(members).unwrap();
        prop_assert_eq!(metadata.drift(&registered.metadata), []);
    }

    #[test]
    fn an_update_read_back_is_what_a_creation_was(metadata in any_metadata()) {
        let update: Map<String, Value> = serde_json::from_str(metadata.update_body("s6BhdRkqt3", None).expose()).unwrap();
        let updated = answered(update).unwrap();
        prop_assert_eq!(&updated, &answered(object(metadata.create_body())).unwrap());
        prop_assert_eq!(metadata.drift(&updated.metadata), []);
    }

    #[test]
    fn everything_that_gives_more_is_found_and_said_to_weaken(metadata in any_metadata(), more in 0_usize..5) {
        let mut members = object(metadata.create_body());
        let field = match more {
            0 => "redirect_uris",
            1 => "grant_types",
            2 => "response_types",
            3 => "scope",
            _ => "jwks",
        };
        let expected = match field {
            "scope" => {
                members.insert(field.to_owned(), json!(format!("{} everything", metadata.scopes.join(" "))));
                !metadata.scopes.is_empty()
            }
            "jwks" => {
                let other = jwks(&[json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"})]);
                members.insert(field.to_owned(), other);
                metadata.keys != Keys::None
            }
            _ => {
                let mut items = members.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
                items.insert(0, json!("https://evil.example"));
                members.insert(field.to_owned(), json!(items));
                true
            }
        };
        let found = metadata.drift(&answered(members).unwrap().metadata);
        prop_assert_eq!(found.iter().any(|difference| difference.weakens), expected, "{:?}", found);
        prop_assert!(found.len() <= 1, "{:?}", found);
    }

    #[test]
    fn what_is_only_less_or_other_does_not_weaken(metadata in any_metadata(), less in 0_usize..4) {
        let mut members = object(metadata.create_body());
        let field = ["redirect_uris", "scope", "client_name", "software_id"][less];
        let was_set = members.remove(field).is_some_and(|value| value != json!(""));
        let found = metadata.drift(&answered(members).unwrap().metadata);
        let fields: Vec<_> = found.iter().map(|difference| (difference.field, difference.weakens)).collect();
        prop_assert_eq!(fields, if was_set { vec![(field, false)] } else { Vec::new() });
    }

    #[test]
    fn arbitrary_answers_are_read_or_refused_and_never_shown(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = parse_registered(&body, ISSUER) {
            prop_assert!(!error.reason().is_empty());
        }
    }
}
