//! What every role shares: admin listener, drain, telemetry, TLS.
//!
//! Invariant: nothing here knows what a role does; a role registers its checks, counters and tasks.

pub mod admin;
pub mod drain;
pub mod metrics;
pub mod readiness;
pub mod telemetry;
pub mod tls;

pub use drain::Drain;
pub use readiness::Readiness;
