//! The step that says what was applied: the status, and an event where something went wrong or was mended.
//!
//! Invariant: what is said already is not said again; and what is said is said of the object that was looked at, never of
//! another that has its name by now.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, PatchParams};
use kube::runtime::events::{Event, EventType};
use serde_json::{Value, json};

use super::Context;
use super::conditions::{self, READY, Said, Statement, TOOLS_REVIEWED, Truth, is_under_way};
use super::error::{ApiError, Failure, code};
use super::object::{FIELD_MANAGER, version};
use crate::api::{GROUP, Key, Kind, VERSION};
use crate::cluster;

/// The longest note of an event (Kubernetes' limit is 1 kB).
const LONGEST_NOTE: usize = 900;

/// Says it, if the object does not say it already.
///
/// # Errors
/// If the API server did not take it.
pub async fn speak(context: &Context, key: &Key, uid: &str, statement: &Statement) -> Result<(), Failure> {
    let Some(source) = context.store().source(key).filter(|source| source.id.uid == uid) else { return Ok(()) };
    let Some(status) = statement.status(&source.status, Timestamp::now()) else { return Ok(()) };
    let api_version = format!("{GROUP}/{VERSION}");
    // The UID makes it a precondition: an object of the same name is another one.
    let patch = json!({
        "apiVersion": api_version, "kind": key.kind.as_str(),
        "metadata": {"name": key.name, "uid": uid}, "status": status,
    });
    let (api, params) = (api(context, key), PatchParams::apply(FIELD_MANAGER).force());
    let object = match context.while_leading(cluster::apply_status(&api, &key.name, &params, &patch)).await? {
        Ok(object) => object,
        // It is gone; the watch tells.
        Err(error) if matches!(code(&error), Some(404 | 409)) => return Ok(()),
        Err(error) => return Err(Failure::Status(ApiError::new(format!("status of {key}"), &error))),
    };
    context.metrics.spoke(key.kind);
    if let Some(version) = version(&object) {
        let said = object.data.get("status").cloned().unwrap_or(status);
        context.store().spoke(key, uid, version, said);
    }
    for event in [READY, TOOLS_REVIEWED].into_iter().filter_map(|type_| transition(type_, &source.status, statement)) {
        let reference = ObjectReference {
            api_version: Some(api_version.clone()),
            kind: Some(key.kind.as_str().to_owned()),
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        if let Err(error) = context.while_leading(context.recorder.publish(&event, &reference)).await? {
            let error = ApiError::new("an event", &error);
            tracing::warn!(object = %key, reason = error.reason(), %error, "an event was not recorded");
        }
    }
    Ok(())
}

fn api(context: &Context, key: &Key) -> Api<DynamicObject> {
    let resource = resource(key.kind);
    if key.kind.is_namespaced() {
        Api::namespaced_with(context.client.clone(), &key.namespace, &resource)
    } else {
        Api::all_with(context.client.clone(), &resource)
    }
}

/// The API of one of our kinds.
pub fn resource(kind: Kind) -> ApiResource {
    let plural = match kind {
        Kind::McpPolicy => "mcppolicies".to_owned(),
        other => format!("{}s", other.as_str().to_ascii_lowercase()),
    };
    ApiResource {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        api_version: format!("{GROUP}/{VERSION}"),
        kind: kind.as_str().to_owned(),
        plural,
    }
}

/// An event, if an object has got into trouble, into another one, or out of it, as a condition says.
fn transition(type_: &str, before: &Value, after: &Statement) -> Option<Event> {
    let earlier = conditions::conditions(before);
    let earlier = earlier.iter().find(|condition| condition.type_ == type_);
    let was = earlier.filter(|ready| ready.status == Truth::False.as_str() && !is_under_way(&ready.reason));
    let is = after.said(type_)?;
    let trouble = |said: &Said| said.truth == Truth::False && !is_under_way(&said.reason);
    let type_ = if trouble(is) && was.is_none_or(|was| was.reason != is.reason) {
        EventType::Warning
    } else if is.truth == Truth::True && was.is_some() {
        EventType::Normal
    } else {
        return None;
    };
    let mut end = LONGEST_NOTE.min(is.message.len());
    while !is.message.is_char_boundary(end) {
        end -= 1;
    }
    let note = is.message.get(..end).filter(|note| !note.is_empty()).map(str::to_owned);
    Some(Event { type_, reason: is.reason.clone(), note, action: "Reconcile".to_owned(), secondary: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::conditions::{ACCEPTED, PENDING};

    fn said(truth: Truth, reason: &str) -> Statement {
        Statement::new(1, vec![Said::new(ACCEPTED, truth, reason, "m")])
    }

    #[test]
    fn events_tell_of_trouble_and_of_its_end_and_of_nothing_else() {
        let status = |statement: &Statement| statement.status(&Value::Null, Timestamp::UNIX_EPOCH).unwrap();
        let event = |before: &Value, after: &Statement| {
            transition(READY, before, after).map(|event| (event.type_ == EventType::Warning, event.reason))
        };
        let (bad, worse) = (said(Truth::False, "Bad"), said(Truth::False, "Worse"));
        let (pending, fine) = (said(Truth::False, PENDING), said(Truth::True, ACCEPTED));
        assert_eq!(event(&Value::Null, &fine), None);
        assert_eq!(event(&Value::Null, &bad), Some((true, "Bad".into())));
        assert_eq!(event(&status(&bad), &bad), None);
        assert_eq!(event(&status(&bad), &worse), Some((true, "Worse".into())));
        assert_eq!(event(&status(&fine), &pending), None);
        assert_eq!(event(&status(&pending), &fine), None);
        assert_eq!(event(&status(&bad), &fine), Some((false, READY.into())));
    }

    #[test]
    fn the_resources_are_those_of_the_definitions() {
        for crd in crate::api::crd::all() {
            let kind = Kind::OURS.into_iter().find(|kind| kind.as_str() == crd.spec.names.kind).unwrap();
            assert_eq!(resource(kind).plural, crd.spec.names.plural);
        }
    }
}
