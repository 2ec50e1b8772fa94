//! Keycloak, by its administrative REST API.
//!
//! Invariant: a client has an id that is known before it is made, so making it twice makes one; only a client that bears our
//! mark is read, changed or deleted; and only a search that lists nothing says that it is gone. Whether it is switched on is
//! for an administrator to say.

use serde_json::{Map, Value, json};
use url::Url;

use super::Adapter;
use super::standard::told;
use crate::oauth::client_registration::{AuthMethod, Difference, Keys};
use crate::oauth::json;
use crate::registration::call::{Answer, Auth, Body, Call, Client, Heard, Place, Purpose, Verb};
use crate::registration::claim::{Claim, shown};
use crate::registration::ledger::{Handle, Registration};
use crate::registration::wanted::{Marks, Wanted};
use crate::sensitive::Sensitive;

/// Keycloak's administrative API.
pub struct Keycloak;

/// The attribute of a client that says whose it is.
pub(super) const OWNER: &str = "portcullis.owner";
/// What our audience mappers are called, followed by a number.
const MAPPER: &str = "portcullis-audience-";

impl Adapter for Keycloak {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn reads_before_updating(&self) -> bool {
        true
    }

    fn create(&self, wanted: &Wanted, place: &Place) -> Option<Call> {
        let url = format!("{}/clients", place.admin.as_ref()?);
        let mut client = representation(wanted);
        // Of one that is there, an administrator says whether it is on.
        client.insert("enabled".to_owned(), json!(true));
        let body = Body::Json(Sensitive::new(Value::Object(client).to_string()));
        Some(Call { purpose: Purpose::Create, verb: Verb::Post, url, auth: Auth::Admin, body, says: None })
    }

    fn find(&self, marks: &Marks, place: &Place) -> Option<Call> {
        search(Purpose::Find, &marks.client_id, place)
    }

    fn adopt(&self, claim: &Claim, place: &Place) -> Option<Call> {
        search(Purpose::Adopt, &claim.claimed.client_id, place)
    }

    fn read(&self, registration: &Registration, place: &Place) -> Option<Call> {
        one(registration, place, "", Purpose::Read, Verb::Get, Body::None)
    }

    fn update(
        &self,
        registration: &Registration,
        wanted: &Wanted,
        found: Option<&Map<String, Value>>,
        place: &Place,
    ) -> Option<Call> {
        let mut wanted = representation(wanted);
        // One that was taken over may have another id than ours would be, and keeps it.
        wanted.insert("clientId".to_owned(), json!(registration.client_id));
        // The list replaces what is there, and other mappers are an administrator's.
        let theirs = found.into_iter().flat_map(mappers).filter(|mapper| !is_ours(mapper)).cloned();
        if let Some(Value::Array(ours)) = wanted.get_mut("protocolMappers") {
            ours.extend(theirs);
        }
        let body = Body::Json(Sensitive::new(Value::Object(wanted).to_string()));
        one(registration, place, "", Purpose::Update, Verb::Put, body)
    }

    fn renew(&self, registration: &Registration, place: &Place) -> Option<Call> {
        one(registration, place, "/client-secret", Purpose::Renew, Verb::Post, Body::Json(Sensitive::new("{}")))
    }

    fn delete(&self, registration: &Registration, place: &Place) -> Option<Call> {
        one(registration, place, "", Purpose::Delete, Verb::Delete, Body::None)
    }

