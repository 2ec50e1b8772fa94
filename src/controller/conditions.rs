//! What is said of an object: conditions, and whether they differ from what it says already.
//!
//! Invariant: a status is written only if something in it changes; the time of a condition moves with its status alone
//! (Kubernetes API conventions, "Typical status properties"); and `Ready` is there from the first sight on, so that
//! nobody takes an object without it for ready (kstatus).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::proxies::Programming;
use crate::resolve::{Finding, Findings, Reason};

macro_rules! words {
    ($list:ident, $about:literal, $($(#[doc = $doc:literal])+ $name:ident: $word:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $word;)+

        #[doc = $about]
        pub const $list: &[(&str, &str)] = &[$(($word, concat!($($doc),+))),+];
    };
}

words! {
    TYPES, "Every type of condition, and what it means.",
    /// The object is not wrong in itself.
    ACCEPTED: "Accepted";
    /// McpClient that is registered: the client that `portcullis clients adopt` names is not taken over, for the reason in the
    /// message. It does not count in `Ready` where there is a client already, and there is no such condition otherwise.
    ADOPTION_REFUSED: "AdoptionRefused";
    /// McpClient that is registered and is for servers: a token that the controller asked for as it, and threw away, is for each
    /// of them. Otherwise the message says for which it is not, and the remedy. It does not count in `Ready`: it is a matter of
    /// how the authorization server is configured, and the gateway refuses what is not for a server.
    AUDIENCE_VERIFIED: "AudienceVerified";
    /// McpClient that is registered: its client secret is about to expire, and could not be replaced yet. There is no such
    /// condition otherwise.
    CREDENTIAL_EXPIRING: "CredentialExpiring";
    /// McpClient that is registered: somebody changed it at the authorization server, and it is not reverted yet. There is no
    /// such condition otherwise.
    CLIENT_DRIFTED: "Drifted";
    /// McpPolicy: at the servers that it reaches, nothing was found that keeps it from doing what it says: no tool that was not
    /// reviewed, no argument that calls may leave out or that is never what it is compared with, no rule that only narrows what
    /// nothing grants. Otherwise the message
    /// lists what was found. It does not count in `Ready`: what is written is enforced. There is no such condition where
    /// nothing is looked at: of a policy that is not accepted, that chooses namespaces, or that reaches no server, or more than
    /// 32 by label.
    EFFECTIVE: "Effective";
    /// McpPolicy, McpAuthorizationServer, McpClient: every proxy that could be serving runs this generation. So a revocation
    /// (`spec.revoked`, a later `validAfter`) is in force everywhere as soon as this says so.
    ENFORCED: "Enforced";
    /// McpServer whose Service is to be reachable from the gateway only: the NetworkPolicy that closes the Pods behind it is
    /// there. Whether the cluster's network plugin enforces it cannot be seen from the API server. There is no such condition
    /// otherwise.
    ISOLATED: "Isolated";
    /// McpClient that is registered: its McpAuthorizationServer names another issuer by now. Nothing is sent there before its
    /// author agrees. There is no such condition otherwise.
    ISSUER_CHANGED: "IssuerChanged";
    /// McpAuthorizationServer: the keys that its tokens are signed with are known.
    KEYS_AVAILABLE: "KeysAvailable";
    /// McpClient that is registered: it is still registered at an issuer of before as well, where it could not be removed yet; the
    /// message says why. It does not count in `Ready`, and there is no such condition otherwise.
    LEFT_BEHIND: "LeftBehind";
    /// McpClient that is registered: clients of it may be left at the authorization server, where nothing of ours can remove
    /// them; the message names them. It does not count in `Ready`, and there is no such condition otherwise.
    ORPHANED: "Orphaned";
    /// McpServer: every proxy that could be serving runs this generation.
    PROGRAMMED: "Programmed";
    /// Sums up the others: what is wrong first, then what is not known yet.
    READY: "Ready";
    /// McpClient that is registered: the authorization server has it as it is wanted, and its Secret holds its credentials.
    REGISTERED: "Registered";
    /// What the object refers to is there and may be used.
    RESOLVED_REFS: "ResolvedRefs";
    /// Only a change by its author brings the object further; there is no such condition otherwise.
    STALLED: "Stalled";
    /// McpServer: the controller could list the upstream's tools as the gateway. It does not count in `Ready`: what the
    /// server lists, or whether it answers just now, is no matter of what was written here.
    TOOLS_LISTED: "ToolsListed";
    /// McpServer with a tool lock: what the upstream lists is what was reviewed. It does not count in `Ready`: the proxies
    /// apply the lock, and what it keeps from callers is kept from them. There is no such condition without a lock.
    TOOLS_REVIEWED: "ToolsReviewed";
    /// McpClient: its Secret holds a token that says what it is granted now.
    TOKEN_ISSUED: "TokenIssued";
    /// McpServer that is called with OAuth tokens: no proxy says that it gets none, or that the upstream wants others; the
    /// message names scopes that are missing, and what the issuer answers. It is Unknown until every proxy runs this generation,
    /// and does not count in `Ready`, which is about what was written here. There is no such condition otherwise.
    UPSTREAM_AUTHORIZED: "UpstreamAuthorized";
}

words! {
    REASONS, "Every reason of a condition that is no finding about the object, and what it means.",
    /// McpClient of the method `Preregistered`, or with a document of its own: its Secret holds what its author gives, and
    /// nobody asked the authorization server whether it knows it. With a client secret and `grantTypes: [client_credentials]`,
    /// it is asked.
    AS_GIVEN: "AsGiven";
    /// A token of a client is for something else than what a server accepts; the message has both, and the remedy.
    AUDIENCE_MISSING: "AudienceMissing";
    /// The server takes no calls because its owner wants that (`spec.state`).
    DISABLED: "Disabled";
    /// McpClient of the method `CIMD`: every proxy serves its document. Whether the authorization server takes it shows when it
    /// is first asked for it.
    DOCUMENT_SERVED: "DocumentServed";
    /// Tools are changed, new or gone since they were reviewed; `status.tools` has all of them.
    DRIFTED: "Drifted";
    /// Keys are being fetched for the first time.
    FETCHING: "Fetching";
    /// The upstream's tools cannot be listed, so nobody knows; see `ToolsListed`.
    INVENTORY_FAILED: "InventoryFailed";
    /// The controller may not read Services, or not write NetworkPolicies, of the namespace; the message has the RoleBinding
    /// that lets it.
    ISOLATION_FORBIDDEN: "IsolationForbidden";
    /// A NetworkPolicy of the name that a server's is to have is somebody else's, and is left alone.
    NETWORK_POLICY_CONFLICT: "NetworkPolicyConflict";
    /// Nobody has looked at it, since the object is not accepted.
    NOT_ACCEPTED: "NotAccepted";
    /// The start that a client's author has set (`spec.validAfter`) lies ahead: a token is made then.
    NOT_YET_VALID: "NotYetValid";
    /// No token can be asked for as the client: a person has to log in first, or its author keeps the keys. The message says how
    /// to see for yourself.
    NO_PROBE: "NoProbe";
    /// No proxy runs in the gateway namespace that could enforce it.
    NO_PROXIES: "NoProxies";
    /// It is being written, or not every proxy has said yet that it runs this generation.
    PENDING: "Pending";
    /// A proxy could not load what was generated, and denies what it governs: a proxy older than the controller, perhaps.
    PROXY_REFUSED: "ProxyRefused";
    /// A proxy is not heard of, and could still be serving an earlier generation: until its Pod is gone, or until it denies
    /// everything for want of news.
    PROXY_SILENT: "ProxySilent";
    /// A client that persons log in with is for a server whose resource its authorization server does not know, and the controller
    /// could not change that; the message says why.
    RESOURCE_UNKNOWN: "ResourceUnknown";
    /// A Secret of the name that a client's token is to have is somebody else's, and is left alone.
    SECRET_CONFLICT: "SecretConflict";
    /// The controller may not write Secrets of the namespace; the message has the RoleBinding that lets it.
    SECRET_FORBIDDEN: "SecretForbidden";
    /// There is no Service of the name that the server gives, so nobody knows which Pods to close.
    SERVICE_NOT_FOUND: "ServiceNotFound";
    /// The Service has no TCP port of the number that the server gives, so nobody knows which to leave open.
    SERVICE_PORT_NOT_FOUND: "ServicePortNotFound";
    /// The Service selects no Pods (`ExternalName`, or endpoints made by hand), and a NetworkPolicy closes Pods only.
    SERVICE_WITHOUT_SELECTOR: "ServiceWithoutSelector";
    /// The Secret of an issuer's signing key holds none, and no new one is made: that would end every token without a word.
    SIGNING_KEY_DAMAGED: "SigningKeyDamaged";
    /// A token of a client is no JWT, so nobody but its issuer knows what it is for, and the gateway takes none like it.
    TOKEN_OPAQUE: "TokenOpaque";
    /// The authorization server gives a client no token for a server; the message has its word for it, and the remedy.
    TOKEN_REFUSED: "TokenRefused";
    /// A token was asked for as a client, and what came is none and no refusal either; the message says what.
    TOKEN_UNANSWERED: "TokenUnanswered";
    /// An issuer has more clients than proxies can be told of; the youngest are left out.
    TOO_MANY_CLIENTS: "TooManyClients";
    /// A proxy gets no token for the upstream, or the upstream wants another; the message has the proxy's word for it.
    UPSTREAM_TOKEN_WANTED: "UpstreamTokenWanted";
}

/// The longest message of a condition, in bytes.
const LONGEST_MESSAGE: usize = 4096;
/// How many findings a message lists.
const MOST_FINDINGS: usize = 10;

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl Truth {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        }
    }
}

