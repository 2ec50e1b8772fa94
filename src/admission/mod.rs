//! The admission plane: what the API server asks before it stores one of our objects.
//!
//! Invariant: an answer is a pure function of the review, of what is known of the cluster, and of the author's rights; and
//! every finding in it comes from [`crate::resolve`], so that what is admitted loads, and a webhook, a controller and
//! `portcullis validate` never disagree.
//!
//! ```text
//! bytes -> review::read -> judge::wanted -> (live look-ups) -> judge::judge -> (SubjectAccessReviews) -> Judged::decide
//!       -> Decided::tell -> Response -> bytes
//! ```
//!
//! and before all of it, [`door`]: nobody but the API server is answered.

pub mod certificate;
pub mod desk;
pub mod door;
mod effect;
pub mod follow;
mod fork;
pub mod grant;
pub mod inventory;
pub mod judge;
pub mod live;
pub mod metrics;
mod named;
mod reached;
pub mod response;
pub mod review;
pub mod rights;
pub mod server;
mod share;
pub mod world;

#[cfg(test)]
mod tests;
