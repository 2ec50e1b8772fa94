//! What every test that crosses a boundary stands on: processes that end with their test, real MCP clients and servers, an
//! issuer with faults, raw HTTP, and a search for leaked secrets.
//!
//! All of it is synchronous from a test's point of view; what needs a runtime shares [`runtime`].

pub(crate) mod attack_tokens;
pub(crate) mod behaviour;
pub(crate) mod browser;
pub(crate) mod by_hand;
pub(crate) mod canary;
pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod documents;
pub(crate) mod fault;
pub(crate) mod gateway;
pub(crate) mod hanging_disk;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod inside;
pub(crate) mod issuer;
pub(crate) mod keycloak;
pub(crate) mod kube;
pub(crate) mod locked_upstream;
pub(crate) mod login;
pub(crate) mod ports;
pub(crate) mod preload;
pub(crate) mod process;
pub(crate) mod provider;
pub(crate) mod rebound;
pub(crate) mod resource_server;
pub(crate) mod rmcp_client;
pub(crate) mod rmcp_server;

pub(crate) mod seen;
pub(crate) mod small_disk;
pub(crate) mod strict;
pub(crate) mod testbed;
pub(crate) mod token;
pub(crate) mod trusted;
pub(crate) mod upstream;
pub(crate) mod wait;

use std::sync::OnceLock;

/// The runtime behind in-process servers and clients. Only block on it from a test's own thread.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap())
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
