//! Certificates of the admission webhook.
pub mod authority;
pub mod next;
