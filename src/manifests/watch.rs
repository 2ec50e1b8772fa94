//! Changes of a folder, by looking again.
//!
//! Looking works where notifications do not: on network file systems, and for the link swap by which a mounted ConfigMap
//! changes. A change counts once two looks in a row have found the same content, so that a file which an editor is still
//! writing is not taken for broken.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{Limits, Scan, scan};

/// The least time between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Watches paths for changed content.
#[derive(Debug)]
pub struct Watcher {
    paths: Vec<PathBuf>,
    limits: Limits,
    delivered: Scan,
    pending: Option<Scan>,
    pause: Duration,
}

impl Watcher {
    /// Watches `paths` for content that differs from `delivered`, the scan that was last acted upon.
    pub fn new(paths: Vec<PathBuf>, limits: Limits, delivered: Scan) -> Self {
        Self { paths, limits, delivered, pending: None, pause: INTERVAL }
    }

    /// Waits for a change and delivers the whole scan. May be dropped and called again at any time.
    pub async fn changed(&mut self) -> Scan {
        loop {
            tokio::time::sleep(self.pause).await;
            let (paths, limits) = (self.paths.clone(), self.limits);
            let last = self.pending.clone().unwrap_or_else(|| self.delivered.clone());
            let started = Instant::now();
            let look = tokio::task::spawn_blocking(move || scan(&paths, &limits, Some(&last)));
            let Ok(found) = look.await else { continue };
            // A large folder is looked at less often: never more than a tenth of one core.
            self.pause = INTERVAL.max(started.elapsed() * 9);
            if let Some(settled) = self.judge(found) {
                return settled;
            }
        }
    }

    fn judge(&mut self, found: Scan) -> Option<Scan> {
        if found.same_content(&self.delivered) {
            self.delivered = found;
            self.pending = None;
            return None;
        }
        let settled = self.pending.as_ref().is_some_and(|pending| pending.same_content(&found));
        if !settled {
            self.pending = Some(found);
            return None;
        }
        self.pending = None;
        self.delivered = found.clone();
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_two_looks_agree() {
        let folder = tempfile::tempdir().unwrap();
        let paths = vec![folder.path().to_owned()];
        let look = || scan(&paths, &Limits::default(), None);
        let write = |text: &str| std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let mut watcher = Watcher::new(paths.clone(), Limits::default(), look());
        assert!(watcher.judge(look()).is_none());
        write("kind: [half");
        assert!(watcher.judge(look()).is_none());
        write("# whole");
        assert!(watcher.judge(look()).is_none());
        assert!(watcher.judge(look()).is_some());
        assert!(watcher.judge(look()).is_none());
        // Written and taken back between two looks.
        write("# other");
        assert!(watcher.judge(look()).is_none());
        write("# whole");
        assert!(watcher.judge(look()).is_none());
        assert!(watcher.judge(look()).is_none());
    }
}
