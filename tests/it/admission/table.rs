//! The behaviour table, through the webhook on a real API server: what `kubectl apply` is told is what `validate` says, and
//! what depends on the author, or on what an object was before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kube::Client;
use kube::api::{Patch, PatchParams};
use portcullis::resolve::Reason;
use serde_json::Value;

use super::author::{Answer, Deed, api_of, tried};
use super::house::House;
use crate::controller::USER;
use crate::support::behaviour::{Case, Edit, Expect, authors, cases, edits, world};
use crate::support::runtime;
use crate::support::wait::PATIENCE;

/// What only the controller sees, which says it in a condition: the webhook never reads a Secret.
const UNSEEN: [&str; 2] = ["SecretNotFound", "SecretHostNotAllowed"];

/// What somebody was told, and by whom.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// It is stored, with warnings of these reasons.
    Stored(BTreeSet<&'static str>),
    /// The webhook refuses it, for these reasons.
    Refused(BTreeSet<&'static str>),
    /// The API server refuses it by the schema, before anybody is asked.
    RefusedBySchema,
    /// Nobody answered.
    Unanswered,
}

/// The reason words in what is said.
fn reasons(said: &str) -> BTreeSet<&'static str> {
    Reason::ALL.iter().map(|reason| reason.as_str()).filter(|word| said.contains(&format!("({word})"))).collect()
}

fn ask(house: &House, object: &Value) -> (Told, String) {
    let asked = ["apply", "--server-side", "--force-conflicts", "--field-manager=tests", "--dry-run=server", "-f", "-"];
    let output = house.cluster.try_kubectl(&asked, Some(&object.to_string()));
    let said = String::from_utf8(output.stderr).unwrap();
    let told = match output.status.success() {
        true => Told::Stored(reasons(&said)),
        false if said.contains("failed calling webhook") => Told::Unanswered,
        // kubectl shows the causes of what is invalid, and not who said so: the words are nobody else's.
        false if said.contains("admission webhook") || !reasons(&said).is_empty() => Told::Refused(reasons(&said)),
        false => Told::RefusedBySchema,
    };
    (told, said)
}

/// Whether that is what the case expects.
fn agrees(case: &Case, told: &Told, said: &str) -> bool {
    let words: BTreeSet<&str> = case.words().into_iter().filter(|word| !UNSEEN.contains(word)).collect();
    match (case.expect, told) {
        (Expect::Reject, Told::Refused(reasons)) => {
            let field = case.field.as_deref().is_none_or(|field| said.contains(field));
            field && case.reason.as_deref().is_some_and(|reason| reasons.contains(reason))
        }
        // In its own words, of the same field or one around it.
        (Expect::Reject, Told::RefusedBySchema) => {
            let field = case.field.as_deref().unwrap_or_default();
            let around: Vec<&str> = field.split(['.', '[']).take(2).collect();
            said.contains(&around.join("."))
        }
        (Expect::Accept | Expect::Warn, Told::Stored(reasons)) => *reasons == words,
        _ => false,
    }
}

/// What has to be there before the object is judged; what stood in its place comes back afterwards.
fn prepare(house: &House, case: &Case) -> Vec<Value> {
    let mut changed: Vec<Value> = case.given.clone();
    changed.extend(case.before.clone());
    changed.iter().for_each(|object| drop(house.cluster.apply(object)));
    changed
}

fn restore(house: &House, changed: &[Value]) {
    let id = |object: &Value| {
        [&object["kind"], &object["metadata"]["namespace"], &object["metadata"]["name"]].map(Clone::clone)
    };
    for object in changed {
        match world().iter().find(|known| id(known) == id(object)) {
            Some(known) => drop(house.cluster.apply(known)),
            None => {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let (version, kind) = (text(&object["apiVersion"]).unwrap(), text(&object["kind"]).unwrap());
                let namespace = text(&object["metadata"]["namespace"]);
                let name = text(&object["metadata"]["name"]).unwrap();
                house.cluster.delete(&version, &kind, namespace.as_deref(), &name);
            }
        }
    }
}

#[test]
fn the_table_holds_through_the_webhook() {
    let house = House::build();
    world().iter().for_each(|object| drop(house.cluster.apply(object)));
    of_every_case(&house);
    of_every_edit(&house);
}

