//! What the API server is answered.
//!
//! Invariant: an answer is never larger than what the API server passes on, and says so where something was left out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::{GROUP, Key};
use crate::resolve::Finding;

/// What the API server passes on of all warnings together (k8s.io/apiserver, `endpoints/handlers`), with room to spare.
const MOST_WARNINGS: usize = 3500;
/// What it passes on of one.
const LONGEST_WARNING: usize = 250;
/// The most bytes of a message.
const LONGEST_MESSAGE: usize = 8 * 1024;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    uid: String,
    refusal: Option<Refusal>,
    warnings: Vec<String>,
    annotations: BTreeMap<&'static str, String>,
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of which object: people apply many at once.
    pub of: Key,
    /// `Invalid`: the object is wrong in itself. `Forbidden`: it is beyond its author's rights.
    pub reason: &'static str,
    /// All of it in words.
    pub message: String,
    /// One by one, as `reason`, `field` and `message`.
    pub causes: Vec<[String; 3]>,
}

impl Refusal {
    /// Of what is wrong in an object itself.
    pub fn invalid(of: Key, findings: &[Finding]) -> Self {
        let cause = |finding: &Finding| {
            // Of an invalid object kubectl shows the causes alone, and of them field and message: the word is there too.
            let word = finding.reason.as_str();
            let message = format!("{} ({word}); {}", finding.message, finding.remedy);
            [word.to_owned(), finding.field.to_string(), message]
        };
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        Self { of, reason: "Invalid", message: lines.join("\n"), causes: findings.iter().map(cause).collect() }
    }

    /// Of what is beyond the author's rights.
    pub fn forbidden(of: Key, message: String) -> Self {
        Self { of, reason: "Forbidden", message, causes: Vec::new() }
    }

    fn code(&self) -> u16 {
        if self.reason == "Forbidden" { 403 } else { 422 }
    }
}

impl Response {
    /// Yes, perhaps with warnings.
    pub fn admit(uid: &str, warnings: Vec<String>) -> Self {
        Self { uid: uid.to_owned(), refusal: None, warnings, annotations: BTreeMap::new() }
    }

    /// No.
    pub fn refuse(uid: &str, refusal: Refusal) -> Self {
        Self { uid: uid.to_owned(), refusal: Some(refusal), warnings: Vec::new(), annotations: BTreeMap::new() }
    }

    /// The same, with further warnings.
    #[must_use]
    pub fn warned(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// The same, with something for the cluster's audit log.
    #[must_use]
    pub fn annotated(mut self, name: &'static str, text: String) -> Self {
        self.annotations.insert(name, text);
        self
    }

    /// The review's UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Why it is refused, if it is.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// What the author is told of what is admitted.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A word for metrics: `Admitted`, `Warned`, `Invalid` or `Forbidden`.
    pub fn outcome(&self) -> &'static str {
        match (&self.refusal, self.warnings.is_empty()) {
            (Some(refusal), _) => refusal.reason,
            (None, true) => "Admitted",
            (None, false) => "Warned",
        }
    }

    /// The JSON text of the AdmissionReview that is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut response = json!({"uid": self.uid, "allowed": self.refusal.is_none()});
        let mut set = |name: &str, value: Value| {
            if let Some(members) = response.as_object_mut() {
                members.insert(name.to_owned(), value);
            }
        };
        if let Some(refusal) = &self.refusal {
            let causes = refusal.causes.iter().map(|[reason, field, message]| {
                json!({"reason": reason, "field": field, "message": cut(message, LONGEST_MESSAGE)})
            });
            set(
                "status",
                json!({
                    "status": "Failure",
                    "code": refusal.code(),
                    "reason": refusal.reason,
                    "message": cut(&refusal.message, LONGEST_MESSAGE),
                    // kubectl takes kind and name from here.
                    "details": {
                        "group": GROUP,
                        "kind": refusal.of.kind.as_str(),
                        "name": refusal.of.name,
                        "causes": causes.take(64).collect::<Vec<_>>(),
                    },
                }),
            );
        }
        if !self.warnings.is_empty() {
            set("warnings", bounded(&self.warnings).into());
        }
        if !self.annotations.is_empty() {
            set("auditAnnotations", json!(self.annotations));
        }
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        review.to_string().into_bytes()
    }
}

/// As many warnings as are passed on, and how many were left out.
fn bounded(warnings: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut length = 0;
    for warning in warnings {
        let warning = cut(warning, LONGEST_WARNING);
        length += warning.len();
        if length > MOST_WARNINGS {
            break;
        }
        kept.push(warning);
    }
    let left_out = warnings.len() - kept.len();
    if left_out > 0 {
        kept.push(format!("{left_out} more warnings are left out here"));
    }
    kept
}

/// The beginning of a text, whole characters, at most `longest` bytes.
fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut end = longest.saturating_sub(3);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", text.get(..end).unwrap_or_default())
}
