//! The pure modules under fuzz, compiled alone: a target is built in seconds, without the product's dependencies. A
//! pure module imports only what the architecture's arrows allow, so listing it and those here is enough.
//!
//! Beside them stand the slow, obvious references that targets hold them to.

#[path = "../../src/mcp/mod.rs"]
pub mod mcp;

pub mod naive;
