//! Clients that stand for resources at Keycloak: by them it knows what `resource` means where persons log in (RFC 8707).
//!
//! Keycloak looks, among the audiences that a token would have, for the id of a client whose attribute `resource_url` is the
//! resource that was asked for, and makes that id the only audience. So such a client must have the resource itself as its id:
//! under any other, tokens would be for something that no server accepts. Whose it is, its mark says.
//!
//! Invariant: one is made only if there is none of that id, and deleted only if it bears our mark: what somebody else has made is
//! enough if it stands for the resource, and left as it is in any case. One that a client needs which is to stay there bears
//! another mark of ours, and stays as well: that is known by whoever asks Keycloak, and forgotten by nobody.

use serde_json::{Map, Value, json};
use url::Url;

use super::keycloak::{OWNER, clients, found, is_id, text_of};
use super::standard::told;
use crate::registration::call::{Answer, Auth, Body, Call, Heard, Place, Purpose, Verb};
use crate::registration::desired::{Desired, Method, Profile};
use crate::registration::ledger::Ledger;
use crate::registration::wanted::mark_prefix;
use crate::sensitive::Sensitive;

/// The attribute that says for which resource a client stands.
const RESOURCE: &str = "resource_url";
/// So many are listed at once: each is a few kilobytes.
pub const LISTED: usize = 40;

/// What there is of a client that stands for a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is ours.
    Ours {
        /// Keycloak's own id of it.
        id: String,
    },
    /// It is somebody else's, and does.
    Theirs,
    /// There is none.
    Absent,
    /// There is one of that id, and it stands for nothing, or for something else.
    Unfit,
}

/// The resources for which clients are to stand for the sake of a registration: a person who logs in with it names them.
pub fn needed<'d>(desired: &'d Desired, ledger: &Ledger) -> &'d [String] {
    let logs_in = desired.metadata.grant_types.iter().any(|grant| grant == "authorization_code");
    if logs_in && may_need(ledger) { &desired.resources } else { &[] }
}

/// Whether a registration may need any.
pub fn may_need(ledger: &Ledger) -> bool {
    ledger.method == Method::Admin && ledger.profile == Profile::Keycloak
}

/// The mark of this installation's.
pub fn mark(cluster: &str) -> String {
    format!("{}resource", mark_prefix(cluster))
}

/// The mark of those that stay, whoever goes.
pub fn kept_mark(cluster: &str) -> String {
    format!("{}kept-resource", mark_prefix(cluster))
}

/// Looks for the client that stands for a resource.
pub fn find(resource: &str, place: &Place) -> Option<Call> {
    let mut url = Url::parse(&format!("{}/clients", place.admin.as_ref()?)).ok()?;
    url.query_pairs_mut().append_pair("clientId", resource);
    Some(call(Purpose::Find, Verb::Get, url.into(), Body::None))
}

/// Makes it. No flow of it is on: nobody ever gets a token as it.
pub fn create(resource: &str, mark: &str, place: &Place) -> Option<Call> {
    let body = json!({
        "clientId": resource,
        "name": resource,
        "description": "Stands for an MCP server, so that tokens can be asked for it (RFC 8707)",
        "protocol": "openid-connect",
        "enabled": true,
        "publicClient": false,
        "bearerOnly": true,
        "standardFlowEnabled": false,
        "implicitFlowEnabled": false,
        "directAccessGrantsEnabled": false,
        "serviceAccountsEnabled": false,
        "fullScopeAllowed": false,
        "attributes": {RESOURCE: resource, OWNER: mark},
    });
    let body = Body::Json(Sensitive::new(body.to_string()));
    Some(call(Purpose::Create, Verb::Post, format!("{}/clients", place.admin.as_ref()?), body))
}

/// Has it stay, whoever goes: by another mark. What is not said stays as it is there.
pub fn keep(id: &str, resource: &str, mark: &str, place: &Place) -> Option<Call> {
    let url = format!("{}/clients/{id}", place.admin.as_ref()?);
    let body = json!({"clientId": resource, "attributes": {RESOURCE: resource, OWNER: mark}});
    Some(call(Purpose::Update, Verb::Put, url, Body::Json(Sensitive::new(body.to_string()))))
}