    fn hear(&self, purpose: Purpose, answer: &Answer, marks: &Marks, wanted: Option<&Wanted>) -> Heard {
        match (purpose, answer.status) {
            (Purpose::Create, 201 | 204 | 409) | (Purpose::Update, 200..=299) => Heard::Exists,
            (Purpose::Delete | Purpose::DeleteRetired, 200..=299) => Heard::Absent,
            (Purpose::Find, 200) => match found(&answer.body, &marks.client_id) {
                Ok(Some(found)) => described(found, marks, wanted),
                Ok(None) => Heard::Absent,
                Err(why) => Heard::Unknown(why.to_owned()),
            },
            (Purpose::Adopt, 200) => adopted(&answer.body, marks, wanted),
            (Purpose::Read, 200) => match json::object(&answer.body) {
                Ok(found) => described(found, marks, wanted),
                Err(error) => Heard::Unknown(error.to_string()),
            },
            (Purpose::Renew, 200) => renewed(&answer.body),
            // It may be the client that is not there, or all of the interface, which may be closed.
            (Purpose::Create | Purpose::Find | Purpose::Adopt, 404) => {
                let what = "it answered with status 404: its administrative API is not at adminUrl, or closed";
                Heard::Refused(what.to_owned())
            }
            (_, 404) => Heard::Missing,
            (Purpose::Delete | Purpose::DeleteRetired, 405 | 501) => {
                Heard::NotDeleted(told(&answer.refusal(), answer.status))
            }
            (_, 401 | 403) => Heard::Denied(told(&answer.refusal(), answer.status)),
            (_, 400 | 405..=428 | 430..=499) => Heard::Refused(told(&answer.refusal(), answer.status)),
            _ => Heard::neither(answer),
        }
    }
}

/// A search for the client of this id: one that was taken over may have any.
fn search(purpose: Purpose, client_id: &str, place: &Place) -> Option<Call> {
    let mut url = Url::parse(&format!("{}/clients", place.admin.as_ref()?)).ok()?;
    url.query_pairs_mut().append_pair("clientId", client_id);
    Some(Call { purpose, verb: Verb::Get, url: url.into(), auth: Auth::Admin, body: Body::None, says: None })
}

fn one(
    registration: &Registration,
    place: &Place,
    below: &str,
    purpose: Purpose,
    verb: Verb,
    body: Body,
) -> Option<Call> {
    let Handle::Admin { id } = &registration.handle else { return None };
    let url = format!("{}/clients/{id}{below}", place.admin.as_ref()?);
    Some(Call { purpose, verb, url, auth: Auth::Admin, body, says: None })
}

/// The client as Keycloak is told of it. What is not said here stays as it is there.
fn representation(wanted: &Wanted) -> Map<String, Value> {
    let metadata = &wanted.metadata;
    let uses = |grant: &str| metadata.grant_types.iter().any(|one| one == grant);
    let authenticator = if metadata.auth_method == AuthMethod::PrivateKeyJwt { "client-jwt" } else { "client-secret" };
    let mut all = Map::new();
    let mut say = |name: &str, value: Value| all.insert(name.to_owned(), value);
    say("clientId", json!(wanted.marks.client_id));
    say("name", json!(metadata.client_name));
    say("protocol", json!("openid-connect"));
    say("publicClient", json!(metadata.auth_method == AuthMethod::None));
    say("clientAuthenticatorType", json!(authenticator));
    say("redirectUris", json!(metadata.redirect_uris));
    say("standardFlowEnabled", json!(uses("authorization_code")));
    // Persons are asked before somebody else's client acts for them.
    say("consentRequired", json!(uses("authorization_code")));
    say("serviceAccountsEnabled", json!(uses("client_credentials")));
    say("implicitFlowEnabled", json!(false));
    say("directAccessGrantsEnabled", json!(false));
    say("fullScopeAllowed", json!(false));
    say("attributes", Value::Object(attributes(wanted)));
    let audiences = wanted.resources.iter().enumerate().map(|(i, resource)| audience_mapper(i, resource));
    say("protocolMappers", Value::Array(audiences.collect()));
    all
}

fn attributes(wanted: &Wanted) -> Map<String, Value> {
    let metadata = &wanted.metadata;
    let mut all = Map::new();
    let mut say = |name: &str, value: &str| all.insert(name.to_owned(), json!(value));
    let flag = |is: bool| if is { "true" } else { "false" };
    say(OWNER, &wanted.marks.owner);
    let (inline, at) = match &metadata.keys {
        Keys::None => (None, None),
        Keys::Inline(jwks) => (Some(jwks.to_string()), None),
        Keys::At(url) => (None, Some(url.as_str())),
    };
    say("use.jwks.string", flag(inline.is_some()));
    say("use.jwks.url", flag(at.is_some()));
    if let Some(jwks) = &inline {
        say("jwks.string", jwks);
    }
    if let Some(url) = at {
        say("jwks.url", url);
    }
    if metadata.grant_types.iter().any(|grant| grant == "authorization_code") {
        // OAuth 2.1 section 4.1.1: no code without a challenge.
        say("pkce.code.challenge.method", "S256");
    }
    say("use.refresh.tokens", flag(metadata.grant_types.iter().any(|grant| grant == "refresh_token")));
    all
}

