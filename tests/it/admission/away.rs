//! The webhook is away: what it guards waits, and nothing else does.

use serde_json::json;

use super::house::{House, VERSION, policy, server, trust};
use crate::support::wait::until;

#[test]
fn while_nobody_answers_our_kinds_are_refused_and_nothing_else_is_touched() {
    let mut house = House::build();
    house.taken(&trust());
    house.taken(&server("notes"));
    house.taken(&policy("readers", "notes"));
    house.kill_webhook();

    for object in [server("other"), policy("other", "notes")] {
        let said = house.refused(&object);
        assert!(said.contains("failed calling webhook \"validate.portcullis.dev\""), "{said}");
    }
    let mut edit = policy("readers", "notes");
    edit["spec"]["rules"][0]["effect"] = json!("Deny");
    house.refused(&edit);
    // Everybody else's objects, and what is not judged of ours.
    house.taken(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "another"}}));
    house.taken(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "team"}}));
    house.cluster.kubectl(&["annotate", "mcpserver", "notes", "-n", "team", "a=b"]);
    // The controller writes status all the same.
    until("the controller to say what it makes of the server", || {
        let server = house.cluster.get(VERSION, "McpServer", Some("team"), "notes")?;
        (server["status"]["conditions"].as_array().is_some_and(|all| !all.is_empty())).then_some(())
    });
    // And deletion works.
    house.cluster.kubectl(&["delete", "mcppolicy", "readers", "-n", "team"]);
    house.cluster.kubectl(&["delete", "mcpauthorizationserver", "corp"]);

    house.start_webhook();
    house.wait_ready();
    house.taken(&trust());
    house.taken(&policy("readers", "notes"));
    house.cluster.kubectl(&["delete", "mcppolicy", "readers", "-n", "team"]);
}

#[test]
fn while_it_hangs_our_kinds_are_refused_in_time_and_nothing_else_waits() {
    let house = House::build();
    house.taken(&trust());
    house.taken(&server("notes"));
    house.taken(&policy("readers", "notes"));
    house.freeze_webhook(true);

    // The API server's own bound ends it.
    let said = house.refused(&server("other"));
    assert!(said.contains("failed calling webhook \"validate.portcullis.dev\""), "{said}");
    house.taken(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "team"}}));
    house.cluster.kubectl(&["annotate", "mcpserver", "notes", "-n", "team", "a=b"]);
    house.cluster.kubectl(&["delete", "mcppolicy", "readers", "-n", "team"]);

    house.freeze_webhook(false);
    until("it to answer again", || house.apply(&server("other")).status.success().then_some(()));
}
