//! Identifiers that leave the gateway, sealed with AEAD: purpose, server, upstream, principal and expiry are bound in.
//!
//! Invariant: [`Sealer::open`] yields a payload only to the purpose, server, upstream and principal that it was sealed
//! for, before its expiry, and whatever else was presented is one indistinguishable *unknown*. Every replica with the
//! same keys opens it, and keys are exchanged while calls go on: each call sees the keys of one moment.
//!
//! Wire form, base64url without padding: version (1) ‖ key id (4) ‖ nonce (12) ‖ ciphertext of expiry (8) and payload ‖
//! tag (16). The cipher is AES-256-GCM-SIV (RFC 8452): nonces are drawn at random by replicas that cannot coordinate, and
//! a repeated one reveals no more than that two payloads were equal, instead of the authentication key.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The length of key material, in bytes.
pub const KEY_BYTES: usize = 32;
/// The longest payload, in bytes. It holds an upstream's `requestState`; session ids are far shorter.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const EXPIRY_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_LEN;
const MAX_SEALED_CHARS: usize = (HEAD_BYTES + EXPIRY_BYTES + MAX_PAYLOAD_BYTES + TAG_BYTES).div_ceil(3) * 4;

/// What a sealed identifier is for: one kind never passes for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// `Mcp-Session-Id`.
    Session,
    /// A list cursor.
    Cursor,
    /// An SSE event id.
    Event,
    /// `requestState` of a multi-round-trip request.
    RequestState,
    /// The id of a request that a server sent to the client.
    ServerRequest,
}

impl Purpose {
    fn code(self) -> u8 {
        match self {
            Purpose::Session => 1,
            Purpose::Cursor => 2,
            Purpose::Event => 3,
            Purpose::RequestState => 4,
            Purpose::ServerRequest => 5,
        }
    }
}

/// Whom a sealed identifier belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// What it is for.
    pub purpose: Purpose,
    /// UID of the McpServer.
    pub server_uid: &'a str,
    /// The upstream's URL: what one upstream gave out is nobody else's to see, should the server move to another.
    pub upstream: &'a str,
    /// The caller, as `identity::principal::Principal::binding` says it.
    pub principal: &'a [u8],
}

/// Why something cannot be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Key material is not [`KEY_BYTES`] long.
    #[error("a sealing key must be {KEY_BYTES} bytes long")]
    KeyLength,
    /// The payload is longer than [`MAX_PAYLOAD_BYTES`].
    #[error("the payload is longer than {MAX_PAYLOAD_BYTES} bytes")]
    TooLarge,
    /// The cipher or the random source failed.
    #[error("sealing failed")]
    Cipher,
    /// Not sealed by us, or for another purpose, server, upstream or principal: treat it as if it had never existed.
    #[error("unknown identifier")]
    Unknown,
    /// It was this owner's, and its time is over.
    #[error("the identifier has expired")]
    Expired,
}

impl SealError {
    /// A stable word for records, logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            SealError::KeyLength => "SealKeyLength",
            SealError::TooLarge => "SealPayloadTooLarge",
            SealError::Cipher => "SealFailed",
            SealError::Unknown => "SealUnknown",
            SealError::Expired => "SealExpired",
        }
    }
}

/// One sealing key. The bytes live only inside the cipher, which wipes them when it is dropped.
pub struct SealKey {
    id: [u8; KEY_ID_BYTES],
    cipher: LessSafeKey,
}

impl SealKey {
    /// A key of [`KEY_BYTES`] random bytes. The caller wipes its own copy.
    pub fn new(material: &[u8]) -> Result<SealKey, SealError> {
        let cipher = UnboundKey::new(&AES_256_GCM_SIV, material).map_err(|_| SealError::KeyLength)?;
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"portcullis seal key id");
        context.update(material);
        let mut id = [0; KEY_ID_BYTES];
        id.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Ok(SealKey { id, cipher: LessSafeKey::new(cipher) })
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey([redacted])")
    }
}

/// The keys of one moment.
#[derive(Debug)]
pub struct KeyRing {
    current: SealKey,
    previous: Option<SealKey>,
}

impl KeyRing {
    /// Two keys while one is being rotated out, one otherwise.
    pub fn new(current: SealKey, previous: Option<SealKey>) -> KeyRing {
        KeyRing { current, previous }
    }

    fn key(&self, version: u8, id: &[u8]) -> Option<&SealKey> {
        let keys = std::iter::once(&self.current).chain(self.previous.as_ref());
        keys.filter(|_| version == VERSION).find(|key| key.id == *id)
    }
}

/// Seals with the current key, opens with it and with the one before. Clones share their keys.
#[derive(Clone, Debug)]
pub struct Sealer(Arc<ArcSwap<KeyRing>>);