/// Lists clients whose ids are URLs, from the `first`, counted from 0, at most [`LISTED`] of them: Keycloak searches by no
/// attribute that its configuration does not name.
pub fn list(first: usize, place: &Place) -> Option<Call> {
    let mut url = Url::parse(&format!("{}/clients", place.admin.as_ref()?)).ok()?;
    let (first, most) = (first.to_string(), LISTED.to_string());
    let mut query = url.query_pairs_mut();
    query.append_pair("search", "true").append_pair("clientId", "://");
    query.append_pair("first", &first).append_pair("max", &most);
    drop(query);
    Some(call(Purpose::Find, Verb::Get, url.into(), Body::None))
}

/// What an answer to [`list`] lists: the resources that clients of this mark stand for, and how many clients it has in all.
///
/// # Errors
/// In words, if it says nothing.
pub fn listed(answer: &Answer, mark: &str) -> Result<(Vec<String>, usize), String> {
    if answer.status != 200 {
        return Err(told(&answer.refusal(), answer.status));
    }
    let all = clients(&answer.body)?;
    let marked = all.iter().filter(|client| attribute(client, OWNER) == Some(mark));
    let stands = |client: &Map<String, Value>| {
        text_of(client, "clientId").filter(|id| attribute(client, RESOURCE) == Some(id)).map(str::to_owned)
    };
    Ok((marked.filter_map(stands).collect(), all.len()))
}

/// Deletes it.
pub fn delete(id: &str, place: &Place) -> Option<Call> {
    let url = format!("{}/clients/{id}", place.admin.as_ref()?);
    Some(call(Purpose::Delete, Verb::Delete, url, Body::None))
}

fn call(purpose: Purpose, verb: Verb, url: String, body: Body) -> Call {
    Call { purpose, verb, url, auth: Auth::Admin, body, says: None }
}

/// What an answer to [`find`] says.
///
/// # Errors
/// In words, if it says nothing.
pub fn hear(answer: &Answer, resource: &str, mark: &str) -> Result<Standing, String> {
    if answer.status != 200 {
        return Err(told(&answer.refusal(), answer.status));
    }
    let Some(client) = found(&answer.body, resource)? else { return Ok(Standing::Absent) };
    if attribute(&client, RESOURCE) != Some(resource) {
        return Ok(Standing::Unfit);
    }
    Ok(match text_of(&client, "id").filter(|id| is_id(id)) {
        Some(id) if attribute(&client, OWNER) == Some(mark) => Standing::Ours { id: id.to_owned() },
        _ => Standing::Theirs,
    })
}

/// Whether an answer to [`create`] or [`delete`] says that it is done, by whomever.
///
/// # Errors
/// In words, if it does not.
pub fn done(purpose: Purpose, heard: Result<&Answer, &Heard>) -> Result<(), String> {
    match heard {
        Ok(answer)
            if matches!((purpose, answer.status), (_, 200..=299) | (Purpose::Create, 409) | (Purpose::Delete, 404)) =>
        {
            Ok(())
        }
        Ok(answer) => Err(told(&answer.refusal(), answer.status)),
        Err(
            Heard::Refused(why) | Heard::Denied(why) | Heard::Unknown(why) | Heard::Unsent(why) | Heard::Lacking(why),
        ) => Err(why.clone()),
        Err(_) => Err("it was not asked".to_owned()),
    }
}

