//! Under which paths the API server asks the admission webhook: `/validate/<word>` and `/deletions/<word>`.
//!
//! Invariant: the word is in no output, and comparing with it takes as long whatever is compared.
//!
//! API servers show webhooks no credential unless each of them was set up for that, but they call exactly what a
//! ValidatingWebhookConfiguration says. So a word in the path that others are not told keeps them from asking.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
/// Bytes of a word before they are written as text.
const BYTES: usize = 32;

/// What the API server asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What is made and changed.
    Changes,
    /// What goes.
    Deletions,
}

impl Asked {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Changes, Self::Deletions];

    /// What a path begins with. Nothing is answered there without a word.
    pub const fn place(self) -> &'static str {
        match self {
            Asked::Changes => "/validate",
            Asked::Deletions => "/deletions",
        }
    }
}

/// The word that opens, in lower-case hexadecimal: a segment of `service.path` has to be a DNS subdomain.
#[derive(Clone)]
pub struct Word(String);

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Word")
    }
}

impl Word {
    /// A new one. `None`: there are no random bytes.
    pub fn make() -> Option<Self> {
        let mut bytes = [0; BYTES];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        Some(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// One that was made before. `None`: it is none, and can be no part of a path.
    pub fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim_end();
        let is_word = text.len() == 2 * BYTES && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        is_word.then(|| Self(text.to_owned()))
    }

    /// As it is kept.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Where the API server is to ask.
    pub fn path(&self, asked: Asked) -> String {
        format!("{}/{}", asked.place(), self.0)
    }

    /// What is asked at a path. `None`: who asks does not know the word.
    pub fn asked(&self, path: &str) -> Option<Asked> {
        let asked = Asked::ALL.into_iter().find(|asked| path.starts_with(asked.place()))?;
        let word = path.strip_prefix(asked.place())?.strip_prefix('/')?;
        verify_slices_are_equal(word.as_bytes(), self.as_bytes()).ok().map(|()| asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_opens_and_each_place_is_told_from_the_other() {
        let word = Word::make().unwrap();
        for asked in Asked::ALL {
            let path = word.path(asked);
            assert_eq!(word.asked(&path), Some(asked));
            assert_eq!(path.len(), asked.place().len() + 1 + 64);
            let shorter: String = path.chars().take(path.len() - 1).collect();
            let doubled = path.replacen('/', "//", 1);
            let text = std::str::from_utf8(word.as_bytes()).unwrap();
            let other = Word::make().unwrap().path(asked);
            let place = asked.place();
            for wrong in [
                String::new(),
                "/".to_owned(),
                place.to_owned(),
                format!("{place}/"),
                format!("{place}/wrong"),
                format!("{place}{text}"),
                format!("{place}//{text}"),
                format!("/{text}"),
                format!("{path}/"),
                format!("{path}x"),
                format!("{path}\n"),
                format!("{place}/{}", text.to_uppercase()),
                shorter,
                doubled,
                other,
            ] {
                assert_eq!(word.asked(&wrong), None, "{wrong}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_read_again_and_what_is_none_is_not() {
        let word = Word::make().unwrap();
        let again = Word::read(word.as_bytes()).unwrap();
        assert!(again.asked(&word.path(Asked::Changes)).is_some());
        // As people write a file.
        let line = [word.as_bytes(), b"\n"].concat();
        assert!(Word::read(&line).unwrap().asked(&word.path(Asked::Changes)).is_some());
        let long = "0".repeat(65);
        let with = |bad: &str| format!("{bad}{}", "0".repeat(64 - bad.len()));
        assert!(Word::read(with("a").as_bytes()).is_some());
        for none in ["", "\n", "short", &long, &with("/"), &with("?"), &with(" "), &with("g"), &with("A"), &with("%")] {
            assert!(Word::read(none.as_bytes()).is_none(), "{none}");
        }
        assert!(Word::read(&[0xff; 64]).is_none());
    }

    #[test]
    fn it_is_in_no_output() {
        let word = Word::make().unwrap();
        assert_eq!(format!("{word:?}"), "Word");
        assert_ne!(word.as_bytes(), Word::make().unwrap().as_bytes());
    }
}
