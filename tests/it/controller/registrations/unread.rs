//! McpClients of another version, which the controller that leads cannot read: nothing is done about them.

use std::time::Duration;

use serde_json::{Value, json};

use super::place::{Last, Place, Way};
use crate::controller::message;
use crate::support::fault::{Answer, Fault, Matching};
use crate::support::runtime;
use crate::support::wait::{until, until_within};

/// Longer than the longest wait between two looks.
const LOOKED_AT: Duration = Duration::from_secs(120);
/// For so long a server puts off what it is asked (seconds).
const PUT_OFF: u32 = 40;
const LATER: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/registration/properties/later";

impl Place {
    /// The definition of McpClients is that of a later version, or is as it was.
    fn define(&self, operation: &Value) {
        let patch = json!([operation]).to_string();
        self.cluster.kubectl(&["patch", "crd", "mcpclients.portcullis.dev", "--type=json", "-p", &patch]);
    }
}

#[test]
fn an_mcp_client_that_cannot_be_read_keeps_its_registration() {
    let place = Place::new(Way::ProviderDcr);
    let _last = Last(&place);
    let controller = place.controller();
    place.apply(&json!({}));
    place.wait_ready();
    let id = place.assert_one("made");
    // It is put off: another look is due by then, and not before the API server has the other definition.
    let put_off = Fault::Instead(Answer::too_many(PUT_OFF));
    place.house.hop.fault(Matching::every("PUT", &place.registrations()), put_off);
    place.apply(&json!({"clientName": "Other"}));
    until("nobody to look after it", || message(&place.now()?, "Registered").contains("not looked").then_some(()));

    place.define(&json!({"op": "add", "path": LATER, "value": {"type": "string"}}));
    let client = place.client("reports", &json!({"clientName": "Other", "later": "word"}));
    until("the field to be stored", || {
        // An API server that has only half of the definition so far answers 500.
        drop(runtime().block_on(place.cluster.try_apply(&client)));
        (place.now()?["spec"]["registration"]["later"] == "word").then_some(())
    });
    // Watches of before the API server has the definition are told of the object without that field.
    let mut words = 0..;
    until("it not to be read", || {
        place.nudge(&words.next()?.to_string());
        (place.condition("Accepted")? == ("False".to_owned(), "UnknownField".to_owned())).then_some(())
    });
    let looks = controller.looks("registration");
    place.house.hop.heal();
    until_within(LOOKED_AT, "it to be looked at", || (controller.looks("registration") > looks).then_some(()));
    let now = place.now().unwrap();
    assert_eq!((place.asked("DELETE"), place.ours()), (0, vec![id.clone()]), "{now}");
    assert_eq!(now["metadata"]["finalizers"], json!(["portcullis.dev/registration"]));
    assert_eq!((place.ledgers().len(), place.label()), (1, json!("live")));
    assert_eq!((&now["status"]["clientId"], &now["status"]["registration"]["clientId"]), (&json!(id), &json!(id)));

    // Whoever can read it goes on with the same client.
    place.apply(&json!({"clientName": "Other"}));
    until("the other name to arrive", || place.house.describes(&id, "Other").then_some(()));
    place.wait_ready();
    assert_eq!((place.assert_one("read"), place.asked("POST")), (id, 1));
    place.define(&json!({"op": "remove", "path": LATER}));
}
