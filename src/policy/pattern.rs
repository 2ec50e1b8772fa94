//! Patterns over names and URIs: whole strings, case-sensitive, linear in time, without allocation.
//!
//! Invariant: read as a grant, a pattern matches only names that cannot mean two things; read as a restriction, it
//! matches everything that it can. `*` and `**` are the only special characters; there is no escape: a name that holds
//! a `*` is named exactly, in `names`.

use std::borrow::Cow;

use crate::generated::Risk;
use crate::generated::policy::Effect;
use crate::generated::server::RiskRule;
use crate::glob::Glob;

/// The longest pattern, in bytes.
pub(crate) const MAX_PATTERN: usize = 512;

/// A pattern over tool or prompt names: `*` matches any characters, none included.
#[derive(Debug)]
pub struct NamePattern(Glob);

impl NamePattern {
    pub(crate) fn new(pattern: &str) -> Self {
        Self(Glob::new(pattern))
    }

    /// The one name that a pattern without a star matches.
    pub(crate) fn exact(&self) -> Option<&str> {
        self.0.exact()
    }

    /// Whether a name matches. For an Allow, a star stands only for characters that every MCP implementation reads
    /// alike: the whole name is in the safe set.
    pub(crate) fn matches(&self, name: &str, effect: Effect) -> bool {
        self.0.matches(name) && (effect != Effect::Allow || self.exact().is_some() || is_safe_name(name))
    }
}

/// The classes that an owner asserts for a tool of this name.
pub fn asserted(rules: &[RiskRule], name: &str) -> impl Iterator<Item = Risk> {
    let matches = |rule: &&RiskRule| rule.patterns.iter().any(|p| NamePattern::new(p).matches(name, Effect::Deny));
    rules.iter().filter(matches).map(|rule| rule.class)
}

/// Whether a name is in the set that the protocol recommends for tools: `[A-Za-z0-9_.-]{1,128}`.
pub(crate) fn is_safe_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A pattern over URIs: `*` matches any characters but `/`, `**` matches any.
#[derive(Debug)]
pub(crate) struct UriPattern {
    as_written: Elements,
    /// The same, with escapes resolved and the case-insensitive parts in lower case; only restrictions look at it.
    normalized: Elements,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    Byte(u8),
    Star,
    DoubleStar,
}

#[derive(Debug)]
struct Elements {
    /// The literal before the first star: most patterns are told apart here.
    prefix: Box<[u8]>,
    rest: Box<[Element]>,
}

impl UriPattern {
    pub(crate) fn new(pattern: &str) -> Self {
        Self {
            as_written: Elements::new(pattern.as_bytes()),
            normalized: Elements::new(&normalize(pattern.as_bytes())),
        }
    }

    /// Whether a URI matches. For an Allow, URIs that could be read in two ways never do. For the others, what counts
    /// is the URI as sent and the URI that a lenient reader would make of it.
    pub(crate) fn matches(&self, uri: &str, effect: Effect) -> bool {
        if effect == Effect::Allow {
            return is_unambiguous(uri) && self.as_written.matches(uri.as_bytes());
        }
        self.as_written.matches(uri.as_bytes()) || self.normalized.matches(&normalize(uri.as_bytes()))
    }
}

impl Elements {
    fn new(pattern: &[u8]) -> Self {
        let literal = pattern.iter().position(|b| *b == b'*').unwrap_or(pattern.len());
        let (prefix, mut tail) = pattern.split_at(literal);
        let mut rest = Vec::new();
        while let [first, after @ ..] = tail {
            tail = after;
            if *first != b'*' {
                rest.push(Element::Byte(*first));
            } else if let [b'*', after @ ..] = tail {
                tail = after;
                rest.push(Element::DoubleStar);
            } else {
                rest.push(Element::Star);
            }
        }
        Self { prefix: prefix.into(), rest: rest.into() }
    }

    fn matches(&self, text: &[u8]) -> bool {
        let Some(tail) = text.strip_prefix(&*self.prefix) else { return false };
        match &*self.rest {
            [] => tail.is_empty(),
            [Element::DoubleStar] => true,
            [Element::Star] => !tail.contains(&b'/'),
            rest => Automaton::start(rest).run(rest, tail),
        }
    }
}

const WORDS: usize = MAX_PATTERN / 64 + 1;

/// The set of places in a pattern that the text read so far can have reached: time grows with text x pattern, whatever
/// the stars.
struct Automaton([u64; WORDS]);