/// One condition to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its type.
    pub type_: &'static str,
    /// Its status.
    pub truth: Truth,
    /// A stable word.
    pub reason: String,
    /// For people: what is wrong, where, and how to mend it.
    pub message: String,
}

impl Said {
    /// A condition.
    pub fn new(type_: &'static str, truth: Truth, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { type_, truth, reason: reason.into(), message: message.into() }
    }
}

/// What is said of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Of which generation.
    pub generation: i64,
    /// The conditions; none is said twice.
    pub conditions: Vec<Said>,
    /// Further members of the status.
    pub members: Map<String, Value>,
}

impl Statement {
    /// A statement of these conditions, summed up in `Ready`: the first that does not hold says why.
    pub fn new(generation: i64, mut conditions: Vec<Said>) -> Self {
        let stalled = conditions.iter().find(|said| said.type_ == ACCEPTED && said.truth == Truth::False).cloned();
        let worst = |truth| conditions.iter().find(move |said| said.truth == truth);
        let ready = match worst(Truth::False).or(worst(Truth::Unknown)) {
            Some(why) => Said { type_: READY, ..why.clone() },
            None => Said::new(READY, Truth::True, READY, ""),
        };
        conditions.push(ready);
        conditions.extend(stalled.map(|why| Said { type_: STALLED, truth: Truth::True, ..why }));
        for said in &mut conditions {
            said.message = shortened(&said.message);
        }
        Self { generation, conditions, members: Map::new() }
    }