fn of_every_case(house: &House) {
    let (mut wrong, mut by_webhook) = (Vec::new(), 0);
    for case in cases() {
        let changed = prepare(house, &case);
        let begun = Instant::now();
        // What was stored a moment ago comes to the webhook by its watches.
        let (told, said) = loop {
            let (told, said) = ask(house, &case.object());
            if agrees(&case, &told, &said) || begun.elapsed() > PATIENCE {
                break (told, said);
            }
        };
        by_webhook += usize::from(matches!(told, Told::Refused(_)));
        if !agrees(&case, &told, &said) {
            wrong.push(format!("{}: {:?} {:?} expected; {told:?}\n{said}", case.name, case.expect, case.words()));
        }
        restore(house, &changed);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(by_webhook >= 25, "the schema leaves {by_webhook} refusals to the webhook");
}

/// How the answer differs from what the case expects.
fn differs(edit: &Edit, answer: &Answer) -> Option<&'static str> {
    let says = |text: &str| answer.message.contains(text);
    if edit.expect != Expect::Reject {
        let is_change = |line: &&String| ["+ ", "- ", "~ "].iter().any(|sign| line.starts_with(sign));
        let (changes, findings): (Vec<&String>, Vec<&String>) = answer.warnings.iter().partition(is_change);
        let told: Vec<&String> = edit.changes.iter().filter(|_| edit.told).collect();
        let words: BTreeSet<&str> = edit.words().into_iter().collect();
        let at_field = |field: &String| findings.iter().any(|finding| finding.contains(field.as_str()));
        let found: BTreeSet<&str> = findings.iter().flat_map(|finding| reasons(finding)).collect();
        return match answer.is_taken() {
            false => Some("it is refused"),
            true if changes != told => Some("the changes are others"),
            true if found != words || findings.len() != words.len() => Some("the warnings are others"),
            true if !edit.field.iter().all(at_field) => Some("the warnings are of another field"),
            true => None,
        };
    }
    if answer.is_taken() || !answer.warnings.is_empty() {
        return Some("it is not refused, or warned about as well");
    }
    if let Some(policy) = &edit.policy {
        return (answer.code != 403 || !says(&format!("ValidatingAdmissionPolicy '{policy}'")))
            .then_some("not by that policy");
    }
    let webhook = if edit.after().is_none() { "deletions" } else { "validate" };
    if !says(&format!("admission webhook \"{webhook}.portcullis.dev\" denied the request")) {
        return Some("not by the webhook");
    }
    if edit.needs.is_empty() {
        let as_it_says = edit.reason.iter().chain(&edit.field).all(|text| says(text));
        return (answer.code != 422 || !as_it_says).then_some("not for that");
    }
    let lacks =
        |verbs: &str, place: &str| says(&format!("(GrantMissing): the verb {verbs} on {} is needed", servers(place)));
    let missing = edit.needs.iter().all(|place| lacks("grant", place) || lacks("break-glass or grant", place));
    let lines = answer.message.matches("(GrantMissing)").count();
    (answer.code != 403 || !missing || lines != edit.needs.len()).then_some("not for want of the verb there")
}

/// A place of the table, as the webhook calls it.
fn servers(place: &str) -> String {
    match place {
        "everywhere" => "the McpServers of all namespaces".to_owned(),
        _ if place.contains('/') => format!("McpServer {place}"),
        _ => format!("the McpServers of namespace {place}"),
    }
}

/// Each author in their own name; what was there before is stored in that of the controller, about whom the webhook is not
/// asked; but McpClients in an administrator's, since the controller writes none.
fn of_every_edit(house: &House) {
    let (edits, mut changed) = (edits(), Vec::<Value>::new());
    let client = |user: &str, groups: &[&str]| house.cluster.as_user(user, groups);
    authors().iter().for_each(|object| drop(house.cluster.apply(object)));
    let unasked = client(USER, &["system:masters"]);
    let administrator = house.cluster.client();
    let store = |object: &Value| {
        let by = if object["kind"] == "McpClient" { &administrator } else { &unasked };
        let (objects, name) = (api_of(by, object), object["metadata"]["name"].as_str().unwrap());
        let how = PatchParams::apply("tests").force();
        runtime().block_on(objects.patch(name, &how, &Patch::Apply(object))).unwrap();
    };
    let mut clients: BTreeMap<&str, Client> = BTreeMap::new();
    let (mut wrong, mut records) = (Vec::new(), BTreeMap::new());
    for (number, edit) in edits.iter().enumerate() {
        // What the next case has as well stays there: if this one was refused for it, the webhook is known to know of it.
        let stored: Vec<Value> = edit.given.iter().cloned().chain(edit.before()).collect();
        let gone: Vec<Value> = changed.iter().filter(|object| !stored.contains(object)).cloned().collect();
        restore(house, &gone);
        stored.iter().filter(|object| !changed.contains(object)).for_each(store);
        changed = stored;
        let author = clients.entry(&edit.author).or_insert_with(|| client(&edit.author, &["system:authenticated"]));
        let (after, before) = (edit.after(), edit.before());
        let deed = after.as_ref().map_or_else(|| Deed::Delete(before.as_ref().unwrap()), Deed::Write);
        let begun = Instant::now();
        let (answer, id) = (0..)
            .map(|asked| format!("table-{number}-{asked}"))
            .map(|id| (tried(author, deed, &id), id))
            .find(|(answer, _)| differs(edit, answer).is_none() || begun.elapsed() > PATIENCE)
            .unwrap();
        match differs(edit, &answer) {
            Some(how) => wrong.push(format!("{}: {how}: {answer:#?}", edit.name)),
            None => drop(records.insert(id, edit)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    in_the_audit_log(house, &records);
}

/// What a change does is in the cluster's audit log, also where its author was not told; and nothing of what was refused.
fn in_the_audit_log(house: &House, edits: &BTreeMap<String, &Edit>) {
    let mut found = 0;
    for entry in house.cluster.audited() {
        let Some(edit) = edits.get(entry["auditID"].as_str().unwrap()) else { continue };
        let webhook = if edit.after().is_none() { "deletions" } else { "validate" };
        let said = entry["annotations"][format!("{webhook}.portcullis.dev/access-changes")].as_str();
        let lines: Vec<&str> = said.unwrap_or_default().lines().collect();
        assert_eq!(&lines, edit.audited.as_ref().unwrap_or(&edit.changes), "{}: {entry}", edit.name);
        found += 1;
    }
    assert_eq!(found, edits.len(), "every request is on record once");
}