impl Automaton {
    fn start(rest: &[Element]) -> Self {
        let mut places = Self([0; WORDS]);
        places.reach(rest, 0);
        places
    }

    /// Adds a place, and those behind the stars that may stand for nothing.
    fn reach(&mut self, rest: &[Element], mut place: usize) {
        loop {
            if let Some(word) = self.0.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
            match rest.get(place) {
                Some(Element::Star | Element::DoubleStar) => place += 1,
                _ => return,
            }
        }
    }

    fn run(mut self, rest: &[Element], text: &[u8]) -> bool {
        for byte in text {
            let mut next = Self([0; WORDS]);
            for (index, word) in self.0.iter().enumerate() {
                let mut word = *word;
                while word != 0 {
                    let place = index * 64 + word.trailing_zeros() as usize;
                    word &= word - 1;
                    match rest.get(place) {
                        Some(Element::Byte(expected)) if expected == byte => next.reach(rest, place + 1),
                        Some(Element::Star) if *byte != b'/' => next.reach(rest, place),
                        Some(Element::DoubleStar) => next.reach(rest, place),
                        _ => {}
                    }
                }
            }
            self = next;
        }
        self.0.get(rest.len() / 64).is_some_and(|word| word >> (rest.len() % 64) & 1 == 1)
    }
}

/// Whether every reader takes a URI for the same resource: only characters of RFC 3986, no dot segments anywhere
/// (queries and fragments included), no escape that hides a dot, a slash, a backslash, the end of a C string or another
/// escape.
fn is_unambiguous(uri: &str) -> bool {
    let bytes = uri.as_bytes();
    bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(b))
        && !bytes.split(|b| b":/?#[]@!$&'()*+,;=".contains(b)).any(|segment| matches!(segment, b"." | b".."))
        && !(0..bytes.len()).any(|at| hides(bytes.get(at..).unwrap_or_default()))
}

/// Whether a text starts with an escape that hides structure.
fn hides(text: &[u8]) -> bool {
    match text {
        [b'%', b'2', b'e' | b'E' | b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..] | [b'%', b'0', b'0', ..] => true,
        [b'%', b'2', b'5', high, low, ..] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    }
}

/// What a lenient reader makes of a URI: escapes resolved, scheme and host in lower case (RFC 3986 section 6.2.2). Once
/// is enough: no grant matches a URI with escaped escapes. An escaped `*` stays escaped, so that a pattern's literal
/// does not turn into a star.
fn normalize(uri: &[u8]) -> Cow<'_, [u8]> {
    let mut text = if uri.contains(&b'%') { Cow::Owned(decode(uri)) } else { Cow::Borrowed(uri) };
    let Some(colon) = text.iter().position(|b| *b == b':') else { return text };
    let insensitive = match text.get(colon + 1..colon + 3) {
        Some(b"//") => {
            let host = colon + 3;
            text.iter().skip(host).position(|b| b"/?#".contains(b)).map_or(text.len(), |end| host + end)
        }
        _ => colon,
    };
    let head = text.get(..insensitive).unwrap_or_default();
    if head.iter().any(u8::is_ascii_uppercase)
        && let Some(head) = text.to_mut().get_mut(..insensitive)
    {
        head.make_ascii_lowercase();
    }
    text
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut tail = text;
    while let [first, after @ ..] = tail {
        let (byte, rest) = escape(tail).unwrap_or((*first, after));
        decoded.push(byte);
        tail = rest;
    }
    decoded
}