    /// Says a condition that does not count in `Ready`.
    pub fn beside(&mut self, mut said: Said) {
        said.message = shortened(&said.message);
        self.conditions.push(said);
    }

    /// Says a member besides the conditions.
    #[must_use]
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.tell(name, value.into());
        self
    }

    /// The same, of a statement that is made already.
    pub fn tell(&mut self, name: &str, value: Value) {
        self.members.insert(name.to_owned(), value);
    }

    /// The condition of this type.
    pub fn said(&self, type_: &str) -> Option<&Said> {
        self.conditions.iter().find(|said| said.type_ == type_)
    }

    /// The status to be written over `before`; `None` if it says that already.
    pub fn status(&self, before: &Value, now: Timestamp) -> Option<Value> {
        let earlier = conditions(before);
        let mut same = before.get("observedGeneration").and_then(Value::as_i64) == Some(self.generation);
        let known = |type_: &str| earlier.iter().find(|condition| condition.type_ == type_);
        let mut written = Vec::with_capacity(self.conditions.len());
        for said in &self.conditions {
            let before = known(said.type_).filter(|before| before.status == said.truth.as_str());
            same &= before.is_some_and(|before| {
                before.reason == said.reason
                    && before.message == said.message
                    && before.observed_generation == Some(self.generation)
            });
            written.push(Condition {
                type_: said.type_.to_owned(),
                status: said.truth.as_str().to_owned(),
                reason: said.reason.clone(),
                message: said.message.clone(),
                observed_generation: Some(self.generation),
                last_transition_time: before.map_or(Time(now), |before| before.last_transition_time.clone()),
            });
        }
        // What is said of it no more.
        same &= TYPES.iter().all(|(type_, _)| self.said(type_).is_some() || known(type_).is_none());
        let is_said =
            |name: &str| ["observedGeneration", "conditions"].contains(&name) || self.members.contains_key(name);
        same &= before.as_object().is_none_or(|before| before.keys().all(|name| is_said(name)));
        same &= self.members.iter().all(|(name, value)| before.get(name) == Some(value));
        if same {
            return None;
        }
        let mut status = self.members.clone();
        status.insert("observedGeneration".to_owned(), self.generation.into());
        status.insert("conditions".to_owned(), json!(written));
        Some(Value::Object(status))
    }
}

