//! Names with stars, as manifests write them for tools and prompts.
//!
//! Invariant: `*` stands for any characters, none included, and everything else for itself; whole names, case-sensitive,
//! without allocation. There is no escape: a name that holds a `*` is named exactly, where exact names are written.

/// A name, or a pattern of names.
#[derive(Clone, Debug)]
pub struct Glob {
    /// The literals between the stars; one entry: no star.
    parts: Box<[Box<str>]>,
}

impl Glob {
    /// Reads a pattern; every text is one.
    pub fn new(pattern: &str) -> Self {
        Self { parts: pattern.split('*').map(Box::from).collect() }
    }

    /// The one name that a pattern without a star matches.
    pub fn exact(&self) -> Option<&str> {
        match &*self.parts {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &str) -> bool {
        match &*self.parts {
            [] => false,
            [only] => **only == *name,
            [first, middle @ .., last] => stars(first, middle, last, name),
        }
    }
}

/// Leftmost match of every middle literal: enough, because a star takes any characters.
fn stars(first: &str, middle: &[Box<str>], last: &str, name: &str) -> bool {
    let Some(rest) = name.strip_prefix(first) else { return false };
    let Some(mut rest) = rest.strip_suffix(last) else { return false };
    middle.iter().all(|literal| match rest.split_once(&**literal) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The meaning, written down slowly: `*` takes any number of bytes.
    fn matches_slowly(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|at| matches_slowly(rest, &name[at..])),
            Some((byte, rest)) => {
                name.split_first().is_some_and(|(first, name)| first == byte && matches_slowly(rest, name))
            }
        }
    }

    proptest! {
        #[test]
        fn patterns_mean_what_the_slow_reading_says(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            let fast = Glob::new(&pattern).matches(&name);
            prop_assert_eq!(fast, matches_slowly(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn a_star_in_a_name_is_a_character() {
        assert!(Glob::new("a*").matches("a*b") && Glob::new("*").matches("*"));
        assert_eq!((Glob::new("a*").exact(), Glob::new("a").exact()), (None, Some("a")));
    }
}
