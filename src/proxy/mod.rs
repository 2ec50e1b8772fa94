//! The data plane: every call authenticated, authorized, recorded, then forwarded.
//!
//! Invariant: nothing reaches an upstream without a [`authorize::Permit`], and every permit is recorded. [`stack`] is
//! the way of a request, in order; the other files are its steps.

pub mod authenticate;
pub mod authorize;
pub mod body;
pub mod call;
pub mod catalogue;
mod clients;
pub mod config;
pub mod ended;
mod event_id;
pub mod events;
pub mod failures;
pub mod filter;
mod forward;
pub mod gateway;
mod idle;
mod learn;
mod listen;
pub mod listener;
pub mod locked;
mod method;
pub mod metrics;
mod place;
mod receive;
pub mod refusals;
mod respond;
pub mod review;
pub mod room;
pub mod session;
pub mod snapshot;
mod stack;
pub mod streams;
mod unread;
mod watch;
