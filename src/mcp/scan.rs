//! A text that this scanner accepts is one JSON value (RFC 8259) that every conforming reader reads alike: no member
//! name occurs twice in an object, escaped or not, no string holds half a character, and nothing follows.
//!
//! One pass, one frame per nesting level, no allocation unless an object has more members than fit on the stack.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use super::malformed::{Fault, Slip};

/// What a stranger may send. All lengths are in bytes of the message as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The whole message.
    pub body: usize,
    /// Nested objects and arrays, at most 128.
    pub depth: usize,
    /// Members and elements of all objects and arrays together.
    pub members: usize,
    /// One number.
    pub number: usize,
    /// A request id or progress token.
    pub id: usize,
    /// A method.
    pub method: usize,
    /// A tool, prompt or task name, and a protocol version.
    pub name: usize,
    /// A resource URI, a cursor, a `requestState`.
    pub uri: usize,
}

impl Limits {
    /// What a client may send: 4 MiB, 64 levels.
    pub const CLIENT: Limits = Limits {
        body: 4 << 20,
        depth: 64,
        members: 100_000,
        number: 320,
        id: 256,
        method: 128,
        name: 512,
        uri: 8 << 10,
    };

    /// What an upstream may send in one message: 32 MiB, 64 levels.
    pub const SERVER: Limits = Limits { body: 32 << 20, members: 2_000_000, uri: 64 << 10, ..Limits::CLIENT };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::CLIENT
    }
}

/// Integers with fewer digits are below the largest double, about 1.8e308.
const FEWEST_DIGITS_BEYOND_A_DOUBLE: usize = 309;

/// The deepest nesting that [`Limits::depth`] can ask for: each level is one stack frame.
const DEEPEST: usize = 128;

/// Object members up to this number are compared pairwise on the stack; beyond it a set is built.
const FEW: usize = 16;

/// A range of the scanned text. Always on character boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(super) fn len(self) -> usize {
        self.range().len()
    }
}

/// The inside of a string, without its quotes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Text {
    pub(super) span: Span,
    pub(super) escaped: bool,
}

impl Text {
    pub(super) fn raw<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.span.range()).unwrap_or_default()
    }

    pub(super) fn decode<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let raw = self.raw(text);
        if self.escaped { Cow::Owned(Unescape(raw.chars()).collect()) } else { Cow::Borrowed(raw) }
    }

    fn same(&self, other: &Text, text: &str) -> bool {
        if self.escaped || other.escaped {
            Unescape(self.raw(text).chars()).eq(Unescape(other.raw(text).chars()))
        } else {
            self.raw(text) == other.raw(text)
        }
    }
}

/// The characters of a string whose escapes the scanner has already accepted.
struct Unescape<'a>(std::str::Chars<'a>);

impl Unescape<'_> {
    fn hex4(&mut self) -> u32 {
        (0..4).fold(0, |unit, _| unit * 16 + self.0.next().and_then(|c| c.to_digit(16)).unwrap_or(0))
    }
}

impl Iterator for Unescape<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let c = self.0.next()?;
        if c != '\\' {
            return Some(c);
        }
        Some(match self.0.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let mut unit = self.hex4();
                if (0xd800..0xdc00).contains(&unit) {
                    self.0.nth(1);
                    unit = 0x10000 + ((unit - 0xd800) << 10) + (self.hex4() & 0x3ff);
                }
                char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            other => other,
        })
    }
}

/// The member names of one object, so far.
struct Names<'a> {
    few: [Text; FEW],
    len: usize,
    /// Empty until `few` is full; made by then only, since even an empty set draws its keys from a thread local.
    many: Option<HashSet<Cow<'a, str>>>,
}

impl<'a> Names<'a> {
    fn new() -> Names<'a> {
        Names { few: [Text::default(); FEW], len: 0, many: None }
    }

    /// False if the name was there already.
    fn add(&mut self, text: &'a str, name: Text) -> bool {
        if self.few.iter().take(self.len).any(|known| known.same(&name, text)) {
            return false;
        }
        if let Some(slot) = self.few.get_mut(self.len) {
            *slot = name;
            self.len += 1;
            return true;
        }
        self.many.get_or_insert_default().insert(name.decode(text))
    }
}

