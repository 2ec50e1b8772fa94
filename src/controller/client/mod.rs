//! `McpClient`: what a client is given, and where it is kept.
//!
//! Invariant: a token is in a Secret that its client owns, and nowhere else: not in a status, an event or a log. What is
//! believed of a client is told by its authority's list, so its tokens end with it.

pub mod next;
pub mod secret;
