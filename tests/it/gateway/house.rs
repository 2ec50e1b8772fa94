//! One gateway before one server, shared by the tests that change neither.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http::{self, Response};
use crate::support::upstream::{Sdk, Upstream};

/// Ana may do everything but what is denied, Ben may echo, and see deletion refused.
pub(super) const RULES: &str = "
  - {name: ana, effect: Allow, principals: [{users: [ana]}], tools: [{patterns: [\"*\"]}]}
  - {name: ben, effect: Allow, principals: [{users: [ben]}], tools: [{names: [echo]}]}
  - {name: small, effect: Allow, principals: [{users: [ben]}], tools: [{names: [create_item]}], when: args.amount < 10}
  - {name: none, effect: Deny, principals: [{any: true}], tools: [{names: [delete_item]}], message: nothing is deleted}
";

pub(super) struct House {
    pub(super) gateway: Gateway,
    pub(super) upstream: Upstream,
    pub(super) ana: String,
    pub(super) ben: String,
}

/// The house of all who ask while somebody lives in it. Who leaves last ends it: a static one would outlive the tests.
pub(super) fn house() -> Arc<House> {
    static HOUSE: Mutex<Weak<House>> = Mutex::new(Weak::new());
    let mut known = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
    known.upgrade().unwrap_or_else(|| {
        let built = Arc::new(House::build());
        *known = Arc::downgrade(&built);
        built
    })
}

impl House {
    /// A house of one's own, for tests that change it or count what the server saw.
    pub(super) fn build() -> House {
        let upstream = Upstream::start(Sdk::Rmcp);
        let gateway = Gateway::start(&[
            ("trust.yaml", TRUST),
            ("server.yaml", &server("items", upstream.url())),
            ("policy.yaml", &policy("persons", "items", RULES)),
        ]);
        let (ana, ben) = (gateway.token("ana", "items"), gateway.token("ben", "items"));
        House { gateway, upstream, ana, ben }
    }

    pub(super) fn url(&self) -> String {
        self.gateway.url("items")
    }

    /// A call in the 2026 line.
    pub(super) fn call(&self, token: &str, tool: &str, arguments: Value) -> Response {
        http::post_2026(&self.url(), Some(token), "tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    /// Opens a session of the 2025 line.
    pub(super) fn session(&self, token: &str) -> Session<'_> {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {"sampling": {}, "roots": {}},
            "clientInfo": {"name": "wire", "version": "1"}});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string();
        let opened = http::post(&self.url(), Some(token), &[], body.as_bytes());
        assert_eq!(opened.status, 200, "{opened:?}");
        let id = opened.header("mcp-session-id").unwrap_or_else(|| panic!("no session in {opened:?}")).to_owned();
        let session = Session { house: self, id, initialized: opened.json() };
        let told = session.post(token, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        assert_eq!((told.status, told.body.len()), (202, 0));
        session
    }
}

/// A session of the 2025 line.
pub(super) struct Session<'a> {
    pub(super) house: &'a House,
    pub(super) id: String,
    pub(super) initialized: Value,
}

impl Session<'_> {
    pub(super) fn post(&self, token: &str, message: &Value) -> Response {
        let headers = [("Mcp-Session-Id", self.id.as_str()), ("MCP-Protocol-Version", "2025-11-25")];
        http::post(&self.house.url(), Some(token), &headers, message.to_string().as_bytes())
    }

    pub(super) fn request(&self, token: &str, method: &str, params: Value) -> Response {
        self.post(token, &json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    }
}

/// The names in a `tools/list` answer.
pub(super) fn names(answer: &Value) -> Vec<&str> {
    answer["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}
