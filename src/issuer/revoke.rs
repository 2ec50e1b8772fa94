//! Tokens of the local authority that are no longer believed.
//!
//! Invariant: a revocation stays on the list for as long as a token that it is about could be valid, and is on disk
//! when [`LocalAuthority::revoke`] returns. A list that cannot be read is an error, never an empty list.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::mint::{KEEP_EXPIRED_SECONDS, MAX_LIFETIME_SECONDS};
use super::store::{Folder, IssuerError, LocalAuthority, REVOKED, TokenRecord, io_error};
use crate::generated::authority::Revocation;

const MAX_REVOCATIONS: usize = 100_000;
/// Clocks may differ by this much (design 5 allows less).
const SKEW_SECONDS: i64 = 60;
/// How often the list is looked at: the promise is one second from command to refusal.
const INTERVAL: Duration = Duration::from_millis(200);

/// A revocation and until when it matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoked {
    what: Revocation,
    at: i64,
    until: i64,
}

impl LocalAuthority {
    /// Revokes from `now` (Unix seconds) on; says whether a token on record is affected. Revoking again changes
    /// nothing.
    ///
    /// # Errors
    /// If `issued_before` lies in the future, or the list cannot be written; then nothing was revoked.
    pub fn revoke(&self, what: &Revocation, now: i64) -> Result<bool, IssuerError> {
        if matches!(what, Revocation::Subject { issued_before, .. } if *issued_before > now + SKEW_SECONDS) {
            return Err(IssuerError::Request { field: "issuedBefore", why: "lies in the future (is it in seconds?)" });
        }
        let _lock = self.folder.lock()?;
        let records = self.list()?;
        let mut list = self.revoked()?;
        // Kept for longer than they matter: the clock may be ahead now and put right later.
        list.retain(|entry| entry.until + KEEP_EXPIRED_SECONDS > now);
        let (affects, added) = entries(what, &records, now);
        let before = list.len();
        let mut changed = false;
        for new in added {
            if !list.iter().any(|entry| covers(&entry.what, &new.what)) {
                list.retain(|entry| !covers(&new.what, &entry.what));
                list.push(new);
                changed = true;
            }
        }
        if list.len() > MAX_REVOCATIONS.max(before) {
            return Err(IssuerError::Full { what: "revocations", limit: MAX_REVOCATIONS });
        }
        if changed {
            self.folder.write_list(REVOKED, &list)?;
        }
        Ok(affects)
    }

    /// What is revoked.
    ///
    /// # Errors
    /// If the list is missing or damaged: then no token of this authority can be believed.
    pub fn revocations(&self) -> Result<Vec<Revocation>, IssuerError> {
        read(&self.folder)
    }

    /// Follows the list; the first [`RevocationWatch::poll`] yields it as it is.
    pub fn watch(&self) -> RevocationWatch {
        RevocationWatch { folder: self.folder.clone(), seen: None }
    }
}

/// What is to stand on the list, and whether a token on record is affected.
fn entries(what: &Revocation, records: &[TokenRecord], now: i64) -> (bool, Vec<Revoked>) {
    let longest = i64::from(MAX_LIFETIME_SECONDS) + SKEW_SECONDS;
    let entry = |until: i64| Revoked { what: what.clone(), at: now, until };
    let of_token = |record: &TokenRecord| Revoked {
        what: Revocation::Token { jti: record.jti.clone() },
        at: now,
        until: record.expires_at + SKEW_SECONDS,
    };
    match what {
        Revocation::Token { jti } => match records.iter().find(|record| record.jti == *jti) {
            Some(record) => (true, vec![of_token(record)]),
            None => (false, vec![entry(now + longest)]),
        },
        Revocation::Subject { subject, issued_before } => {
            let theirs = || records.iter().filter(|record| record.subject == *subject);
            // Whoever revokes all until now means those too that a clock which was ahead dated later.
            let ahead = theirs().filter(|record| *issued_before >= now && record.issued_at >= *issued_before);
            let mut added: Vec<_> = ahead.map(of_token).collect();
            let affects = !added.is_empty() || theirs().any(|record| record.issued_at < *issued_before);
            added.push(entry(issued_before + longest));
            (affects, added)
        }
    }
}

/// Whether `wide` refuses all that `narrow` does.
fn covers(wide: &Revocation, narrow: &Revocation) -> bool {
    match (wide, narrow) {
        (
            Revocation::Subject { subject: a, issued_before: later },
            Revocation::Subject { subject: b, issued_before: earlier },
        ) => a == b && later >= earlier,
        _ => wide == narrow,
    }
}

fn read(folder: &Folder) -> Result<Vec<Revocation>, IssuerError> {
    Ok(folder.read_list::<Revoked>(REVOKED)?.into_iter().map(|entry| entry.what).collect())
}

/// Sees changes of the revocation list, whoever made them.
#[derive(Debug)]
pub struct RevocationWatch {
    folder: Folder,
    seen: Option<Seen>,
}

/// What tells two versions of the file apart: every write makes a new file, so at least the inode differs from that of
/// the version before.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Absent,
    Version { inode: u64, changed: (i64, i64), size: u64 },
}