/// Accepts one strict JSON value: what every conforming reader reads alike.
pub fn check(json: &[u8], limits: &Limits) -> Result<(), Fault> {
    let mut scanner = Scanner::new(json, limits).map_err(|slip| slip.fault)?;
    scanner.value().and_then(|_| scanner.end()).map_err(|slip| slip.fault)
}

/// A cursor over one text. Every method leaves it behind what it read.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    members: usize,
    limits: &'a Limits,
}

impl<'a> Scanner<'a> {
    /// Begins a scan. Refuses what is too long, not UTF-8, or begins with a byte order mark.
    pub(super) fn new(body: &'a [u8], limits: &'a Limits) -> Result<Scanner<'a>, Slip> {
        if body.len() > limits.body.min(u32::MAX as usize) {
            return Err(Slip { fault: Fault::TooLarge, at: limits.body });
        }
        if body.starts_with(b"\xef\xbb\xbf") {
            return Err(Slip { fault: Fault::ByteOrderMark, at: 0 });
        }
        let text =
            std::str::from_utf8(body).map_err(|error| Slip { fault: Fault::NotUtf8, at: error.valid_up_to() })?;
        Ok(Scanner { text, at: 0, depth: 0, members: 0, limits })
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn limits(&self) -> &'a Limits {
        self.limits
    }

    pub(super) fn slip(&self, fault: Fault) -> Slip {
        Slip { fault, at: self.at }
    }

    /// The first byte of the next token, which is not consumed.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    /// Accepts the end of the text and nothing else.
    pub(super) fn end(&mut self) -> Result<(), Slip> {
        if self.peek().is_none() { Ok(()) } else { Err(self.slip(Fault::TrailingData)) }
    }

    /// Reads any value.
    pub(super) fn value(&mut self) -> Result<Span, Slip> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'{') => self.object(|scanner, _| scanner.value().map(drop))?,
            Some(b'[') => self.array(|scanner| scanner.value().map(drop))?,
            Some(b'"') => drop(self.string()?),
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            _ => self.number()?,
        }
        Ok(self.span_from(start))
    }

    /// Reads an object; `member` is called behind each colon and must read the value.
    pub(super) fn object<F>(&mut self, mut member: F) -> Result<(), Slip>
    where
        F: FnMut(&mut Scanner<'a>, Text) -> Result<(), Slip>,
    {
        self.enter(b'{')?;
        let mut names = Names::new();
        if self.peek() != Some(b'}') {
            loop {
                self.peek();
                let name = self.string()?;
                if !names.add(self.text, name) {
                    return Err(Slip { fault: Fault::DuplicateMember, at: name.span.start as usize });
                }
                self.count()?;
                self.punctuation(b':')?;
                member(self, name)?;
                if !self.another(b'}')? {
                    break;
                }
            }
        }
        self.leave();
        Ok(())
    }

    /// Reads an array; `element` must read the value.
    pub(super) fn array<F>(&mut self, mut element: F) -> Result<(), Slip>
    where
        F: FnMut(&mut Scanner<'a>) -> Result<(), Slip>,
    {
        self.enter(b'[')?;
        if self.peek() != Some(b']') {
            loop {
                self.count()?;
                element(self)?;
                if !self.another(b']')? {
                    break;
                }
            }
        }
        self.leave();
        Ok(())
    }

    /// Reads a string.
    pub(super) fn string(&mut self) -> Result<Text, Slip> {
        if self.byte() != Some(b'"') {
            return Err(self.slip(Fault::NotJson));
        }
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at = plain_run(self.text.as_bytes(), self.at);
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return Err(self.slip(Fault::NotJson)),
            }
            escaped = true;
        }
        let span = self.span_from(start);
        self.at += 1;
        Ok(Text { span, escaped })
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// How many objects and arrays are open.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn span_from(&self, start: usize) -> Span {
        // `new` refuses texts beyond u32, so neither end is cut.
        Span { start: start as u32, end: self.at as u32 }
    }

    fn count(&mut self) -> Result<(), Slip> {
        self.members += 1;
        if self.members > self.limits.members { Err(self.slip(Fault::TooManyMembers)) } else { Ok(()) }
    }

    fn enter(&mut self, open: u8) -> Result<(), Slip> {
        self.punctuation(open)?;
        self.depth += 1;
        if self.depth > self.limits.depth.min(DEEPEST) { Err(self.slip(Fault::TooDeep)) } else { Ok(()) }
    }

    fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    fn punctuation(&mut self, expected: u8) -> Result<(), Slip> {
        if self.peek() != Some(expected) {
            return Err(self.slip(Fault::NotJson));
        }
        self.at += 1;
        Ok(())
    }

    /// True behind a comma, false before the closing bracket.
    fn another(&mut self, close: u8) -> Result<bool, Slip> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => Ok(false),
            _ => Err(self.slip(Fault::NotJson)),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Slip> {
        if !self.text.as_bytes().get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return Err(self.slip(Fault::NotJson));
        }
        self.at += word.len();
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Slip> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.slip(Fault::NotJson)) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), Slip> {
        let start = self.at;
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1
        } else {
            self.digits()?
        }
        let mut large = self.at - start >= FEWEST_DIGITS_BEYOND_A_DOUBLE;
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            large = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        if self.at - start > self.limits.number {
            return Err(self.slip(Fault::NumberTooLong));
        }
        if large && !self.is_finite(start) { Err(Slip { fault: Fault::NumberTooLarge, at: start }) } else { Ok(()) }
    }

    /// Whether the number that began at `start` has a double near it. Readers take others for infinity, for null, for
    /// an error or for what is written.
    fn is_finite(&self, start: usize) -> bool {
        let number = self.text.get(start..self.at).and_then(|number| number.parse::<f64>().ok());
        number.is_some_and(f64::is_finite)
    }

    fn escape(&mut self) -> Result<(), Slip> {
        match self.text.as_bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match self.unit()? {
                0xd800..0xdc00 => match self.low_unit() {
                    Some(Ok(0xdc00..0xe000)) => Ok(()),
                    Some(Err(slip)) => Err(slip),
                    _ => Err(self.slip(Fault::LoneSurrogate)),
                },
                0xdc00..0xe000 => Err(self.slip(Fault::LoneSurrogate)),
                _ => Ok(()),
            },
            _ => Err(self.slip(Fault::NotJson)),
        }
    }

    /// The escape that must follow a high surrogate, if one does.
    fn low_unit(&mut self) -> Option<Result<u32, Slip>> {
        let rest = self.text.as_bytes().get(self.at..)?;
        rest.starts_with(b"\\u").then(|| self.unit())
    }

    /// Reads `\uXXXX`.
    fn unit(&mut self) -> Result<u32, Slip> {
        self.at += 2;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            unit = unit * 16 + digit.ok_or_else(|| self.slip(Fault::NotJson))?;
            self.at += 1;
        }
        Ok(unit)
    }
}

