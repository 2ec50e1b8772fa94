//! What the status of a server says of its tools. Pure.
//!
//! Invariant: what was not asked yet, or cannot be, changes nothing of what is said already about the object as it is: a
//! controller that begins to lead writes only what it finds otherwise, and drift is not mended by silence. None of it
//! counts in `Ready`, which is about whether proxies enforce what was written, and they do so whatever a server lists.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::Value;

use crate::controller::conditions::{
    self, DRIFTED, INVENTORY_FAILED, PENDING, Said, TOOLS_LISTED, TOOLS_REVIEWED, Truth,
};
use crate::generated::server::{Credentials, State};
use crate::generated::{Digest, Server};
use crate::tools::digest::sha256;
use crate::upstream::DiscoverError;

/// The member of the status.
pub const TOOLS: &str = "tools";

/// What an inventory is taken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    /// Of where the upstream is, as whom it is asked, and what its tools are held against.
    pub digest: Digest,
    /// Whether there is a tool lock.
    pub locked: bool,
}

impl Basis {
    /// Of a server; `None`: it takes no calls, and is not asked.
    pub fn of(server: &Server) -> Option<Self> {
        if server.state != State::Enabled {
            return None;
        }
        let upstream = &server.upstream;
        // A token is renewed many times a day, for the same somebody.
        let credentials = match &upstream.credentials {
            Credentials::ServiceAccount { .. } => Value::from("ServiceAccount"),
            // One that is called for callers alone lists its tools to them.
            Credentials::Oauth(oauth) if oauth.grant.callers_of().is_some() => return None,
            Credentials::Oauth(oauth) => Value::from(vec![&*oauth.issuer, &oauth.client_id, &oauth.scopes.join(" ")]),
            other => serde_json::to_value(other).unwrap_or_default(),
        };
        let whole = serde_json::to_vec(&(&upstream.url, &upstream.tls, credentials, &server.risk, &server.lock));
        Some(Self { digest: sha256(&whole.unwrap_or_default()), locked: server.lock.is_some() })
    }
}

/// What is known of a server's tools, on the same [`Basis`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// What was listed last.
    pub listed: Option<Listed>,
    /// Why there is no list since.
    pub failure: Option<Failed>,
}

/// What was listed.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// For the status.
    pub tools: Arc<Value>,
    /// What is not as it was reviewed, in words.
    pub drift: Option<String>,
}

/// Why nothing was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// A stable word.
    pub reason: &'static str,
    /// In words that are ours.
    pub message: String,
}

impl From<&DiscoverError> for Failed {
    fn from(error: &DiscoverError) -> Self {
        let message = match error {
            // Whatever a server says in its own words may be anything, a key that it was shown included.
            DiscoverError::Refused { method, code, .. } => format!("the server refused {method} with error {code}"),
            other => other.to_string(),
        };
        Self { reason: error.reason(), message }
    }
}

/// What is said of a server's tools: the member of the status, and conditions. `before` is its status, `generation` its own.
pub fn told(basis: Basis, heard: &Heard, before: &Value, generation: i64) -> (Option<Value>, Vec<Said>) {
    let earlier = Earlier::of(before, generation);
    let listed = heard.listed.as_ref();
    let tools = listed.map(|listed| (*listed.tools).clone()).or_else(|| earlier.tools.cloned());
    let mut said: Vec<Said> = is_listed(heard, &earlier).into_iter().collect();
    said.extend(basis.locked.then(|| is_reviewed(heard, &earlier)));
    (tools, said)
}

/// What the status says about the object as it is.
struct Earlier<'a> {
    tools: Option<&'a Value>,
    conditions: Vec<Condition>,
}

impl<'a> Earlier<'a> {
    fn of(status: &'a Value, generation: i64) -> Self {
        let told = status.get("observedGeneration").and_then(Value::as_i64) == Some(generation);
        Self {
            tools: status.get(TOOLS).filter(|_| told),
            conditions: if told { conditions::conditions(status) } else { Vec::new() },
        }
    }

    fn said(&self, type_: &'static str) -> Option<Said> {
        let one = self.conditions.iter().find(|condition| condition.type_ == type_)?;
        conditions::said_again(type_, one)
    }
}

fn is_listed(heard: &Heard, earlier: &Earlier<'_>) -> Option<Said> {
    let before = earlier.said(TOOLS_LISTED);
    match (&heard.failure, &heard.listed) {
        (Some(failed), _) => {
            let said = Said::new(TOOLS_LISTED, Truth::False, failed.reason, failed.message.clone());
            // The same trouble in other words, such as another of its addresses, is no news.
            Some(before.filter(|before| before.truth == Truth::False && before.reason == failed.reason).unwrap_or(said))
        }
        (None, Some(_)) => Some(Said::new(TOOLS_LISTED, Truth::True, TOOLS_LISTED, "")),
        (None, None) => before,
    }
}

