//! The word in the path by which the webhook knows the API server, as a file has it.
//!
//! Invariant: without a word nobody is answered; a new one opens as soon as it is in the file, and the old one opens no more;
//! what is no word replaces none.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::certificate::SOON;
use crate::cluster::door::{Asked, Word};

/// Who may ask. Clones share it.
#[derive(Clone, Debug)]
pub struct Door {
    file: PathBuf,
    word: Arc<ArcSwapOption<Word>>,
}

impl Door {
    /// One that opens by the word in this file, once it is there.
    pub fn new(file: PathBuf) -> Self {
        let door = Self { file, word: Arc::default() };
        door.reload();
        door
    }

    /// Where the word is read.
    pub fn file(&self) -> &PathBuf {
        &self.file
    }

    /// Whether there is a word.
    pub fn has_word(&self) -> bool {
        self.word.load().is_some()
    }

    /// What is asked at a path; `None`: nobody may.
    pub fn asked(&self, path: &str) -> Option<Asked> {
        self.word.load().as_ref()?.asked(path)
    }

    /// Reads the file again; whether there is another word now.
    fn reload(&self) -> bool {
        let Some(word) = std::fs::read(&self.file).ok().and_then(|text| Word::read(&text)) else { return false };
        let same = self.word.load().as_ref().is_some_and(|before| before.as_bytes() == word.as_bytes());
        if !same {
            self.word.store(Some(Arc::new(word)));
        }
        !same
    }

    /// Reads it again from time to time, until `stop`.
    pub async fn watch(self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(SOON)).await.is_some() {
            if self.reload() {
                tracing::info!(file = %self.file.display(), "the secret path is another");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_opens_and_nothing_does_before_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("path");
        let door = Door::new(file.clone());
        assert!(!door.has_word() && door.asked("/validate").is_none() && door.asked("/validate/").is_none());
        let (one, two) = (Word::make().unwrap(), Word::make().unwrap());
        let opens = |word: &Word| door.asked(&word.path(Asked::Changes)).is_some();
        std::fs::write(&file, one.as_bytes()).unwrap();
        assert!(door.reload() && !door.reload() && opens(&one) && !opens(&two));
        std::fs::write(&file, two.as_bytes()).unwrap();
        assert!(door.clone().reload() && opens(&two) && !opens(&one));
        // What is no word, and a file that goes, change nothing.
        std::fs::write(&file, "no word").unwrap();
        assert!(!door.reload() && opens(&two));
        std::fs::remove_file(&file).unwrap();
        assert!(!door.reload() && opens(&two) && door.has_word());
        assert!(!format!("{door:?}").contains(std::str::from_utf8(two.as_bytes()).unwrap()));
    }
}
