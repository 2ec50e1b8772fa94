//! Governed MCP servers as the gateway reaches them.
//!
//! Invariant: what goes to an upstream is on an allow-list, the caller's credentials never among it; what comes back
//! is on another. An upstream's demand for credentials, a redirect or a body that is not what it claims to be becomes
//! an [`UpstreamError`], never the caller's problem to interpret. Tokens for an upstream are asked of the issuer that is configured,
//! which it must name itself, and of nobody else.

mod answer;
mod body;
mod call;
mod credential;
mod discover;
mod error;
pub mod headers;
mod pool;
mod rpc;
mod token;
mod tokens;
mod trust;

pub use answer::Answer;
pub use body::whole;
pub use call::{Called, call_tool};
pub use discover::{Bounds, DiscoverError, Inventory, inventory};
pub use error::UpstreamError;
pub use pool::{Means, Timeouts, Upstream};
pub use token::TokenFailure;
pub use tokens::{Subject, TokenCounters, Trouble};
pub use trust::{TrustError, trust};
