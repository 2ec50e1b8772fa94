//! The tests on a real cluster: kubelet, Services, DNS and Pods of the real image, installed by Helm. `make test-cluster`
//! brings the cluster up and runs them one after another, in the order of their names: a release is installed, used,
//! upgraded and removed.
#![allow(clippy::disallowed_methods, reason = "tests are the stranger who dials the gate")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    reason = "a panic fails the test"
)]

#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "shared with the other test binary, which uses all of it")]
mod support;

mod bench;
mod release;
mod world;