/// The index of the next quote, backslash or control byte, or the end: eight bytes at a time.
fn plain_run(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    // A byte of the result has its high bit set if that byte of `word` is below `n`; exact for the lowest such byte,
    // which is the only one used, since a borrow reaches upwards only.
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
    while let Some(Ok(chunk)) = bytes.get(at..at + 8).map(<[u8; 8]>::try_from) {
        let word = u64::from_le_bytes(chunk);
        let special = below(word ^ (ONES * u64::from(b'"')), 1)
            | below(word ^ (ONES * u64::from(b'\\')), 1)
            | below(word, u64::from(b' '));
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|&byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        at += 1;
    }
    at
}

/// Which of `known` this name is, if any. A name that differs from one of them only by case is refused: Go's
/// `encoding/json`, among others, would take it for that one. Its folding also maps U+017F to `s` and U+212A to `k`.
pub(super) fn member_of(text: &str, name: Text, known: &[&'static str]) -> Result<Option<&'static str>, Slip> {
    let decoded = name.decode(text);
    if let Some(exact) = known.iter().find(|candidate| **candidate == decoded) {
        return Ok(Some(exact));
    }
    let variant = if decoded.is_ascii() {
        known.iter().any(|candidate| candidate.eq_ignore_ascii_case(&decoded))
    } else {
        known.iter().any(|candidate| decoded.chars().map(fold).eq(candidate.chars().map(fold)))
    };
    if variant { Err(Slip { fault: Fault::CaseVariant, at: name.span.start as usize }) } else { Ok(None) }
}

fn fold(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => c.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests;