/// The byte that an escape stands for, and what follows it.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, rest @ ..] = text else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let byte = digit(*high)? << 4 | digit(*low)?;
    (byte != b'*').then_some((byte, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(pattern: &str, name: &str, effect: Effect) -> bool {
        NamePattern::new(pattern).matches(name, effect)
    }

    fn uri(pattern: &str, uri: &str, effect: Effect) -> bool {
        UriPattern::new(pattern).matches(uri, effect)
    }

    #[test]
    fn names_match_whole_and_case_sensitive() {
        for effect in [Effect::Allow, Effect::Deny] {
            assert!(name("get_*", "get_issue", effect));
            assert!(name("get_*", "get_", effect));
            assert!(name("*_issue_*", "get_issue_list", effect));
            assert!(name("a*a", "aa", effect));
            assert!(!name("a*a", "a", effect));
            assert!(!name("get_*", "Get_issue", effect));
            assert!(!name("get_*", "xget_issue", effect));
            assert!(!name("get", "get_issue", effect));
            assert!(name("exact", "exact", effect));
            assert!(name("get_?[a]", "get_?[a]", effect));
            assert!(!name("get_?", "get_x", effect));
        }
    }

    #[test]
    fn a_granting_star_stands_only_for_safe_names() {
        let long = "a".repeat(129);
        for odd in ["delete file", "caf\u{e9}", "a/b", "", "a\0", " a", long.as_str()] {
            assert!(!name("*", odd, Effect::Allow), "{odd:?}");
            assert!(name("*", odd, Effect::Deny), "{odd:?}");
            assert!(name(odd, odd, Effect::Allow), "an exact name is what it says: {odd:?}");
        }
    }

    #[test]
    fn stars_in_uris_stop_at_slashes_unless_doubled() {
        for effect in [Effect::Allow, Effect::Deny] {
            assert!(uri("repo://public/*", "repo://public/a", effect));
            assert!(!uri("repo://public/*", "repo://public/a/b", effect));
            assert!(uri("repo://public/**", "repo://public/a/b", effect));
            assert!(uri("repo://*/x/**/y*", "repo://o/x/1/2/yes", effect));
            assert!(!uri("repo://*/x/**/y*", "repo://o/x/1/2/y/es", effect));
            assert!(!uri("repo://public/**", "repo://private/a", effect));
            assert!(uri("file:///a", "file:///a", effect));
            assert!(!uri("file:///a", "file:///a/", effect));
        }
    }

    #[test]
    fn a_grant_never_matches_what_can_be_read_in_two_ways() {
        for trap in [
            "repo://public/../secret",
            "repo://public/./a",
            "repo://public/..",
            "repo://public/%2e%2E/secret",
            "repo://public/a%2Fb",
            "repo://public/a%5cb",
            "repo://public/a%252fb",
            "repo://public/a%2563b",
            "repo://public/a%00b",
            "repo://public/a%25252eb",
            "repo://public/..;x/secret",
            "repo://public/a?p=../secret",
            "repo://public/a\\..\\b",
            "repo://public/a b",
            "repo://public/a\n",
            "repo://public/\u{ff0e}\u{ff0e}/a",
        ] {
            assert!(!uri("repo://public/**", trap, Effect::Allow), "{trap:?}");
            assert!(!uri(trap, trap, Effect::Allow), "{trap:?}");
            assert!(uri("repo://public/**", trap, Effect::Deny), "{trap:?}");
        }
        assert!(uri("repo://public/**", "repo://public/a..b/.git?x=1.5&y=%20", Effect::Allow));
    }

    #[test]
    fn a_restriction_sees_through_escapes_and_case() {
        for disguise in ["repo://se%63ret/x", "REPO://Secret/x", "repo:%2F%2fsecret/x"] {
            assert!(uri("repo://secret/**", disguise, Effect::Deny), "{disguise}");
        }
        assert!(uri("repo://s%65cret/*", "repo://secret/x", Effect::Deny));
        assert!(!uri("repo://a/secret", "repo://a/SECRET", Effect::Deny), "paths are case-sensitive");
        assert!(!uri("repo://a/%2a", "repo://a/b", Effect::Deny), "an escaped star is a literal");
        assert!(uri("repo://a/%2a", "repo://a/%2a", Effect::Deny));
    }

    /// The meaning of a pattern, written as its definition.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            ([b'*', b'*', p @ ..], text) => (0..=text.len()).any(|n| slow(p, &text[n..])),
            ([b'*', p @ ..], text) => {
                (0..=text.len()).take_while(|n| !text[..*n].contains(&b'/')).any(|n| slow(p, &text[n..]))
            }
            ([c, p @ ..], [d, t @ ..]) => c == d && slow(p, t),
            (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn uris_match_as_defined(pattern in "[ab/*]{0,10}", text in "[ab/]{0,14}") {
            prop_assert_eq!(uri(&pattern, &text, Effect::Allow), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn names_match_as_defined(pattern in "[ab*]{0,8}", text in "[ab]{1,12}") {
            prop_assert_eq!(name(&pattern, &text, Effect::Allow), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn whatever_a_grant_matches_a_restriction_matches(pattern in "[a%25eE2/:*]{0,12}", text in "[a%25eE2/:.]{0,12}") {
            prop_assert!(!uri(&pattern, &text, Effect::Allow) || uri(&pattern, &text, Effect::Deny));
        }
    }
}
