//! Requests of known callers that are refused before any decision, summed before they are recorded: nobody with a token
//! floods the journal, and nobody hides another's refusals behind his own (mcp-obligations 96).

use std::sync::{Arc, Mutex, PoisonError};

use super::authenticate::Caller;
use super::failures::{WINDOW, now_ms};
use super::snapshot::Site;
use crate::audit::{Recorder, RefusalEvent, Sum, Sums};

/// How many kinds are told apart in a window.
const KINDS: usize = 256;

/// How many of them are one caller's: what he does besides is `Various`.
const KINDS_OF_ONE: usize = 16;

/// The word for everything beyond a bound.
const VARIOUS: &str = "Various";

/// What is summed together. The site is the one whose `Arc` is kept with the sum, so its address stays its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    caller: [u8; 32],
    site: usize,
    reason: &'static str,
}

type Who = (Arc<Site>, Arc<Caller>);

/// The sums of the current window.
pub struct Refusals(Mutex<Sums<Kind, Who>>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(Sums::new(u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX), KINDS)))
    }
}

impl Refusals {
    /// Counts one refusal.
    pub fn note(&self, site: &Arc<Site>, caller: &Arc<Caller>, reason: &'static str) {
        let mut kind = Kind { caller: *caller.verified.binding(), site: Arc::as_ptr(site).addr(), reason };
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut known, mut others) = (false, 0);
        for other in sums.kinds().filter(|other| other.caller == kind.caller) {
            known |= *other == kind;
            others += usize::from(other.reason != VARIOUS);
        }
        if !known && others >= KINDS_OF_ONE {
            kind.reason = VARIOUS;
        }
        sums.observe(now_ms(), kind, || (site.clone(), caller.clone()));
    }

    /// Records what a window summed; `all` also what is not due yet, before the process ends.
    pub fn flush(&self, recorder: &Recorder, all: bool) {
        let (sums, overflow) = {
            let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !all && !sums.is_due(now_ms()) {
                return;
            }
            sums.take()
        };
        for (kind, who, sum) in &sums {
            record(recorder, Some(who), kind.reason, *sum);
        }
        if let Some(sum) = overflow {
            record(recorder, None, VARIOUS, sum);
        }
    }
}

fn record(recorder: &Recorder, who: Option<&Who>, reason: &str, sum: Sum) {
    recorder.refusal(&RefusalEvent {
        server: who.map(|(site, _)| site.fields()),
        principal: who.map(|(_, caller)| caller.fields(None)),
        reason,
        sum,
    });
}