impl RevocationWatch {
    /// The list if it changed since the last call, `None` if it did not.
    ///
    /// An `Err` is a change too: until a later one yields a list, no token of this authority can be believed.
    pub fn poll(&mut self) -> Option<Result<Vec<Revocation>, IssuerError>> {
        let path: PathBuf = self.folder.path(REVOKED);
        // Looked at before it is read: a change in between is seen again next time, never missed.
        let seen = match std::fs::metadata(&path) {
            Ok(m) => Seen::Version { inode: m.ino(), changed: (m.ctime(), m.ctime_nsec()), size: m.size() },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Seen::Absent,
            Err(e) => {
                self.seen = None;
                return Some(Err(io_error(&path, &e)));
            }
        };
        if self.seen.as_ref() == Some(&seen) {
            return None;
        }
        let list = read(&self.folder);
        self.seen = Some(seen);
        Some(list)
    }

    /// Waits for the next change. Can be dropped and called again without losing one.
    pub async fn changed(&mut self) -> Result<Vec<Revocation>, IssuerError> {
        loop {
            if let Some(change) = self.poll() {
                return change;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mint::tests::request;
    use super::super::store::tests::authority;
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn token(jti: &str) -> Revocation {
        Revocation::Token { jti: jti.to_owned() }
    }

    fn subject(subject: &str, issued_before: i64) -> Revocation {
        Revocation::Subject { subject: subject.to_owned(), issued_before }
    }

    #[test]
    fn a_watch_sees_what_another_process_revokes_and_survives_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (gateway, cli) = (authority(dir.path()), authority(dir.path()));
        let mut watch = gateway.watch();
        assert_eq!(watch.poll().unwrap().unwrap(), []);
        assert!(watch.poll().is_none());
        let issued = cli.issue(&request("ada"), NOW).unwrap();
        assert!(watch.poll().is_none());
        assert!(cli.revoke(&token(&issued.record.jti), NOW).unwrap());
        assert_eq!(watch.poll().unwrap().unwrap(), [token(&issued.record.jti)]);
        assert!(!cli.revoke(&token("someone-else's"), NOW).unwrap());
        assert_eq!(authority(dir.path()).revocations().unwrap().len(), 2);
    }

    #[test]
    fn concurrent_revocations_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        authority(dir.path());
        std::thread::scope(|scope| {
            for i in 0..16 {
                let dir = dir.path();
                scope.spawn(move || authority(dir).revoke(&token(&format!("t{i}")), NOW).unwrap());
            }
        });
        assert_eq!(authority(dir.path()).revocations().unwrap().len(), 16);
    }

    #[test]
    fn entries_last_as_long_as_their_tokens_and_wider_ones_replace_narrower() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let issued = authority.issue(&request("ada"), NOW).unwrap();
        authority.revoke(&token(&issued.record.jti), NOW).unwrap();
        assert!(authority.revoke(&subject("ada", NOW + 1), NOW).unwrap());
        assert!(!authority.revoke(&subject("ada", NOW - 5), NOW).unwrap());
        assert_eq!(authority.revocations().unwrap().len(), 2);
        authority.revoke(&subject("ada", NOW + 50), NOW + 10).unwrap();
        assert_eq!(authority.revocations().unwrap(), [token(&issued.record.jti), subject("ada", NOW + 50)]);
        // The token has long expired, so its entry goes; the subject's stays, since 90-day tokens may exist.
        let later = NOW + 3600 + SKEW_SECONDS + KEEP_EXPIRED_SECONDS + 1;
        authority.revoke(&token("x"), later).unwrap();
        assert_eq!(authority.revocations().unwrap(), [subject("ada", NOW + 50), token("x")]);
        assert!(authority.revoke(&subject("ada", later * 1000), later).is_err());
    }

    #[test]
    fn a_clock_that_steps_back_frees_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        // An hour ahead, and then put right.
        let early = authority.issue(&request("ada"), NOW + 3600).unwrap().record;
        assert!(authority.revoke(&subject("ada", NOW + 1), NOW).unwrap(), "the token from the future is meant too");
        let listed = authority.revocations().unwrap();
        assert!(listed.contains(&token(&early.jti)) && listed.contains(&subject("ada", NOW + 1)), "{listed:?}");
        assert!(!authority.revoke(&subject("ada", NOW - 10), NOW).unwrap(), "what is about the past is about the past");
        // Ahead again by a week, when that token and its revocation have long had their time.
        authority.revoke(&token("other"), early.expires_at + 7 * 86_400).unwrap();
        assert!(authority.revocations().unwrap().contains(&token(&early.jti)), "the clock may be put right once more");
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let mut watch = authority.watch();
        watch.poll().unwrap().unwrap();
        let file = dir.path().join("issuer").join(REVOKED);
        let good = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(watch.poll().unwrap().unwrap_err().reason(), "IssuerStateDamaged");
        assert!(watch.poll().is_none());
        assert!(LocalAuthority::open(&dir.path().join("issuer"), "i").is_err());
        std::fs::write(&file, "{\"version\":2,\"entries\":[]}").unwrap();
        assert!(watch.poll().unwrap().is_err());
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, good).unwrap();
        assert_eq!(watch.poll().unwrap().unwrap(), []);
    }

    #[tokio::test]
    async fn a_waiting_gateway_learns_of_a_revocation_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        let mut watch = authority.watch();
        watch.changed().await.unwrap();
        let waiting = tokio::spawn(async move { watch.changed().await });
        tokio::task::yield_now().await;
        authority.revoke(&token("t"), NOW).unwrap();
        let seen = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(seen, [token("t")]);
    }
}