fn audience_mapper(number: usize, resource: &str) -> Value {
    json!({
        "name": format!("{MAPPER}{number}"),
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {
            "included.custom.audience": resource,
            "access.token.claim": "true",
            "id.token.claim": "false",
            "introspection.token.claim": "true",
        },
    })
}

fn mappers(found: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    found.get("protocolMappers").and_then(Value::as_array).into_iter().flatten()
}

fn is_ours(mapper: &Value) -> bool {
    mapper["name"].as_str().is_some_and(|name| name.starts_with(MAPPER))
}

/// The client of this id, among those that the search found. Only a list of nothing says that there is none.
pub(super) fn found(body: &[u8], client_id: &str) -> Result<Option<Map<String, Value>>, &'static str> {
    let all = clients(body)?;
    let is_empty = all.is_empty();
    match all.into_iter().find(|one| text_of(one, "clientId") == Some(client_id)) {
        None if !is_empty => Err("its answer lists other clients than the one that was asked for"),
        found => Ok(found),
    }
}

/// The clients that a search has found.
pub(super) fn clients(body: &[u8]) -> Result<Vec<Map<String, Value>>, &'static str> {
    const NO_LIST: &str = "its answer is not a list of clients";
    // The parser reads objects only, and a search answers with a list.
    let text = [b"{\"found\":", body, b"}"].concat();
    let mut whole = json::object(&text).map_err(|_| NO_LIST)?;
    let Some(Value::Array(all)) = whole.get_mut("found").map(Value::take) else { return Err(NO_LIST) };
    let client = |one| if let Value::Object(one) = one { Ok(one) } else { Err(NO_LIST) };
    all.into_iter().map(client).collect()
}

pub(super) fn text_of<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v str> {
    object.get(name).and_then(Value::as_str)
}

/// What a client says of its owner.
fn mark(found: &Map<String, Value>) -> Option<&str> {
    found.get("attributes").and_then(|all| all.get(OWNER)).and_then(Value::as_str)
}

/// The client that is to be taken over.
fn adopted(body: &[u8], marks: &Marks, wanted: Option<&Wanted>) -> Heard {
    let Some(claimed) = &marks.claimed else { return Heard::Absent };
    match found(body, &claimed.client_id) {
        Ok(Some(found)) if marks.are_of(mark(&found)) => described(found, marks, wanted),
        Ok(Some(found)) => {
            Heard::Refused(format!("its mark is {}, which is not ours: say so if it is meant", shown(mark(&found))))
        }
        Ok(None) => Heard::Absent,
        Err(why) => Heard::Unknown(why.to_owned()),
    }
}

fn described(found: Map<String, Value>, marks: &Marks, wanted: Option<&Wanted>) -> Heard {
    if !marks.are_of(mark(&found)) {
        return Heard::Foreign;
    }
    let (Some(id), Some(client_id)) = (text_of(&found, "id").filter(|id| is_id(id)), text_of(&found, "clientId"))
    else {
        return Heard::Unknown("its answer describes no client".to_owned());
    };
    let uses_secret = text_of(&found, "clientAuthenticatorType") == Some("client-secret")
        && found.get("publicClient") != Some(&Value::Bool(true));
    let secret = text_of(&found, "secret").filter(|_| uses_secret).map(Sensitive::new);
    Heard::Client(Box::new(Client {
        client_id: client_id.to_owned(),
        client_secret: secret,
        secret_expires_at: None,
        handle: Some(Handle::Admin { id: id.to_owned() }),
        auth_method: None,
        is_disabled: found.get("enabled") == Some(&Value::Bool(false)),
        differences: wanted.map(|wanted| differences(&found, wanted)).unwrap_or_default(),
        found: Some(without_secrets(found)),
    }))
}

