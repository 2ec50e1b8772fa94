//! The tools of a server, as its status lists them.
//!
//! Invariant: it is an inventory only if it is whole: of what the status leaves out, nothing could be said.

use serde::Deserialize as _;
use serde_json::Value;

use crate::access::targets::Tool;
use crate::api::v1alpha1::{ToolDrift, ToolsStatus};
use crate::resolve;

/// The tools that a server lists, if its status has all of them; `None` also where the upstream lists none.
pub fn inventory(server: &Value) -> Option<Vec<Tool>> {
    let status = ToolsStatus::deserialize(server.pointer("/status/tools")?).ok()?;
    let listed = status.items.into_iter().filter(|tool| tool.drift != Some(ToolDrift::Gone));
    let tools: Vec<Tool> = listed.map(|tool| Tool::listed(tool.name, tool.risk.map(resolve::risk_class))).collect();
    (usize::try_from(status.count) == Ok(tools.len())).then_some(tools)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::generated::Risk;
    use crate::tools::risk::KnownRisk;

    #[test]
    fn the_tools_of_a_status_are_an_inventory_if_they_are_all() {
        let status = |count: u32| {
            inventory(&json!({"status": {"tools": {"count": count, "items": [
                {"name": "delete_x", "risk": "Destructive"}, {"name": "odd"}, {"name": "odder", "risk": "Write"},
                {"name": "away", "drift": "Gone"},
            ]}}}))
        };
        let tools = status(3).unwrap();
        let known: Vec<_> = tools.iter().map(|tool| (tool.name.as_str(), tool.risk.unwrap())).collect();
        let destructive = Some(Risk::Destructive);
        assert_eq!(
            known,
            [
                ("delete_x", KnownRisk { own: destructive, guardrail: destructive }),
                ("odd", KnownRisk::default()),
                // Neither its name nor a schema says so: only its owner.
                ("odder", KnownRisk { own: Some(Risk::Write), guardrail: None }),
            ]
        );
        assert_eq!(status(4), None, "the status holds the first of them only");
        assert_eq!(inventory(&json!({"status": {}})), None);
    }
}
