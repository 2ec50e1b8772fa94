//! The snapshot that a proxy serves: servers joined with the policies that reach them.
//!
//! Invariant: what a snapshot answers depends on the objects in it, never on the order in which they came.

mod shard_map;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;

pub use shard_map::ShardMap;
pub use snapshot::{Basis, Fleet, Served};
