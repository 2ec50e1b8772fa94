//! When a token is valid (RFC 7519 sections 4.1.4 to 4.1.6).

use serde_json::{Map, Value};

use super::error::TokenError;
use crate::generated::authority::TokenRules;

/// The last second of the year 9999: later dates are mistakes, and arithmetic stays far from overflow.
const MAX_DATE: i64 = 253_402_300_799;

/// A token's times in Unix seconds; fractions are rounded so that the token is valid for less long, never longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) expires: i64,
    pub(super) not_before: Option<i64>,
    pub(super) issued: Option<i64>,
}

impl Times {
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Times, TokenError> {
        Ok(Times {
            expires: date(claims, "exp", f64::floor)?.ok_or_else(|| TokenError::MissingClaim("exp".into()))?,
            not_before: date(claims, "nbf", f64::ceil)?,
            issued: date(claims, "iat", f64::floor)?,
        })
    }

    /// Whether the token is valid at `now`, clocks differing by at most the rules' skew.
    pub(super) fn check(&self, rules: &TokenRules, now: i64) -> Result<(), TokenError> {
        let skew = i64::from(rules.skew_seconds);
        if now.saturating_sub(skew) >= self.expires {
            return Err(TokenError::Expired);
        }
        let latest = now.saturating_add(skew);
        if self.not_before.is_some_and(|not_before| not_before > latest) {
            return Err(TokenError::NotYetValid);
        }
        if self.issued.is_some_and(|issued| issued > latest) {
            return Err(TokenError::IssuedInFuture);
        }
        let Some(longest) = rules.max_lifetime_seconds else { return Ok(()) };
        let issued = self.issued.ok_or_else(|| TokenError::MissingClaim("iat".into()))?;
        if self.expires - issued > i64::from(longest) { Err(TokenError::Lifetime) } else { Ok(()) }
    }
}

/// A NumericDate (RFC 7519 section 2), if the claim is present.
fn date(claims: &Map<String, Value>, name: &str, round: fn(f64) -> f64) -> Result<Option<i64>, TokenError> {
    let Some(claim) = claims.get(name) else { return Ok(None) };
    let whole = claim.as_i64().or_else(|| {
        let seconds = round(claim.as_f64()?);
        // Doubles hold every integer of this range exactly.
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        (0.0..=MAX_DATE as f64).contains(&seconds).then_some(seconds as i64)
    });
    match whole {
        Some(seconds) if (0..=MAX_DATE).contains(&seconds) => Ok(Some(seconds)),
        _ => Err(TokenError::MalformedClaim(name.into())),
    }
}
