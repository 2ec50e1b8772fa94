//! What an administrator decides about the listener that strangers reach.
//!
//! Invariant: the public URL is configuration and never derived from a request (identity-audit 1.2).

use std::time::Duration;

use http::HeaderValue;

use crate::resolve::PublicUrl;

/// Settings of the data plane.
#[derive(Clone, Debug)]
pub struct Config {
    /// The URL under which clients reach the gateway.
    pub public_url: PublicUrl,
    /// Browser origins that may call: a present `Origin` must be one of them.
    pub allowed_origins: Vec<HeaderValue>,
    /// Bounds on everything that a stranger can send or hold.
    pub limits: Limits,
}

/// Bounds on everything that a stranger can send or hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections: usize,
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// How long a request head may take to arrive.
    pub head_timeout: Duration,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Bytes of all large request bodies that are held at once.
    pub body_room: usize,
    /// How long a request body may take to arrive.
    pub body_timeout: Duration,
    /// Bytes of an upstream's JSON answer, and of one event of a stream.
    pub answer_bytes: usize,
    /// Bytes of all large answers that are held at once.
    pub answer_room: usize,
    /// How long an upstream may take to answer, and a stream that carries an answer to go on after its last event.
    pub answer_timeout: Duration,
    /// How long a caller may take none of what is written to it.
    pub write_timeout: Duration,
    /// How long nothing may come on a connection of HTTP/2 before its caller is asked for a sign of life, and how long that
    /// may take. Longer than `head_timeout`: what asks is written too, and what is written keeps a connection.
    pub silence: Duration,
    /// Calls, answered by a stream or not, that one identity may have under way at once.
    pub calls_per_identity: u32,
    /// Streams that only listen that one identity may have open at once.
    pub listeners_per_identity: u32,
    /// How long a session id is honoured after it was made.
    pub session_lifetime: Duration,
    /// For how long the API server's answer about a ServiceAccount's token counts, where it is asked.
    pub token_review_window: Duration,
    /// How long the tools of a server with a lock go unlooked at, where nobody lists them.
    pub inventory_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head_bytes: 64 * 1024,
            headers: 100,
            head_timeout: Duration::from_secs(10),
            body_bytes: 4 * 1024 * 1024,
            body_room: 256 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            answer_bytes: 16 * 1024 * 1024,
            answer_room: 256 * 1024 * 1024,
            answer_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(60),
            silence: Duration::from_secs(30),
            calls_per_identity: 256,
            listeners_per_identity: 64,
            session_lifetime: Duration::from_secs(24 * 3600),
            token_review_window: Duration::from_secs(30),
            inventory_age: Duration::from_secs(300),
        }
    }
}