fn is_reviewed(heard: &Heard, earlier: &Earlier<'_>) -> Said {
    match (&heard.listed, &heard.failure) {
        (Some(Listed { drift: Some(drift), .. }), _) => {
            let remedy = "read what changed, in the ConfigMaps labelled portcullis.dev/inventory of the gateway's namespace \
                          or with portcullis scan --lock, and commit the lock anew to accept it";
            Said::new(TOOLS_REVIEWED, Truth::False, DRIFTED, format!("{drift}: {remedy}"))
        }
        (Some(_), None) => Said::new(TOOLS_REVIEWED, Truth::True, TOOLS_REVIEWED, ""),
        (_, Some(_)) => {
            let message = format!("what the server lists is not known, see {TOOLS_LISTED}");
            let unknown = Said::new(TOOLS_REVIEWED, Truth::Unknown, INVENTORY_FAILED, message);
            earlier.said(TOOLS_REVIEWED).filter(|before| before.truth == Truth::False).unwrap_or(unknown)
        }
        (None, None) => earlier.said(TOOLS_REVIEWED).unwrap_or_else(|| {
            Said::new(TOOLS_REVIEWED, Truth::Unknown, PENDING, "the server was not asked for its tools yet")
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::conditions::Statement;
    use crate::fleet::tests::server;
    use crate::generated::Labels;
    use crate::generated::server::{Lock, OnChange};
    use crate::sensitive::Sensitive;

    const LOCKED: Basis = Basis { digest: Digest([0; 32]), locked: true };

    fn listed(drift: Option<&str>) -> Heard {
        let listed = Listed { tools: Arc::new(json!({"count": 1})), drift: drift.map(str::to_owned) };
        Heard { listed: Some(listed), failure: None }
    }

    fn failing(heard: Heard, message: &str) -> Heard {
        Heard { failure: Some(Failed { reason: "UpstreamConnect", message: message.into() }), ..heard }
    }

    /// The status after this was said over `before`, and what it says in short.
    fn after(heard: &Heard, before: &Value, generation: i64) -> (Value, Vec<String>) {
        let (tools, said) = told(LOCKED, heard, before, generation);
        let words = said.iter().map(|one| format!("{}={} {}", one.type_, one.truth.as_str(), one.reason)).collect();
        let mut statement = Statement::new(generation, Vec::new());
        said.into_iter().for_each(|one| statement.beside(one));
        let statement = tools.into_iter().fold(statement, |statement, tools| statement.member(TOOLS, tools));
        let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        (statement.status(before, now).unwrap_or_else(|| before.clone()), words)
    }

    #[test]
    fn what_is_not_known_changes_nothing_that_is_said() {
        let (none, words) = after(&Heard::default(), &Value::Null, 1);
        assert_eq!(words, ["ToolsReviewed=Unknown Pending"]);
        let (good, words) = after(&listed(None), &none, 1);
        assert_eq!(words, ["ToolsListed=True ToolsListed", "ToolsReviewed=True ToolsReviewed"]);
        assert_eq!(good["tools"]["count"], 1);
        // Another controller, or this one once more.
        assert_eq!(after(&Heard::default(), &good, 1).0, good);
        assert_eq!(after(&listed(None), &good, 1).0, good);
        // Of another generation nothing is known.
        let (edited, words) = after(&Heard::default(), &good, 2);
        assert_eq!(
            (words.as_slice(), &edited["tools"]),
            (["ToolsReviewed=Unknown Pending".into()].as_slice(), &Value::Null)
        );
    }

    #[test]
    fn silence_mends_no_drift_and_vouches_for_nothing() {
        let (good, _) = after(&listed(None), &Value::Null, 1);
        let (lost, words) = after(&failing(listed(None), "10.0.0.1 refused"), &good, 1);
        assert_eq!(words, ["ToolsListed=False UpstreamConnect", "ToolsReviewed=Unknown InventoryFailed"]);
        assert_eq!(lost["tools"]["count"], 1, "what was listed last");
        assert_eq!(after(&failing(Heard::default(), "10.0.0.2 refused"), &lost, 1).0, lost, "no news");

        let (bad, words) = after(&listed(Some("1 not as they were reviewed")), &good, 1);
        assert_eq!(words[1], "ToolsReviewed=False Drifted");
        let (_, words) = after(&failing(Heard::default(), "refused"), &bad, 1);
        assert_eq!(words[1], "ToolsReviewed=False Drifted");
        assert_eq!(after(&listed(None), &bad, 1).1[1], "ToolsReviewed=True ToolsReviewed");
    }

    #[test]
    fn an_inventory_is_taken_anew_for_what_it_depends_on_alone() {
        let plain = server("team", "s", Labels::new(), None);
        let basis = Basis::of(&plain).unwrap();
        assert!(!basis.locked);
        let mut other = plain.clone();
        other.scopes.baseline.push("s".into());
        other.id.generation += 1;
        assert_eq!(Basis::of(&other), Some(basis));
        other.upstream.url.push('x');
        assert_ne!(Basis::of(&other), Some(basis));
        let with = |text: &str| {
            let mut server = plain.clone();
            server.upstream.credentials = Credentials::ServiceAccount { token: Sensitive::new(text) };
            Basis::of(&server)
        };
        assert!(with("a") == with("b") && with("a") != Some(basis));
        let lock = Some(Lock { on_change: OnChange::Warn, tools: Default::default() });
        let locked = Basis::of(&Server { lock, ..plain.clone() }).unwrap();
        assert!(locked.locked && locked.digest != basis.digest);
        assert_eq!(Basis::of(&Server { state: State::Disabled, ..plain }), None);
    }

    #[test]
    fn a_servers_own_words_are_in_no_status() {
        let refused = DiscoverError::Refused { method: "tools/list", code: -32000, message: "key hunter2".into() };
        let failed = Failed::from(&refused);
        assert_eq!(
            (failed.reason, failed.message.as_str()),
            ("UpstreamRefused", "the server refused tools/list with error -32000")
        );
    }
}
