//! Tokens that were verified before, by digest.
//!
//! Invariant: a hit means that the same bytes were verified under the same configuration and the same keys as the
//! server trusts now. Time, audience, revocation and scopes are *not* implied: [`super::token::admit`] checks them on
//! every hit. Only verified tokens are stored, so strangers cannot push entries out.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use quick_cache::sync::Cache;

use super::anchor::Anchor;
use super::token::Verified;

/// SHA-256 of a token. Never printed: it would let a reader of logs recognise a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a presented token.
    pub fn of(token: &str) -> TokenDigest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        TokenDigest(bytes)
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

/// A bounded store of verified tokens, each with what its keeper derived from it once.
#[derive(Debug)]
pub struct VerifiedCache<T> {
    entries: Cache<TokenDigest, Arc<T>>,
}

impl<T: AsRef<Verified>> VerifiedCache<T> {
    /// A cache of at most `capacity` tokens.
    pub fn new(capacity: usize) -> VerifiedCache<T> {
        VerifiedCache { entries: Cache::new(capacity) }
    }

    /// The token as verified earlier, if that was under one of `anchors` as it is now.
    pub fn get(&self, digest: &TokenDigest, anchors: &[Arc<Anchor>]) -> Option<Arc<T>> {
        self.entries.get(digest).filter(|entry| (**entry).as_ref().anchor_in(anchors).is_some())
    }

    /// Stores what [`super::token::verify`] proved about the token with this digest.
    pub fn insert(&self, digest: TokenDigest, entry: Arc<T>) {
        self.entries.insert(digest, entry);
    }
}