/// It becomes part of a URL.
pub(super) fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn without_secrets(mut found: Map<String, Value>) -> Map<String, Value> {
    found.retain(|name, _| name == "protocolMappers");
    found
}

fn renewed(body: &[u8]) -> Heard {
    let secret = json::object(body).ok().and_then(|answer| text_of(&answer, "value").map(Sensitive::new));
    match secret {
        Some(secret) => Heard::Secret(secret),
        None => Heard::Unknown("its answer holds no secret".to_owned()),
    }
}

/// Where the client is not what is wanted, in the names of RFC 7591 where it has one.
fn differences(found: &Map<String, Value>, wanted: &Wanted) -> Vec<Difference> {
    let is = representation(wanted);
    let mut all = Vec::new();
    let flags = [
        ("publicClient", "token_endpoint_auth_method", true),
        ("clientAuthenticatorType", "token_endpoint_auth_method", true),
        ("standardFlowEnabled", "grant_types", true),
        ("serviceAccountsEnabled", "grant_types", true),
        ("implicitFlowEnabled", "grant_types", true),
        ("directAccessGrantsEnabled", "grant_types", true),
        ("fullScopeAllowed", "fullScopeAllowed", true),
        ("consentRequired", "consent", true),
        ("name", "client_name", false),
    ];
    for (name, field, weakens) in flags {
        let (got, want) = (found.get(name).unwrap_or(&Value::Null), &is[name]);
        if got != want {
            // A grant that was switched off leaves less, not more, and so does a question that is asked besides.
            let weakens = weakens && *got != Value::Bool(name == "consentRequired");
            all.push(Difference { field, wanted: text(name, want), got: text(name, got), weakens });
        }
    }
    let redirects = |object: &Map<String, Value>| sorted(object.get("redirectUris"));
    let (got, want) = (redirects(found), redirects(&is));
    if got != want {
        let weakens = got.iter().any(|uri| !want.contains(uri));
        all.push(Difference { field: "redirect_uris", wanted: want.join(" "), got: got.join(" "), weakens });
    }
    for (name, want) in attributes(wanted) {
        let got = found.get("attributes").and_then(|all| all.get(&name)).unwrap_or(&Value::Null);
        if !is_same_attribute(&name, got, &want) {
            let field = if name.contains("jwks") { "jwks" } else { "attributes" };
            let shown =
                |value: &Value| if name == "jwks.string" { "other keys".to_owned() } else { text(&name, value) };
            let wanted = if name == "jwks.string" { "its keys".to_owned() } else { text(&name, &want) };
            all.push(Difference {
                field,
                wanted,
                got: shown(got),
                weakens: field == "jwks" || name.starts_with("pkce"),
            });
        }
    }
    let audiences = |object: &Map<String, Value>| {
        let ours = mappers(object).filter(|mapper| is_ours(mapper));
        let mut all: Vec<String> =
            ours.map(|mapper| mapper["config"]["included.custom.audience"].to_string()).collect();
        all.sort_unstable();
        all
    };
    let (got, want) = (audiences(found), audiences(&is));
    if got != want {
        let weakens = got.iter().any(|audience| !want.contains(audience));
        all.push(Difference { field: "audience", wanted: want.join(" "), got: got.join(" "), weakens });
    }
    all
}

/// Keycloak says of some attributes nothing where they are off, and keeps a JSON text as it was sent or written anew.
fn is_same_attribute(name: &str, got: &Value, want: &Value) -> bool {
    let parsed = |value: &Value| value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    match name {
        "jwks.string" => parsed(got).is_some() && parsed(got) == parsed(want),
        _ => got == want || (got.is_null() && want == "false"),
    }
}

fn sorted(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    let mut all: Vec<String> = items.filter_map(Value::as_str).map(str::to_owned).collect();
    all.sort_unstable();
    all
}

fn text(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => format!("{name}={}", text.chars().take(200).collect::<String>()),
        other => format!("{name}={other}"),
    }
}
