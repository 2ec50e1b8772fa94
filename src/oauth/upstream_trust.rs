//! Whom an upstream trusts (RFC 9728), as it is asked and as it answers.
//!
//! Invariant: an answer counts for exactly the question that it is an answer to; and only a document about the resource in
//! question that names other issuers says that the upstream has turned away from the one that is meant. What is not said
//! changes nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::protected_resource::ProtectedResource;

/// How long after a first failure it is asked again.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// How many issuers of others are told of.
const MOST_ISSUERS: usize = 8;

/// What is asked of an upstream, and of the issuer that is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The upstream's MCP endpoint.
    pub url: String,
    /// The resource that its metadata must be about.
    pub resource: String,
    /// PEM certificates to trust there, instead of the system's.
    pub ca_pem: Option<String>,
    /// The name to verify there instead of the URL's host.
    pub server_name: Option<String>,
    /// The exact issuer that tokens are asked of.
    pub issuer: String,
    /// PEM certificates to trust at the issuer, instead of the system's.
    pub issuer_ca_pem: Option<String>,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Trust {
    /// The upstream names the issuer.
    Holds {
        /// Where the issuer gives tokens, by its own metadata (RFC 8414).
        token_endpoint: String,
    },
    /// It names others.
    Changed {
        /// Some of them.
        issuers: Vec<String>,
    },
}

/// What is known of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// What was asked.
    pub question: Question,
    /// What came of it, the last time that there was an answer.
    pub trust: Option<Trust>,
    /// Why there is no answer since: a stable word, and in words that are ours.
    pub failure: Option<(String, String)>,
}

impl Known {
    /// What is known before anybody was asked.
    pub fn nothing(question: Question) -> Self {
        Self { question, trust: None, failure: None }
    }

    /// Takes in what came of asking. Whether that is news: the same trouble in other words is none.
    pub fn hear(&mut self, outcome: Result<Trust, (String, String)>) -> bool {
        let reason = |known: &Self| known.failure.as_ref().map(|(reason, _)| reason.clone());
        let before = (self.trust.clone(), reason(self));
        match outcome {
            Ok(trust) => (self.trust, self.failure) = (Some(trust), None),
            Err(failure) => {
                if reason(self).as_ref() != Some(&failure.0) {
                    self.failure = Some(failure);
                }
            }
        }
        before != (self.trust.clone(), reason(self))
    }
}

/// How long to wait before it is asked again: seldom if all is well, and soon after a first failure.
pub fn pause(failures: u32, every: Duration) -> Duration {
    match failures.checked_sub(1) {
        None => every,
        Some(earlier) => FIRST_RETRY.saturating_mul(1 << earlier.min(16)).min(every),
    }
}

/// The issuers that a document names, if the one that is meant is not among them.
pub fn others(document: &ProtectedResource, issuer: &str) -> Option<Vec<String>> {
    let named = &document.authorization_servers;
    let is_named = named.iter().any(|one| one == issuer);
    (!is_named).then(|| named.iter().take(MOST_ISSUERS).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_named_by_its_exact_text_or_not_at_all() {
        let issuers = ["https://a.example", "https://b.example/x"].map(str::to_owned).to_vec();
        let document = ProtectedResource::new("https://up.example/mcp", issuers.clone(), Vec::new()).unwrap();
        for named in &issuers {
            assert_eq!(others(&document, named), None);
        }
        for other in ["https://a.example/", "https://A.example", "https://b.example", "https://b.example/x/y"] {
            assert_eq!(others(&document, other), Some(issuers.clone()), "{other}");
        }
        let many: Vec<String> = (0..50).map(|n| format!("https://{n}.example")).collect();
        let document = ProtectedResource::new("https://up.example/mcp", many, Vec::new()).unwrap();
        assert_eq!(others(&document, "https://a.example").unwrap().len(), MOST_ISSUERS);
    }
    #[test]
    fn silence_changes_nothing_and_is_told_once() {
        let question = Question {
            url: "https://up.example/mcp".into(),
            resource: "https://up.example/mcp".into(),
            ca_pem: None,
            server_name: None,
            issuer: "https://a.example".into(),
            issuer_ca_pem: None,
        };
        let holds = || Trust::Holds { token_endpoint: "https://a.example/token".into() };
        let failed = |reason: &str, words: &str| Err((reason.to_owned(), words.to_owned()));
        let mut known = Known::nothing(question);
        assert!(known.hear(failed("FetchTimeout", "10 s")));
        assert!(!known.hear(failed("FetchTimeout", "11 s")));
        assert!(known.hear(Ok(holds())) && known.failure.is_none());
        assert!(!known.hear(Ok(holds())));
        assert!(known.hear(failed("FetchStatus", "503")));
        assert_eq!(known.trust, Some(holds()), "what it said last");
        assert!(known.hear(Ok(Trust::Changed { issuers: vec!["https://b.example".into()] })));
        let seconds: Vec<u64> = (0..8).map(|n| pause(n, Duration::from_secs(60)).as_secs()).collect();
        assert_eq!(seconds, [60, 2, 4, 8, 16, 32, 60, 60]);
    }
}
