//! Portcullis governs Model Context Protocol (MCP) servers: every call is decided per identity before it runs, and
//! recorded.
//!
//! The house has four storeys, and things fall downwards only. A path's first folder says what it may do:
//!
//! ```text
//! PURE     api generated glob mcp oauth identity registration tools policy resolve fleet access seal sensitive
//!          synchronous; no clock, no I/O, no async
//! EFFECTS  cluster egress upstream issuer journal audit manifests process
//!          I/O at the edge; no role's logic
//! PLANES   admission controller proxy
//! TOP      roles cli
//!
//! api sensitive glob mcp seal journal cluster process -> nothing of ours
//! generated oauth egress -> sensitive
//! identity -> oauth generated glob sensitive   tools -> mcp generated   policy -> generated glob identity tools
//! registration -> oauth generated sensitive   resolve -> api generated policy tools oauth registration sensitive
//! fleet -> generated policy
//! access -> fleet policy generated identity tools     upstream -> egress generated issuer mcp oauth sensitive
//! issuer -> identity egress generated oauth sensitive   audit -> journal policy egress   manifests -> api
//! admission | controller | proxy -> pure, effects.   Only roles and cli join planes.
//! ```
//!
//! `tests/it/architecture.rs` holds these arrows; `docs/architecture.md` is the guided tour.

pub mod access;
pub mod admission;
pub mod api;
pub mod audit;
pub mod cli;
pub mod cluster;
pub mod controller;
pub mod egress;
pub mod fleet;
pub mod generated;
pub mod glob;
pub mod identity;
pub mod issuer;
pub mod journal;
pub mod manifests;
pub mod mcp;
pub mod oauth;
pub mod policy;
pub mod process;
pub mod proxy;
pub mod registration;
pub mod resolve;
pub mod roles;
pub mod seal;
pub mod sensitive;
pub mod tools;
pub mod upstream;