/// The conditions that a status holds, as far as they can be read.
pub fn conditions(status: &Value) -> Vec<Condition> {
    let list = status.get("conditions").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|one| serde_json::from_value(one.clone()).ok()).collect()
}

/// A condition as a status says it.
pub fn said_again(type_: &'static str, condition: &Condition) -> Option<Said> {
    let truths = [Truth::True, Truth::False, Truth::Unknown];
    let truth = truths.into_iter().find(|truth| truth.as_str() == condition.status)?;
    Some(Said::new(type_, truth, condition.reason.clone(), condition.message.clone()))
}

/// What a status says in a condition about an object of this generation.
pub fn said_of(status: &Value, generation: i64, type_: &'static str) -> Option<Said> {
    let known = conditions(status).into_iter().find(|condition| condition.type_ == type_)?;
    said_again(type_, &known).filter(|_| known.observed_generation == Some(generation))
}

/// `Accepted`, of an object with these findings. `meanwhile` says what is enforced of one that is not.
pub fn accepted(errors: &[Finding], warnings: &[Finding], meanwhile: &str) -> Said {
    let closing: Vec<&Finding> = warnings.iter().filter(|finding| closes(finding.reason)).collect();
    if let Some(first) = errors.first().or(closing.first().copied()) {
        let all = if errors.is_empty() { closing } else { errors.iter().collect() };
        let mut message = listed(&all);
        if !meanwhile.is_empty() {
            message = format!("{message}\nMeanwhile: {meanwhile}");
        }
        return Said::new(ACCEPTED, Truth::False, first.reason.as_str(), message);
    }
    let notes: Vec<&Finding> = warnings.iter().filter(|finding| !is_reference(finding.reason)).collect();
    Said::new(ACCEPTED, Truth::True, ACCEPTED, listed(&notes))
}

/// `ResolvedRefs`, of an object with these warnings.
pub fn resolved_refs(accepted: bool, warnings: &[Finding]) -> Said {
    let unresolved: Vec<&Finding> = warnings.iter().filter(|finding| is_reference(finding.reason)).collect();
    match unresolved.first() {
        Some(first) => Said::new(RESOLVED_REFS, Truth::False, first.reason.as_str(), listed(&unresolved)),
        None if accepted => Said::new(RESOLVED_REFS, Truth::True, RESOLVED_REFS, ""),
        None => Said::new(RESOLVED_REFS, Truth::Unknown, NOT_ACCEPTED, "references are looked at once it is accepted"),
    }
}

