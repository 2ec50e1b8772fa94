//! A redacted value never reaches a record in clear, and equal values stay comparable: each becomes a keyed digest.
//!
//! Keyed, because most values worth hiding are guessable (names, amounts, flags): without the key, a digest of one of
//! them is the value. Destroying the key file makes the digests meaningless for good.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use serde_json::Value;

use super::json::{self, Digits};
use crate::journal;

/// Values that are redacted in one document: each costs a digest, and a stranger chooses how many match a `*`.
const MAX_REDACTED: usize = 256;

/// Recorded arguments or results are no longer than this; of longer ones the digest and the length are recorded.
const CONTENT_CAP: usize = 32 << 10;

/// The key of all digests in the records.
pub struct DigestKey {
    key: hmac::Key,
    prefix: String,
}

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DigestKey").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl DigestKey {
    /// Reads the key (32 bytes), or makes one with mode 0600 if the file does not exist.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Ok(bytes) => {
                journal::refuse_shared(path)?;
                bytes
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = vec![0; 32];
                SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
                journal::write_private(path, &bytes)?;
                bytes
            }
            Err(error) => return Err(error),
        };
        if bytes.len() != 32 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a digest key has 32 bytes"));
        }
        Ok(Self::new(&bytes))
    }

    fn new(bytes: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let id = hmac::sign(&key, b"portcullis audit digest key id");
        let mut prefix = "hmac-sha256:".to_owned();
        prefix.push_str(hex(id.as_ref().get(..4).unwrap_or_default()).as_str());
        prefix.push(':');
        Self { key, prefix }
    }

    /// `hmac-sha256:<key id>:<hex>` of `parts`, each preceded by its length, so that no two lists share a digest.
    pub(super) fn digest(&self, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut text = String::with_capacity(self.prefix.len() + 64);
        text.push_str(&self.prefix);
        text.push_str(hex(context.sign().as_ref()).as_str());
        text
    }
}

/// Lower-case hexadecimal of at most 32 bytes.
fn hex(bytes: &[u8]) -> Digits {
    let mut text = Digits::default();
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    text
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Which document of a call is redacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Pointers that begin with `/args`.
    Arguments,
    /// Pointers that begin with `/result`.
    Result,
}

/// Which values are replaced by keyed digests: compiled once per server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    arguments: Vec<Vec<String>>,
    result: Vec<Vec<String>>,
}

/// A pointer that cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redaction pointer {0:?} must begin with /args or /result, and escape only with ~0 and ~1 (RFC 6901)")]
pub struct RedactionError(pub String);

impl Redaction {
    /// Compiles JSON pointers (RFC 6901) into a call's `/args` or `/result`. `*` stands for every member or element.
    pub fn new<'a>(pointers: impl IntoIterator<Item = &'a str>) -> Result<Self, RedactionError> {
        let mut compiled = Self::default();
        for pointer in pointers {
            let bad = || RedactionError(pointer.to_owned());
            let mut segments = pointer.split('/').map(|segment| unescape(segment).ok_or_else(bad));
            if segments.next() != Some(Ok(String::new())) {
                return Err(bad());
            }
            let part = match segments.next().transpose()?.as_deref() {
                Some("args") => &mut compiled.arguments,
                Some("result") => &mut compiled.result,
                _ => return Err(bad()),
            };
            part.push(segments.collect::<Result<_, _>>()?);
        }
        Ok(compiled)
    }

    fn pointers(&self, part: Part) -> &[Vec<String>] {
        match part {
            Part::Arguments => &self.arguments,
            Part::Result => &self.result,
        }
    }
}

/// RFC 6901 section 4: `~1` first, then `~0`; any other `~` is an error.
fn unescape(segment: &str) -> Option<String> {
    let stray = segment.split('~').skip(1).any(|after| !after.starts_with(['0', '1']));
    (!stray).then(|| segment.replace("~1", "/").replace("~0", "~"))
}

/// Writes `raw` (JSON) as one value with everything redacted that is to be. What is too long or is no JSON becomes an
/// object that says so, with digest and length.
pub(super) fn write(out: &mut Vec<u8>, key: &DigestKey, raw: &[u8], redaction: Option<&Redaction>, part: Part) {
    let pointers = redaction.map(|redaction| redaction.pointers(part)).unwrap_or_default();
    match redacted(key, raw, pointers) {
        Ok(document) => json::value(out, &document),
        Err(why) => {
            let mut object = json::Object::begin(out);
            object.word("portcullis.omitted", why);
            object.word("digest", &key.digest(&[raw]));
            object.count("bytes", raw.len() as u64);
            object.end();
        }
    }
}

