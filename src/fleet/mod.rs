//! The snapshot that a proxy serves: servers joined with the policies that reach them.

mod snapshot;

pub use snapshot::{Fleet, Served};
