//! The one integration-test binary: linking is what costs, so every test that crosses a boundary lives below here.
#![allow(clippy::disallowed_methods, reason = "tests are the stranger who dials the gate")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    reason = "a panic fails the test"
)]

mod admission;
mod architecture;
mod authorization_servers;
mod behaviour;
mod changes;
mod chart;
mod cli;
mod clients;
mod compatibility;
mod controller;
mod crds;
mod demo;
mod docs;
mod fleet;
mod gateway;
mod newcomer;
mod panics;
mod plugin;
mod sarif;
mod support;
mod supported;
mod upstream_oauth;
