//! From what a trust anchor means, and the keys that are known, to what there should be for it. No client is needed.
//!
//! Invariant: keys are written for the issuer and the certificates that they were fetched with, and for no other; and
//! those that are known are not written anew only because they were fetched anew.

use super::keys::Supply;
use super::validate::Validated;
use crate::api::FieldPath;
use crate::controller::apply::Prepared;
use crate::controller::client::next;
use crate::controller::error::Failure;
use crate::controller::object::Wanted;
use crate::generated::authority::{KeySet, KeySource};
use crate::generated::codec::{Generated, MOST_BYTES};
use crate::generated::{Authority, Kind, ObjectId};
use crate::resolve::{Finding, Findings, Reason};

/// What the author of a trust anchor is to be told.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What is wrong with it in itself.
    pub errors: Findings,
    /// What depends on others.
    pub warnings: Findings,
    /// What is known of its keys; `None` if it is not accepted.
    pub keys: Option<Keys>,
}

/// What is known of an authority's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// There are some that may be used.
    pub available: bool,
    /// Why they are not, or why they could not be refreshed: a stable word, and in words.
    pub failure: Option<(&'static str, String)>,
}

/// What there should be for a trust anchor. Of one that is invalid nothing is left: none of its tokens is believed.
pub(super) fn build(validated: Validated, supply: Supply, now: i64) -> Result<Prepared<Verdict>, Failure> {
    let Validated { key, id, outcome, previous, clients } = validated;
    let mut verdict = Verdict { errors: Findings::new(), warnings: Findings::new(), keys: None };
    let mut generated = None;
    match outcome {
        Err(findings) => {
            // Nobody's fault, and it passes: until the API server says who issues tokens, what it said before counts.
            let unknown = findings.iter().all(|finding| finding.reason == Reason::ClusterIssuerUnknown);
            if let Some(previous) = previous.as_ref().filter(|_| unknown) {
                generated = Some(encoded(&id, previous)?);
            }
            verdict.errors = findings;
        }
        Ok(resolved) => {
            let mut authority = resolved.object;
            if authority.keys == KeySource::Local {
                // Whoever is left out is told so in the client's own status.
                authority.clients = Some(next::allow_list(clients).0);
            }
            authority.key_set = key_set(previous.as_ref(), &authority, &supply, now);
            let available = authority.key_set.as_ref().is_some_and(|keys| keys.valid_until > now);
            verdict.warnings = resolved.warnings;
            verdict.keys = Some(Keys { available, failure: supply.failure });
            let wanted = encoded(&id, &authority)?;
            if wanted.fits() {
                generated = Some(wanted);
            } else {
                let size = wanted.bytes.len();
                let message = format!("it comes to {size} bytes with its keys, and {MOST_BYTES} can be stored");
                verdict.errors.push(Finding::new(Reason::ObjectTooLarge, FieldPath::of("spec"), message));
                verdict.keys = None;
            }
        }
    }
    Ok(Prepared { key, id, kind: Kind::Authority, generated, document: None, verdict })
}

/// The keys to be written: those that are known now, or, while nothing better is known, those of before.
fn key_set(previous: Option<&Authority>, new: &Authority, supply: &Supply, now: i64) -> Option<KeySet> {
    let same = |earlier: &&Authority| earlier.issuer == new.issuer && earlier.keys == new.keys;
    let before = previous.filter(same).and_then(|earlier| earlier.key_set.clone());
    match (&supply.key_set, before) {
        (None, before) => before.filter(|_| !supply.distrusted),
        (Some(known), Some(before)) if before.jwks == known.jwks => {
            // Nothing but the time would change: it is written when half of it is over.
            let (left, whole) = (before.valid_until.saturating_sub(now), known.valid_until.saturating_sub(now));
            Some(if left > whole / 2 { before } else { known.clone() })
        }
        (Some(known), _) => Some(known.clone()),
    }
}

fn encoded(id: &ObjectId, authority: &Authority) -> Result<Wanted, Failure> {
    let object = Generated::Authority(authority.clone());
    Wanted::new(Kind::Authority, id, &object).map_err(|error| Failure::Build(error.reason()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(issuer: &str, keys: Option<KeySet>) -> Authority {
        Authority { key_set: keys, ..Authority::plain("corp", issuer) }
    }

    fn keys(jwks: &str, valid_until: i64) -> Option<KeySet> {
        Some(KeySet { jwks: jwks.into(), valid_until })
    }

    fn supply(key_set: Option<KeySet>) -> Supply {
        Supply { key_set, failure: None, distrusted: false }
    }

    #[test]
    fn keys_of_before_count_until_better_are_known_and_for_their_issuer_alone() {
        let new = authority("https://a", None);
        let before = authority("https://a", keys("1", 500));
        let chosen = |before: &Authority, supply: &Supply| key_set(Some(before), &new, supply, 100);
        assert_eq!(chosen(&before, &supply(None)), keys("1", 500), "another leader fetched them");
        assert_eq!(chosen(&before, &supply(keys("2", 900))), keys("2", 900));
        let distrusted = Supply { distrusted: true, ..supply(None) };
        assert_eq!(chosen(&before, &distrusted), None);
        assert_eq!(chosen(&authority("https://b", keys("1", 500)), &supply(None)), None);
        assert_eq!(key_set(None, &new, &supply(None), 100), None);
    }

    #[test]
    fn equal_keys_are_written_anew_when_half_of_their_time_is_over() {
        let new = authority("https://a", None);
        let before = authority("https://a", keys("1", 500));
        let chosen = |valid_until, now| key_set(Some(&before), &new, &supply(keys("1", valid_until)), now);
        assert_eq!(chosen(600, 100), keys("1", 500));
        assert_eq!(chosen(900, 100), keys("1", 900));
    }
}
