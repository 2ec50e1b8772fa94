//! The admission plane: what the API server asks before it stores one of our objects.
//!
//! Invariant: an answer is a pure function of the review, of what is known of the cluster, and of the author's rights; and
//! every finding in it comes from [`crate::resolve`], so that what is admitted loads, and a webhook, a controller and
//! `portcullis validate` never disagree.
//!
//! ```text
//! bytes -> review::read -> judge::wanted -> (live look-ups) -> judge::judge -> (SubjectAccessReviews) -> Response -> bytes
//! ```

mod effect;
pub mod grant;
pub mod judge;
mod named;
pub mod response;
pub mod review;
pub mod world;

#[cfg(test)]
mod tests;