/// The document with everything redacted, or why it cannot be recorded.
fn redacted(key: &DigestKey, raw: &[u8], pointers: &[Vec<String>]) -> Result<Value, &'static str> {
    if raw.len() > CONTENT_CAP {
        return Err("TooLong");
    }
    let mut document = serde_json::from_slice(raw).map_err(|_| "NotJson")?;
    let mut left = MAX_REDACTED;
    for pointer in pointers {
        redact(&mut document, pointer, key, &mut left);
    }
    if left == 0 { Err("TooManyRedactions") } else { Ok(document) }
}

/// Replaces what `pointer` names, at most `left` values: when it comes to 0, the document must not be used.
fn redact(value: &mut Value, pointer: &[String], key: &DigestKey, left: &mut usize) {
    if *left == 0 {
        return;
    }
    let Some((segment, rest)) = pointer.split_first() else {
        *left -= 1;
        let digest = key.digest(&[value.to_string().as_bytes()]);
        let mut text = String::with_capacity(digest.len() + 9);
        if write!(text, "redacted:{digest}").is_ok() {
            *value = Value::String(text);
        }
        return;
    };
    match value {
        Value::Object(members) if segment == "*" => {
            members.values_mut().for_each(|member| redact(member, rest, key, left));
        }
        Value::Object(members) => {
            // A member that differs by case only is the same secret to many a server.
            let alike = members.iter_mut().filter(|(name, _)| name.eq_ignore_ascii_case(segment));
            alike.for_each(|(_, member)| redact(member, rest, key, left));
        }
        Value::Array(items) if segment == "*" => items.iter_mut().for_each(|item| redact(item, rest, key, left)),
        Value::Array(items) => {
            if let Some(item) = segment.parse().ok().and_then(|at: usize| items.get_mut(at)) {
                redact(item, rest, key, left);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(raw: &str, pointers: &[&str]) -> String {
        let redaction = Redaction::new(pointers.iter().copied()).unwrap();
        let mut out = Vec::new();
        write(&mut out, &DigestKey::new(&[7; 32]), raw.as_bytes(), Some(&redaction), Part::Arguments);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_a_pointer_names_is_gone_and_nothing_else() {
        let raw = r#"{"user":"ann","Password":"hunter2","list":[{"pin":1234},{"pin":9}],"a/b":true}"#;
        let out = redacted(raw, &["/args/password", "/args/list/*/pin", "/args/a~1b", "/result/user"]);
        assert!(!out.contains("hunter2") && !out.contains("1234") && !out.contains("true"), "{out}");
        assert!(out.contains("\"user\":\"ann\""), "{out}");
        assert_eq!(out.matches("redacted:hmac-sha256:").count(), 4, "{out}");
        assert!(redacted(raw, &["/args"]).starts_with("\"redacted:"));
    }

    #[test]
    fn equal_values_have_equal_digests_and_another_key_other_ones() {
        let same = redacted(r#"{"a":1,"b":1}"#, &["/args/*"]);
        let parsed: Value = serde_json::from_str(&same).unwrap();
        assert_eq!(parsed["a"], parsed["b"]);
        let (one, two) = (DigestKey::new(&[1; 32]), DigestKey::new(&[2; 32]));
        assert_ne!(one.digest(&[b"x"]), two.digest(&[b"x"]));
        assert_ne!(one.digest(&[b"ab", b"c"]), one.digest(&[b"a", b"bc"]));
    }

    #[test]
    fn what_cannot_be_redacted_is_not_recorded() {
        let long = format!("{{\"a\":\"{}\"}}", "secret".repeat(10_000));
        let out = redacted(&long, &[]);
        assert!(out.contains("TooLong") && !out.contains("secret"), "{out}");
        assert!(redacted("{\"password\": nonsense", &[]).contains("NotJson"));
        let many = format!("[{}]", vec!["77"; 300].join(","));
        let out = redacted(&many, &["/args/*"]);
        assert!(out.contains("TooManyRedactions") && !out.contains("redacted:"), "{out}");
    }

    #[test]
    fn bad_pointers_are_refused() {
        for bad in ["", "args", "/", "/password", "/args/~", "/args/~2", "/args/a~"] {
            assert!(Redaction::new([bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_key_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("digest.key");
        let made = DigestKey::load_or_create(&path).unwrap();
        assert_eq!(DigestKey::load_or_create(&path).unwrap().digest(&[b"x"]), made.digest(&[b"x"]));
        fs::write(&path, b"short").unwrap();
        assert!(DigestKey::load_or_create(&path).is_err());
    }
}