impl Sealer {
    /// Seals and opens with these keys.
    pub fn new(keys: KeyRing) -> Sealer {
        Sealer(Arc::new(ArcSwap::from_pointee(keys)))
    }

    /// Seals and opens with other keys from now on.
    pub fn rotate(&self, keys: KeyRing) {
        self.0.store(Arc::new(keys));
    }

    /// Seals `payload` for `owner` until `expires` (Unix seconds). The result is visible ASCII.
    pub fn seal(&self, owner: &Owner<'_>, expires: i64, payload: &[u8]) -> Result<String, SealError> {
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(SealError::TooLarge);
        }
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError::Cipher)?;
        let keys = self.0.load();
        let key = &keys.current;
        let mut content = Vec::with_capacity(EXPIRY_BYTES + payload.len() + TAG_BYTES);
        content.extend_from_slice(&expires.to_be_bytes());
        content.extend_from_slice(payload);
        let data = Aad::from(associated_data(key.id, owner));
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        key.cipher.seal_in_place_append_tag(nonce_used, data, &mut content).map_err(|_| SealError::Cipher)?;
        Ok(URL_SAFE_NO_PAD.encode([&[VERSION], &key.id[..], &nonce, &content].concat()))
    }

    /// The payload, if `sealed` was sealed for `owner` and has not expired at `now` (Unix seconds).
    pub fn open(&self, owner: &Owner<'_>, sealed: &str, now: i64) -> Result<Vec<u8>, SealError> {
        if sealed.len() > MAX_SEALED_CHARS {
            return Err(SealError::Unknown);
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| SealError::Unknown)?;
        let (head, content) = bytes.split_at_mut_checked(HEAD_BYTES).ok_or(SealError::Unknown)?;
        let (version, rest) = head.split_first().ok_or(SealError::Unknown)?;
        let (key_id, nonce) = rest.split_at_checked(KEY_ID_BYTES).ok_or(SealError::Unknown)?;
        let keys = self.0.load();
        let key = keys.key(*version, key_id).ok_or(SealError::Unknown)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Unknown)?;
        let data = Aad::from(associated_data(key.id, owner));
        let content = key.cipher.open_in_place(nonce, data, content).map_err(|_| SealError::Unknown)?;
        let (expires, payload) = content.split_first_chunk::<EXPIRY_BYTES>().ok_or(SealError::Unknown)?;
        if now >= i64::from_be_bytes(*expires) { Err(SealError::Expired) } else { Ok(payload.to_vec()) }
    }
}

