//! Who may ask: the API server, known by the path that it was told.
//!
//! Invariant: a path opens that was made with the key in a file, and that callers are told now, or will be, or were a moment ago.
//! Without a key, or before it was seen what callers are told, nobody is answered.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::certificate::SOON;
use crate::cluster::secret_path::{Asked, Key};

/// How long a path opens after callers were told of another: each API server hears of it by a watch of its own.
const HEARS: Duration = Duration::from_secs(20);

/// Who may ask. Clones share it.
#[derive(Clone, Debug)]
pub struct Door {
    file: PathBuf,
    key: Arc<ArcSwapOption<Key>>,
    told: Arc<Mutex<[Option<Told>; 2]>>,
}

/// Of which paths callers were told, by the times in them.
#[derive(Clone, Copy, Debug)]
struct Told {
    now: i64,
    /// The latest that was ever seen.
    latest: i64,
    before: Option<(i64, Instant)>,
}

impl Told {
    /// Whether a path of this time opens. One that is later than all is authentic too: it was not seen yet.
    fn opens(self, since: i64) -> bool {
        since == self.now
            || since > self.latest
            || self.before.is_some_and(|(before, until)| since == before && Instant::now() < until)
    }
}

impl Door {
    /// One that opens by the key in this file, once it is there.
    pub fn new(file: PathBuf) -> Self {
        let door = Self { file, key: Arc::default(), told: Arc::default() };
        door.reload();
        door
    }

    /// Where the key is read.
    pub fn file(&self) -> &PathBuf {
        &self.file
    }

    /// Whether there is a key.
    pub fn has_key(&self) -> bool {
        self.key.load().is_some()
    }

    /// Learns of which path callers are told. One that was made with another key is none.
    pub fn see(&self, path: &str) {
        let Some((asked, now)) = self.key.load().as_ref().and_then(|key| key.opens(path)) else { return };
        let mut all = self.told();
        let told = &mut all[asked as usize];
        if told.is_none_or(|told| told.now != now) {
            let latest = told.map_or(now, |told| told.latest.max(now));
            *told = Some(Told { now, latest, before: told.map(|told| (told.now, Instant::now() + HEARS)) });
        }
    }

    /// What is asked at a path; `None`: nobody may.
    pub fn asked(&self, path: &str) -> Option<Asked> {
        let (asked, since) = self.key.load().as_ref()?.opens(path)?;
        let told = self.told()[asked as usize]?;
        told.opens(since).then_some(asked)
    }

    fn told(&self) -> MutexGuard<'_, [Option<Told>; 2]> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file again; whether there is another key now.
    fn reload(&self) -> bool {
        let Some(key) = std::fs::read(&self.file).ok().and_then(|bytes| Key::read(&bytes)) else { return false };
        if self.key.load().as_ref().is_some_and(|before| **before == key) {
            return false;
        }
        self.key.store(Some(Arc::new(key)));
        true
    }

    /// Reads it again from time to time, until `stop`.
    pub async fn watch(self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(SOON)).await.is_some() {
            if self.reload() {
                tracing::info!(file = %self.file.display(), "the key of secret paths is another");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn what_callers_are_told_opens_and_what_they_were_told_long_ago_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::make().unwrap();
        std::fs::write(folder.path().join("key"), key.as_bytes()).unwrap();
        let door = Door::new(folder.path().join("key"));
        let path = |since| key.path(Asked::Changes, since);
        let opens = |since| door.asked(&path(since)) == Some(Asked::Changes);
        assert!(!opens(NOW), "it was not seen what callers are told");
        door.see("/validate");
        door.see(&Key::make().unwrap().path(Asked::Changes, NOW));
        assert!(!opens(NOW), "that is another's");
        door.see(&path(NOW));
        assert!(opens(NOW) && opens(NOW + 1) && !opens(NOW - 1));
        // The other place has a path of its own.
        assert!(door.asked(&key.path(Asked::Deletions, NOW)).is_none());
        // What is seen again changes nothing; the one before opens for a moment, and none before that.
        door.see(&path(NOW + 60));
        door.see(&path(NOW + 60));
        assert!(opens(NOW) && opens(NOW + 60) && !opens(NOW + 59));
        door.told()[0].as_mut().unwrap().before = Some((NOW, Instant::now()));
        assert!(!opens(NOW) && opens(NOW + 60));
        // A clock was ahead: what callers are told now opens all the same.
        door.see(&path(NOW + 30));
        assert!(opens(NOW + 30) && opens(NOW + 60), "for a moment");
        door.told()[0].as_mut().unwrap().before = Some((NOW + 60, Instant::now()));
        assert!(opens(NOW + 30) && !opens(NOW + 60) && !opens(NOW + 31) && opens(NOW + 61));
    }

    #[test]
    fn the_last_key_opens_and_nothing_does_before_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let door = Door::new(file.clone());
        let (one, two) = (Key::make().unwrap(), Key::make().unwrap());
        let sees = |key: &Key| door.see(&key.path(Asked::Changes, NOW));
        let opens = |key: &Key| door.asked(&key.path(Asked::Changes, NOW)).is_some();
        sees(&one);
        assert!(!door.has_key() && !opens(&one) && door.asked("/validate").is_none());
        std::fs::write(&file, one.as_bytes()).unwrap();
        assert!(door.reload() && !door.reload() && !opens(&one));
        sees(&one);
        assert!(opens(&one) && !opens(&two));
        std::fs::write(&file, two.as_bytes()).unwrap();
        assert!(door.clone().reload() && opens(&two) && !opens(&one));
        // What is no key, and a file that goes, change nothing.
        std::fs::write(&file, "no key").unwrap();
        assert!(!door.reload() && opens(&two));
        std::fs::remove_file(&file).unwrap();
        assert!(!door.reload() && opens(&two) && door.has_key());
    }
}
