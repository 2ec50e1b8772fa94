//! Version `v1alpha1` of our kinds, one file per kind.
//!
//! Lists that a CEL rule walks or a stranger writes are bounded, so that the API server accepts the rules' cost and
//! nobody can make a resource of unbounded size. Lists that people edit have names as merge keys.

#![allow(unreachable_pub, reason = "KubeSchema derives a hidden copy of each struct inside a function")]
#![allow(clippy::duplicated_attributes, reason = "each printcolumn of kube has a type_ of its own")]

mod common;
mod mcp_authorization_server;
mod mcp_client;
mod mcp_policy;
mod mcp_server;

pub use common::*;
pub use mcp_authorization_server::*;
pub use mcp_client::*;
pub use mcp_policy::*;
pub use mcp_server::*;
