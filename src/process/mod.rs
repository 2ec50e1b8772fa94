//! What every role shares: admin listener, drain, telemetry, TLS, worker threads.
//!
//! Invariant: nothing here knows what a role does; a role registers its checks, counters and tasks.

pub mod admin;
pub mod certificate;
pub mod drain;
pub mod metrics;
pub mod readiness;
pub mod telemetry;
pub mod tls;
pub mod workers;

pub use drain::Drain;
pub use readiness::Readiness;
pub use workers::{Seats, Workers};
