//! The behaviour table, through the webhook on a real API server: what `kubectl apply` is told is what `validate` says.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use portcullis::resolve::Reason;
use serde_json::Value;

use super::house::House;
use crate::support::behaviour::{Case, Expect, cases, world};

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
}

fn ask(house: &House, object: &Value) -> (Told, String) {
    let asked = ["apply", "--server-side", "--force-conflicts", "--field-manager=tests", "--dry-run=server", "-f", "-"];
    let output = house.cluster.try_kubectl(&asked, Some(&object.to_string()));
    let said = String::from_utf8(output.stderr).unwrap();
    let reasons =
        || Reason::ALL.iter().map(|r| r.as_str()).filter(|word| said.contains(&format!("({word})"))).collect();
    let told = match output.status.success() {
        true => Told::Stored(reasons()),
        false if said.contains("admission webhook") => Told::Refused(reasons()),
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
        (Expect::Reject, Told::RefusedBySchema) => true,
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
    let (mut wrong, mut by_webhook) = (Vec::new(), 0);
    for case in cases() {
        let changed = prepare(&house, &case);
        let begun = Instant::now();
        // What was stored a moment ago comes to the webhook by its watches.
        let (told, said) = loop {
            let (told, said) = ask(&house, &case.object());
            if agrees(&case, &told, &said) || begun.elapsed() > Duration::from_secs(5) {
                break (told, said);
            }
        };
        by_webhook += usize::from(told != Told::RefusedBySchema);
        if !agrees(&case, &told, &said) {
            wrong.push(format!("{}: {:?} {:?} expected; {told:?}\n{said}", case.name, case.expect, case.words()));
        }
        restore(&house, &changed);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(by_webhook >= 40, "the schema leaves {by_webhook} cases to the webhook");
}
