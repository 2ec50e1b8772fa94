//! What keeps an upstream from being called as it wants, for whoever can mend it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::SCOPES_LACKING;
use crate::upstream::UpstreamError;

/// So long it is told what kept a call from being made, if it keeps no other from that: then nobody knows any more.
pub(super) const TOLD: Duration = Duration::from_secs(600);

/// What keeps calls of an upstream from being made as it wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub(super) what: What,
    pub(super) at: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// There is no token, or no other one than the last, and what the issuer says, if it says something.
    NoToken(&'static str, Option<&'static str>),
    /// The upstream takes none of them.
    NotTaken,
    /// It asks for these scopes, and no token has them.
    Lacking(String),
}

impl Trouble {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match &self.what {
            What::NoToken(reason, _) => reason,
            What::NotTaken => UpstreamError::CredentialsRefused { status: 401 }.reason(),
            What::Lacking(_) => SCOPES_LACKING,
        }
    }

    /// The scopes that the upstream asks for, if that is what is wrong.
    pub fn scopes(&self) -> Option<&str> {
        if let What::Lacking(scopes) = &self.what { Some(scopes) } else { None }
    }

    /// What it is about besides: scopes, or the issuer's error code.
    pub fn words(&self) -> &str {
        match &self.what {
            What::NoToken(_, code) => code.unwrap_or_default(),
            What::NotTaken => "",
            What::Lacking(scopes) => scopes,
        }
    }
}

/// What is told of one upstream.
#[derive(Default)]
pub(super) struct Told(pub(super) ArcSwapOption<Trouble>);

impl Told {
    /// What is wrong, if something is.
    pub(super) fn now(&self) -> Option<Arc<Trouble>> {
        self.0.load_full().filter(|trouble| trouble.at.elapsed() < TOLD)
    }

    pub(super) fn tell(&self, what: What) {
        self.0.store(Some(Arc::new(Trouble { what, at: Instant::now() })));
    }

    /// There is a token again. Whether the upstream takes it, a call will tell.
    pub(super) fn is_got(&self) {
        self.is_over(|trouble| matches!(trouble.what, What::NoToken(..)));
    }

    /// The upstream has taken a token that was got at this time, with these scopes. Where it was not content with that same token
    /// for another call, it still is not.
    pub(super) fn is_taken(&self, since: Instant, scopes: &[String]) {
        let has = |wanted: &str| scopes.iter().any(|scope| scope == wanted);
        self.is_over(|trouble| match &trouble.what {
            What::NoToken(..) => false,
            What::NotTaken => true,
            What::Lacking(lacking) => trouble.at < since && lacking.split(' ').all(has),
        });
    }

    /// What is wrong is over, if it is of this kind. The others may still be so.
    fn is_over(&self, is_it: impl Fn(&Trouble) -> bool) {
        if self.0.load().as_ref().is_some_and(|trouble| is_it(trouble)) {
            self.0.store(None);
        }
    }
}