/// Everything that is bound but not carried, each part with its length so that neighbours cannot lend each other bytes.
fn associated_data(key_id: [u8; KEY_ID_BYTES], owner: &Owner<'_>) -> Vec<u8> {
    let mut data = vec![VERSION, owner.purpose.code()];
    data.extend_from_slice(&key_id);
    for part in [owner.server_uid.as_bytes(), owner.upstream.as_bytes(), owner.principal] {
        data.extend_from_slice(&(part.len() as u64).to_be_bytes());
        data.extend_from_slice(part);
    }
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn ring(byte: u8, previous: Option<u8>) -> KeyRing {
        let key = |byte| SealKey::new(&[byte; KEY_BYTES]).unwrap();
        KeyRing::new(key(byte), previous.map(key))
    }

    fn sealer(byte: u8, previous: Option<u8>) -> Sealer {
        Sealer::new(ring(byte, previous))
    }

    fn owner<'a>(purpose: Purpose, server_uid: &'a str, principal: &'a [u8]) -> Owner<'a> {
        Owner { purpose, server_uid, upstream: "https://a.example/mcp", principal }
    }

    #[test]
    fn nobody_else_opens_it() {
        let sealer = sealer(1, None);
        let sealed = sealer.seal(&owner(Purpose::Session, "uid", b"alice"), NOW + 1, b"x").unwrap();
        assert_eq!(sealer.open(&owner(Purpose::Session, "uid", b"alice"), &sealed, NOW).unwrap(), b"x");
        let others = [
            owner(Purpose::Cursor, "uid", b"alice"),
            owner(Purpose::Event, "uid", b"alice"),
            owner(Purpose::RequestState, "uid", b"alice"),
            owner(Purpose::ServerRequest, "uid", b"alice"),
            owner(Purpose::Session, "uie", b"alice"),
            owner(Purpose::Session, "uid", b"bob"),
            owner(Purpose::Session, "uid", b""),
            owner(Purpose::Session, "uida", b"lice"),
            owner(Purpose::Session, "", b"uidalice"),
            Owner { upstream: "https://b.example/mcp", ..owner(Purpose::Session, "uid", b"alice") },
            Owner { upstream: "", ..owner(Purpose::Session, "uidhttps://a.example/mcp", b"alice") },
        ];
        for other in others {
            assert_eq!(sealer.open(&other, &sealed, NOW), Err(SealError::Unknown), "{other:?}");
        }
    }

    #[test]
    fn expiry_is_exclusive_and_only_its_owner_learns_of_it() {
        let sealer = sealer(1, None);
        let alice = owner(Purpose::Cursor, "uid", b"alice");
        let sealed = sealer.seal(&alice, NOW, b"x").unwrap();
        assert!(sealer.open(&alice, &sealed, NOW - 1).is_ok());
        assert_eq!(sealer.open(&alice, &sealed, NOW), Err(SealError::Expired));
        assert_eq!(sealer.open(&owner(Purpose::Cursor, "uid", b"bob"), &sealed, NOW), Err(SealError::Unknown));
    }

    #[test]
    fn rotation_opens_the_previous_key_and_forgets_older_ones() {
        let alice = owner(Purpose::Session, "uid", b"alice");
        let sealed = sealer(1, None).seal(&alice, NOW + 9, b"x").unwrap();
        assert!(sealer(2, Some(1)).open(&alice, &sealed, NOW).is_ok());
        assert_eq!(sealer(3, Some(2)).open(&alice, &sealed, NOW), Err(SealError::Unknown));
        let newer = sealer(2, Some(1)).seal(&alice, NOW + 9, b"x").unwrap();
        assert_eq!(sealer(1, None).open(&alice, &newer, NOW), Err(SealError::Unknown), "sealed with the current key");
    }

    #[test]
    fn keys_are_exchanged_for_all_who_share_them() {
        let (sealer, alice) = (sealer(1, None), owner(Purpose::Session, "uid", b"alice"));
        let (shared, sealed) = (sealer.clone(), sealer.seal(&alice, NOW + 9, b"x").unwrap());
        sealer.rotate(ring(2, Some(1)));
        assert!(shared.open(&alice, &sealed, NOW).is_ok(), "one rotation is survived");
        let newer = shared.seal(&alice, NOW + 9, b"x").unwrap();
        sealer.rotate(ring(3, Some(2)));
        assert_eq!(shared.open(&alice, &sealed, NOW), Err(SealError::Unknown));
        assert!(shared.open(&alice, &newer, NOW).is_ok());
    }

    #[test]
    fn sizes_are_bounded_exactly() {
        let sealer = sealer(1, None);
        let alice = owner(Purpose::RequestState, "uid", b"alice");
        let most = vec![7; MAX_PAYLOAD_BYTES];
        let sealed = sealer.seal(&alice, NOW + 1, &most).unwrap();
        assert_eq!(sealer.open(&alice, &sealed, NOW).unwrap(), most);
        assert_eq!(sealer.seal(&alice, NOW + 1, &vec![7; MAX_PAYLOAD_BYTES + 1]), Err(SealError::TooLarge));
        for junk in ["", "A", "AQ", "AQAAAA", "====", "\u{e9}", &"A".repeat(MAX_SEALED_CHARS + 1)] {
            assert_eq!(sealer.open(&alice, junk, NOW), Err(SealError::Unknown));
        }
        for length in [0, KEY_BYTES - 1, KEY_BYTES + 1] {
            assert_eq!(SealKey::new(&vec![1; length]).err(), Some(SealError::KeyLength));
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let text = format!("{:?}", sealer(0xab, Some(0xcd)));
        assert!(text.contains("[redacted]"));
        assert!(!text.contains("171") && !text.to_ascii_lowercase().contains("abab"), "{text}");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_is_visible_ascii(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            principal in prop::collection::vec(any::<u8>(), 0..40),
            server in "[a-z0-9-]{0,36}",
        ) {
            let sealer = sealer(1, None);
            let owner = owner(Purpose::Event, &server, &principal);
            let sealed = sealer.seal(&owner, NOW + 1, &payload).unwrap();
            prop_assert!(sealed.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(sealer.open(&owner, &sealed, NOW).unwrap(), payload);
            prop_assert_ne!(sealer.seal(&owner, NOW + 1, b"same").unwrap(), sealer.seal(&owner, NOW + 1, b"same").unwrap());
        }

        #[test]
        fn any_changed_character_makes_it_unknown(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let sealer = sealer(1, Some(2));
            let alice = owner(Purpose::Session, "uid", b"alice");
            let mut sealed = sealer.seal(&alice, NOW + 1, b"payload").unwrap().into_bytes();
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            let text = String::from_utf8_lossy(&sealed).into_owned();
            prop_assert_eq!(sealer.open(&alice, &text, NOW), Err(SealError::Unknown));
        }
    }
}
