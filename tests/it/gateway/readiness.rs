//! What operators are shown of servers that are not served.

use crate::support::gateway::server;
use crate::support::wait::until;
use serde_json::json;

use super::house::House;

#[test]
fn a_server_without_its_secret_is_named_and_takes_nobody_else_out_of_rotation() {
    let house = House::build();
    let (ready, report) = house.gateway.readyz();
    assert!(ready && report["degraded"] == false && report["checks"]["servers"]["ok"] == true, "{report}");
    assert!(house.gateway.metrics().contains("portcullis_unserved_objects 0\n"));
    let keyed = server("other", house.upstream.url())
        .replace("none: {}", "headers: [{name: X-Api-Key, secretKeyRef: {name: gone, key: k}}]");
    house.gateway.write("other.yaml", &keyed);
    let report = until("the server to be named", || {
        let (ready, report) = house.gateway.readyz();
        assert!(ready, "one bad Secret takes no Pod out of rotation: {report}");
        (report["checks"]["servers"]["ok"] == false).then_some(report)
    });
    let check = &report["checks"]["servers"];
    assert_eq!((&report["degraded"], &check["reason"]), (&json!(true), &json!("ServersUnserved")), "{report}");
    let message = check["message"].as_str().unwrap();
    assert!(message.contains("default/other") && message.contains("SecretNotFound"), "{message}");
    assert!(house.gateway.metrics().contains("portcullis_unserved_objects 1\n"), "{}", house.gateway.metrics());
    assert!(house.call(&house.ana, "echo", json!({})).json().get("result").is_some(), "the others go on");

    house.gateway.remove("other.yaml");
    until("the report to be clean", || {
        let (_, report) = house.gateway.readyz();
        (report["degraded"] == false && report["checks"]["servers"]["ok"] == true).then_some(())
    });
    assert!(house.gateway.metrics().contains("portcullis_unserved_objects 0\n"));
}

#[test]
fn a_server_that_is_switched_off_is_no_trouble() {
    let house = House::build();
    house.gateway.write("server.yaml", &format!("{}  state: Disabled\n", server("items", house.upstream.url())));
    until("the server to refuse", || (house.call(&house.ana, "echo", json!({})).status == 503).then_some(()));
    let (ready, report) = house.gateway.readyz();
    assert!(ready && report["degraded"] == false, "{report}");
}

#[test]
fn an_authority_whose_keys_cannot_be_had_is_named() {
    let house = House::build();
    let nowhere = format!("http://127.0.0.1:{}", crate::support::ports::free_port());
    house.gateway.write(
        "corp.yaml",
        &format!(
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {{name: corp}}\nspec: {{issuer: {nowhere:?}}}\n"
        ),
    );
    until("the authority to be named", || {
        let (ready, report) = house.gateway.readyz();
        assert!(ready, "{report}");
        report["checks"]["servers"]["message"].as_str()?.contains("corp: KeysUnavailable").then_some(())
    });
    assert!(house.call(&house.ana, "echo", json!({})).json().get("result").is_some(), "the others go on");
}
