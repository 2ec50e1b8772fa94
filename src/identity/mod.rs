//! Who is calling: from a presented token to a principal, or a refusal.
//!
//! Invariant: a [`principal::Principal`] exists only for a token whose signature, issuer, type and shape were proven.
//! Pure: keys and the time are given.

pub mod principal;
