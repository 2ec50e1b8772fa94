//! McpClients of another version, which the controller that leads cannot read: nothing is done about them.

use std::time::Duration;

use serde_json::{Value, json};

use super::place::{Last, Place, Way};
use crate::controller::message;
use crate::support::wait::{until, until_within};

/// Longer than the longest wait between two looks.
const LOOKED_AT: Duration = Duration::from_secs(120);
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
    // Another look is due soon.
    place.house.hop.down();
    place.apply(&json!({"clientName": "Other"}));
    until("nobody to look after it", || message(&place.now()?, "Registered").contains("not looked").then_some(()));

    place.define(&json!({"op": "add", "path": LATER, "value": {"type": "string"}}));
    let client = place.client("reports", &json!({"clientName": "Other", "later": "word"}));
    until("the field to be stored", || {
        place.cluster.apply(&client);
        (place.now()?["spec"]["registration"]["later"] == "word").then_some(())
    });
    // Watches of before the API server has the definition are told of the object without that field.
    let mut words = 0..;
    until("it not to be read", || {
        place.nudge(&words.next()?.to_string());
        (place.condition("Accepted")? == ("False".to_owned(), "UnknownField".to_owned())).then_some(())
    });
    let looks = controller.looks("registration");
    place.house.hop.up();
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
