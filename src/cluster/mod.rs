//! The Kubernetes API server, as controller, proxy and command line reach it.
//!
//! Invariant: whoever watches a collection is told of every object that is gone, by name and UID, even if nobody could
//! read it while it was there; and nothing of an object's content is ever logged here: it may hold credentials.

pub mod apply;
pub mod client;
pub mod secret_path;
pub mod tokens;
pub mod watch;

pub use apply::{apply, apply_status};
pub use client::{ConnectError, connect, connect_to, in_words};
pub use watch::{Event, watch, watch_one};