/// `Effective`, of a policy with these findings about what it comes to where it reaches.
pub fn effective(findings: &[Finding]) -> Said {
    match findings.first() {
        Some(first) => {
            Said::new(EFFECTIVE, Truth::False, first.reason.as_str(), listed(&findings.iter().collect::<Vec<_>>()))
        }
        None => Said::new(EFFECTIVE, Truth::True, EFFECTIVE, ""),
    }
}

/// `Programmed` or `Enforced`, by what proxies make of what was written.
pub fn programming(type_: &'static str, programming: Option<Programming>) -> Said {
    match programming {
        None => Said::new(type_, Truth::Unknown, PENDING, "it is being written for the proxies"),
        Some(Programming::NoProxies) => {
            let message = "no proxy runs in the gateway namespace that could enforce it";
            Said::new(type_, Truth::Unknown, NO_PROXIES, message)
        }
        Some(Programming::Waiting) => {
            Said::new(type_, Truth::False, PENDING, "not every proxy has said yet that it runs this generation")
        }
        Some(Programming::Everywhere(_)) => Said::new(type_, Truth::True, type_, "every proxy runs this generation"),
        Some(Programming::Silent(who)) => {
            let message = format!(
                "not heard of, and perhaps still serving an earlier generation: {who}. It counts until its Pod is gone, \
                 or until it denies everything for want of news"
            );
            Said::new(type_, Truth::False, PROXY_SILENT, message)
        }
        Some(Programming::Refused { proxy, reason }) => {
            let reason: String = reason.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
            let message = format!("{proxy} could not load it ({reason}) and denies what it governs");
            Said::new(type_, Truth::False, PROXY_REFUSED, message)
        }
    }
}

/// Whether a condition that does not hold will, by itself, if all is well.
pub fn is_under_way(reason: &str) -> bool {
    [PENDING, FETCHING, NO_PROXIES].contains(&reason)
}

/// Whether a server with such a warning is not accepted, though nothing in it is wrong by itself.
fn closes(reason: Reason) -> bool {
    matches!(reason, Reason::PathConflict | Reason::ServerTooLarge)
}

/// Whether a warning is about something that the object refers to.
fn is_reference(reason: Reason) -> bool {
    let advice = [
        Reason::ApprovalsUnavailable,
        Reason::PlaintextUpstream,
        Reason::ScopesNotCarried,
        Reason::AuthorityNotTrusted,
        Reason::RedirectUriLocalhost,
        Reason::RuleShadowed,
        Reason::UpstreamTrustUnconfirmed,
    ];
    !closes(reason) && !advice.contains(&reason)
}

