//! JSON written straight into a reused buffer. Text of strangers comes out harmless: capped, with control characters
//! (C0, DEL, C1), line separators and bidirectional marks escaped, so that no record can forge another or mislead a
//! terminal.

use std::fmt::Write as _;

/// Longest text of one field, in bytes; a URI gets [`URI_CAP`].
pub(super) const CAP: usize = 256;
/// Longest URI.
pub(super) const URI_CAP: usize = 2048;

/// One JSON object being written.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    /// The key, which is ours; what follows is the value's to write.
    pub(super) fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// Text of whatever origin.
    pub(super) fn text(&mut self, key: &'static str, value: &str) {
        string(self.key(key), value, CAP);
    }

    pub(super) fn some(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// Text that needs no escape: our own words, digits and digests.
    pub(super) fn word(&mut self, key: &'static str, value: &str) {
        let out = self.key(key);
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }

    pub(super) fn number(&mut self, key: &'static str, value: i64) {
        let out = self.key(key);
        if value < 0 {
            out.push(b'-');
        }
        decimal(out, value.unsigned_abs());
    }

    pub(super) fn count(&mut self, key: &'static str, value: u64) {
        decimal(self.key(key), value);
    }

    /// Members that were rendered before.
    pub(super) fn members(&mut self, rendered: &[u8]) {
        if rendered.is_empty() {
            return;
        }
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.extend_from_slice(rendered);
    }
}

fn decimal(out: &mut Vec<u8>, value: u64) {
    let mut digits = Digits::default();
    digits.push_padded(value, 1);
    out.extend_from_slice(digits.get());
}

/// A short ASCII text on the stack.
#[derive(Clone, Copy)]
pub(super) struct Digits {
    bytes: [u8; 64],
    len: usize,
}

impl Default for Digits {
    fn default() -> Self {
        Self { bytes: [0; 64], len: 0 }
    }
}

impl Digits {
    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Adds a character; none beyond 64.
    pub(super) fn push(&mut self, ascii: u8) {
        if let Some(space) = self.bytes.get_mut(self.len) {
            *space = ascii;
            self.len += 1;
        }
    }

    /// Adds a number with at least `width` digits.
    fn push_padded(&mut self, value: u64, width: usize) {
        let mut reversed = [b'0'; 20];
        let (mut rest, mut used) = (value, 0);
        for digit in &mut reversed {
            if rest == 0 && used >= width {
                break;
            }
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
            used += 1;
        }
        reversed.iter().take(used).rev().for_each(|digit| self.push(*digit));
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(self.get()).unwrap_or_default()
    }
}

impl std::fmt::Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let space = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(std::fmt::Error)?;
        space.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// Writes a JSON string of at most `cap` bytes of `value`; what was cut off is marked with the full length.
pub(super) fn string(out: &mut Vec<u8>, value: &str, cap: usize) {
    out.push(b'"');
    let kept = value.get(..value.floor_char_boundary(cap)).unwrap_or(value);
    escape(out, kept);
    if kept.len() < value.len() {
        out.extend_from_slice("…[cut, ".as_bytes());
        decimal(out, value.len() as u64);
        out.extend_from_slice(b" bytes]");
    }
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\') {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let mut utf8 = [0; 4];
    for char in text.chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            char if is_harmful(char) => {
                let mut digits = Digits::default();
                // Every harmful character is in the basic plane: four digits.
                if write!(digits, "\\u{:04x}", u32::from(char)).is_ok() {
                    out.extend_from_slice(digits.get());
                }
            }
            char => out.extend_from_slice(char.encode_utf8(&mut utf8).as_bytes()),
        }
    }
}

/// Controls, separators that end a line somewhere, marks that reorder or hide text.
pub fn is_harmful(char: char) -> bool {
    matches!(char,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}')
}

/// Writes a parsed value with the same care: member names and texts are a stranger's too.
pub(super) fn value(out: &mut Vec<u8>, value: &serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::String(text) => string(out, text, usize::MAX),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                self::value(out, item);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (at, (name, member)) in members.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                string(out, name, usize::MAX);
                out.push(b':');
                self::value(out, member);
            }
            out.push(b'}');
        }
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(super) fn time(unix_ms: u64) -> Digits {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date in the proleptic Gregorian calendar: 400-year eras of 146,097 days that begin in March.
    let shifted = days.saturating_add(719_468);
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let mut text = Digits::default();
    let parts = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (second / 3600, 2, b':'),
        (second / 60 % 60, 2, b':'),
        (second % 60, 2, b'.'),
        (ms, 3, b'Z'),
    ];
    for (value, width, behind) in parts {
        text.push_padded(value, width);
        text.push(behind);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str, cap: usize) -> String {
        let mut out = Vec::new();
        string(&mut out, text, cap);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_of_strangers_is_harmless() {
        assert_eq!(written("a\r\n\u{1b}[31m\u{202e}\u{85}\"\\", 99), r#""a\u000d\u000a\u001b[31m\u202e\u0085\"\\""#);
        assert_eq!(written(&"ä".repeat(300), 5), "\"ää…[cut, 600 bytes]\"");
    }

    #[test]
    fn numbers_and_members() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.number("a", -70);
        object.count("z", 0);
        object.members(b"\"b\":1");
        object.some("c", None);
        object.word("d", "x");
        object.end();
        assert_eq!(out, br#"{"a":-70,"z":0,"b":1,"d":"x"}"#);
    }

    proptest! {
        #[test]
        fn every_text_reads_back(text in any::<String>()) {
            let written = written(&text, usize::MAX);
            prop_assert!(!written.chars().any(is_harmful));
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
        }

        #[test]
        fn every_time_is_the_calendars(ms in 0_u64..253_402_300_799_999) {
            let slow = jiff::Timestamp::from_millisecond(ms.try_into().unwrap()).unwrap();
            prop_assert_eq!(time(ms).as_str().to_owned(), format!("{slow:.3}"));
        }
    }
}
