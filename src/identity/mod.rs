//! Who is calling: from a presented token to a principal, or a refusal.
//!
//! Invariant: a [`principal::Principal`] exists only for a token whose signature, issuer, type and shape were proven.
//! Pure: keys and the time are given.
//!
//! The way of a request: [`bearer::extract`] finds the token, [`cache::VerifiedCache::get`] or [`token::verify`] proves
//! it, [`token::admit`] checks on *every* call what may have changed since (time, audience, authority, revocation),
//! [`scope::ScopeTable::check`] compares scopes, and [`challenge::Challenges`] words the answer when one of them refuses.

pub mod anchor;
pub mod bearer;
pub mod cache;
pub mod challenge;
pub mod keys;
pub mod principal;
pub mod scope;
pub mod token;