fn attribute<'c>(client: &'c Map<String, Value>, name: &str) -> Option<&'c str> {
    client.get("attributes")?.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::tests::{desired, place};

    const NOTES: &str = "https://mcp.example.com/team/notes?a=b&c=d";

    fn ledger() -> Ledger {
        Ledger::new(&desired(), "McpClient", Method::Admin, "0123abcd-89ef")
    }

    fn answer(status: u16, body: &Value) -> Answer {
        Answer { status, body: body.to_string().into_bytes(), retry_after: None, denies_token: false, sent: Vec::new() }
    }

    #[test]
    fn only_who_logs_persons_in_by_the_administrative_api_needs_one() {
        let (mut login, mut ledger) = (desired(), ledger());
        login.resources = vec![NOTES.to_owned()];
        assert!(needed(&login, &ledger).is_empty(), "it speaks for itself");
        login.metadata.grant_types = vec!["authorization_code".to_owned()];
        assert_eq!(needed(&login, &ledger), [NOTES]);
        ledger.method = Method::Dcr;
        assert!(needed(&login, &ledger).is_empty());
    }

    #[test]
    fn it_is_looked_for_by_the_resource_exactly_and_nobody_gets_a_token_as_it() {
        let call = find(NOTES, &place()).unwrap();
        assert!(call.url.ends_with("/clients?clientId=https%3A%2F%2Fmcp.example.com%2Fteam%2Fnotes%3Fa%3Db%26c%3Dd"));
        let Body::Json(body) = create(NOTES, "m", &place()).unwrap().body else { panic!() };
        let body: Value = serde_json::from_str(body.expose()).unwrap();
        assert_eq!((&body["clientId"], &body["attributes"][RESOURCE]), (&json!(NOTES), &json!(NOTES)));
        let flags = body.as_object().unwrap().iter().filter(|(_, value)| **value == json!(true));
        assert_eq!(flags.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["bearerOnly", "enabled"]);
        assert_eq!(mark("0123abcd-89ef"), "portcullis:0123abcd:resource");
        assert_eq!(kept_mark("0123abcd-89ef"), "portcullis:0123abcd:kept-resource");
    }

    #[test]
    fn only_what_bears_the_mark_and_stands_for_its_id_is_listed() {
        let url = list(40, &place()).unwrap().url;
        assert!(url.ends_with("/clients?search=true&clientId=%3A%2F%2F&first=40&max=40"), "{url}");
        let client = |id: &str, attributes: Value| json!({"id": "1", "clientId": id, "attributes": attributes});
        let list = json!([
            client(NOTES, json!({RESOURCE: NOTES, OWNER: "ours"})),
            client("https://a", json!({RESOURCE: "https://b", OWNER: "ours"})),
            client("https://c", json!({RESOURCE: "https://c", OWNER: "theirs"})),
            client("https://d", json!({RESOURCE: "https://d"})),
            client("e", json!({OWNER: "ours"})),
        ]);
        assert_eq!(listed(&answer(200, &list), "ours"), Ok((vec![NOTES.to_owned()], 5)));
        assert_eq!(listed(&answer(200, &json!([])), "ours"), Ok((vec![], 0)));
        for (status, body) in [(403, json!({"error": "x"})), (200, json!({"a": 1})), (500, json!(null))] {
            assert!(listed(&answer(status, &body), "ours").is_err(), "{status} {body}");
        }
    }

    #[test]
    fn what_somebody_else_has_made_is_enough_or_told_and_never_ours() {
        let of = |attributes: &Value| {
            let list =
                json!([{"id": "1", "clientId": "other"}, {"id": "2", "clientId": NOTES, "attributes": attributes}]);
            hear(&answer(200, &list), NOTES, "ours")
        };
        assert_eq!(of(&json!({RESOURCE: NOTES, OWNER: "ours"})), Ok(Standing::Ours { id: "2".to_owned() }));
        for attributes in [json!({RESOURCE: NOTES}), json!({RESOURCE: NOTES, OWNER: "portcullis:other:resource"})] {
            assert_eq!(of(&attributes), Ok(Standing::Theirs), "{attributes}");
        }
        for attributes in
            [json!({}), json!({OWNER: "ours"}), json!({RESOURCE: "https://mcp.example.com", OWNER: "ours"})]
        {
            assert_eq!(of(&attributes), Ok(Standing::Unfit), "{attributes}");
        }
        assert_eq!(hear(&answer(200, &json!([])), NOTES, "ours"), Ok(Standing::Absent));
        for (status, body) in [(403, json!({"error": "x"})), (200, json!({"a": 1})), (500, json!(null))] {
            assert!(hear(&answer(status, &body), NOTES, "ours").is_err(), "{status} {body}");
        }
    }
}