fn listed(findings: &[&Finding]) -> String {
    let mut lines: Vec<String> = findings.iter().take(MOST_FINDINGS).map(ToString::to_string).collect();
    if let Some(more) = findings.len().checked_sub(MOST_FINDINGS).filter(|more| *more > 0) {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

/// Findings in which every Secret that may not be read comes with the RoleBinding that would allow it.
#[must_use]
pub fn with_role_binding(findings: Findings, namespace: &str, service_account: (&str, &str)) -> Findings {
    let binding = role_binding("portcullis-secret-reader", namespace, service_account);
    let told = |finding: Finding| match finding.reason {
        Reason::SecretForbidden => finding.remedy(binding.clone()),
        _ => finding,
    };
    findings.into_iter().map(told).collect()
}

/// The RoleBinding that gives the controller a role in a namespace.
pub fn role_binding(role: &str, namespace: &str, (account_namespace, account): (&str, &str)) -> String {
    format!(
        "whoever owns the namespace applies:\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
         metadata: {{name: {role}, namespace: {namespace}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}\n\
         subjects: [{{kind: ServiceAccount, name: {account}, namespace: {account_namespace}}}]"
    )
}

fn shortened(text: &str) -> String {
    let mut end = LONGEST_MESSAGE.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FieldPath;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn programmed(truth: Truth) -> Statement {
        let said = Said::new(PROGRAMMED, truth, "Word", "why");
        Statement::new(3, vec![accepted(&[], &[], ""), said]).member("resource", "https://x")
    }

    #[test]
    fn nothing_is_written_twice_and_times_move_with_the_status_alone() {
        let first = programmed(Truth::Unknown).status(&Value::Null, at(1)).unwrap();
        assert_eq!(first["observedGeneration"], 3);
        assert_eq!(first["conditions"][2]["type"], READY);
        assert_eq!(first["conditions"][2]["status"], "Unknown");
        assert_eq!(programmed(Truth::Unknown).status(&first, at(2)), None);

        let second = programmed(Truth::True).status(&first, at(9)).unwrap();
        assert_eq!(second["conditions"][0]["lastTransitionTime"], first["conditions"][0]["lastTransitionTime"]);
        assert_eq!(second["conditions"][1]["lastTransitionTime"], json!(Time(at(9))));
        assert_eq!(second["conditions"][2]["status"], "True");
        for (name, spoiled) in [("observedGeneration", json!(2)), ("resource", json!("https://y"))] {
            let mut other = second.clone();
            other[name] = spoiled;
            assert_eq!(programmed(Truth::True).status(&other, at(10)), Some(second.clone()), "{name}");
        }
        let mut foreign = second.clone();
        foreign["conditions"].as_array_mut().unwrap().push(json!({
            "type": "Theirs", "status": "True", "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"
        }));
        assert_eq!(programmed(Truth::True).status(&foreign, at(10)), None, "another's condition is not ours to mend");
    }

    #[test]
    fn what_is_not_accepted_stalls_and_says_what_applies_meanwhile() {
        let finding = Finding::new(Reason::ConditionInvalid, FieldPath::of("spec.rules"), "does not compile");
        let errors = [finding];
        let said = accepted(&errors, &[], "every call to team is denied.");
        assert!(said.message.starts_with("spec.rules: does not compile (ConditionInvalid)"), "{}", said.message);
        assert!(said.message.ends_with("Meanwhile: every call to team is denied."));
        let refused = Statement::new(1, vec![said, resolved_refs(false, &[])]);
        let words = |type_| refused.said(type_).map(|said| (said.truth, said.reason.clone()));
        assert_eq!(words(READY), Some((Truth::False, "ConditionInvalid".into())));
        assert_eq!(words(STALLED), Some((Truth::True, "ConditionInvalid".into())));
        assert_eq!(words(RESOLVED_REFS), Some((Truth::Unknown, "NotAccepted".into())));

        let before = refused.status(&Value::Null, at(1)).unwrap();
        let mended = Statement::new(1, vec![accepted(&[], &[], ""), resolved_refs(true, &[])]);
        let after = mended.status(&before, at(2)).unwrap();
        assert!(!after.to_string().contains(STALLED));
        assert_eq!(mended.said(READY).unwrap().truth, Truth::True);
    }

    #[test]
    fn advice_is_no_unresolved_reference_and_a_forbidden_secret_comes_with_its_role_binding() {
        let shadowed = Finding::new(Reason::RuleShadowed, FieldPath::of("spec.rules"), "changes nothing");
        assert_eq!(resolved_refs(true, std::slice::from_ref(&shadowed)).truth, Truth::True);
        assert!(accepted(&[], &[shadowed], "").message.contains("RuleShadowed"));
        let plain = Finding::new(Reason::PlaintextUpstream, FieldPath::root(), "unencrypted");
        let secret = Finding::new(Reason::SecretForbidden, FieldPath::root(), "may not be read");
        let findings = with_role_binding(vec![plain, secret], "team", ("system", "controller"));
        assert!(accepted(&[], &findings, "").message.contains("PlaintextUpstream"));
        let said = resolved_refs(true, &findings);
        assert_eq!((said.truth, said.reason.as_str()), (Truth::False, "SecretForbidden"));
        assert!(
            said.message.contains("namespace: team}") && said.message.contains("name: controller, namespace: system")
        );
        assert!(!said.message.contains("PlaintextUpstream"));
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let said = Said::new(ACCEPTED, Truth::True, "X", "\u{e9}".repeat(LONGEST_MESSAGE));
        let statement = Statement::new(1, vec![said]);
        assert_eq!(statement.conditions[0].message.len(), LONGEST_MESSAGE);
    }
}
