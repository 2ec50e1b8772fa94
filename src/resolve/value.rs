//! Values that several kinds write: lengths of time, times, selectors, scopes, certificates.

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{Finding, Findings, Lookup, Reason};
use crate::{
    api::{
        FieldPath,
        metadata::{NOT_A_KEY, NOT_A_VALUE, is_label_key, is_label_value},
        v1alpha1::{CaRef, LabelOperator, LabelSelector},
    },
    generated::policy::{Operator, Requirement, Selector},
};

/// Seconds of a length of time such as `90s`, `1h30m`; `None` if it is not one, or beyond ten years.
pub(super) fn seconds(text: &str) -> Option<u32> {
    const MOST: u64 = 10 * 366 * 86_400;
    let mut total = 0u64;
    let mut digits = 0u64;
    let mut pending = false;
    for byte in text.bytes() {
        let unit = match byte {
            b'0'..=b'9' => {
                digits = digits.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
                pending = true;
                continue;
            }
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        if !pending {
            return None;
        }
        total = total.checked_add(digits.checked_mul(unit)?)?;
        digits = 0;
        pending = false;
    }
    (!pending && !text.is_empty() && total <= MOST).then(|| u32::try_from(total).ok()).flatten()
}

/// A length of time, or a finding.
pub(super) fn duration(text: &str, field: &FieldPath, findings: &mut Findings) -> Option<u32> {
    let parsed = seconds(text);
    if parsed.is_none() {
        findings.push(Finding::new(Reason::DurationInvalid, field.clone(), "not a length of time"));
    }
    parsed
}

/// Unix seconds of an RFC 3339 time, or a finding. Fractions of a second are cut off.
pub(super) fn time(text: &str, field: &FieldPath, findings: &mut Findings) -> Option<i64> {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Some(time.as_second()),
        Err(_) => {
            findings.push(Finding::new(Reason::TimeInvalid, field.clone(), "not a time with its offset from UTC"));
            None
        }
    }
}

/// A label selector, or findings.
pub(super) fn selector(spec: &LabelSelector, field: &FieldPath, findings: &mut Findings) -> Selector {
    for (key, value) in &spec.match_labels {
        label(key, std::slice::from_ref(value), &field.field("matchLabels").field(key), findings);
    }
    let mut requirements = Vec::with_capacity(spec.match_expressions.len());
    for (i, requirement) in spec.match_expressions.iter().enumerate() {
        let (operator, needs_values) = match requirement.operator {
            LabelOperator::In => (Operator::In, true),
            LabelOperator::NotIn => (Operator::NotIn, true),
            LabelOperator::Exists => (Operator::Exists, false),
            LabelOperator::DoesNotExist => (Operator::DoesNotExist, false),
        };
        if needs_values == requirement.values.is_empty() {
            let at = field.field("matchExpressions").index(i).field("values");
            let message = if needs_values { "the operator needs values" } else { "the operator has no values" };
            findings.push(Finding::new(Reason::SelectorInvalid, at, message));
        }
        label(&requirement.key, &requirement.values, &field.field("matchExpressions").index(i), findings);
        requirements.push(Requirement { key: requirement.key.clone(), operator, values: requirement.values.clone() });
    }
    Selector { match_labels: spec.match_labels.clone(), match_expressions: requirements }
}

/// A selector that asks for what no label can be never matches, which its author cannot mean.
fn label(key: &str, values: &[String], field: &FieldPath, findings: &mut Findings) {
    let key = (!is_label_key(key)).then_some(NOT_A_KEY);
    let value = values.iter().any(|value| !is_label_value(value)).then_some(NOT_A_VALUE);
    for problem in key.into_iter().chain(value) {
        let finding = Finding::new(Reason::SelectorInvalid, field.clone(), problem);
        findings.push(finding.remedy("write the label as the objects carry it"));
    }
}

/// Whether `text` is a scope token (RFC 6749 section 3.3).
pub(super) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// Scopes that may be asked for: `offline_access` is between the client and the authorization server (MCP
/// authorization, "Refresh Tokens").
pub(super) fn scopes(list: &[String], field: &FieldPath, findings: &mut Findings) -> Vec<String> {
    for (i, scope) in list.iter().enumerate() {
        if !is_scope(scope) {
            findings.push(Finding::new(Reason::ScopeInvalid, field.index(i), "not a scope token"));
        } else if scope == "offline_access" {
            let finding =
                Finding::new(Reason::ScopeInvalid, field.index(i), "offline_access is not a server's to ask for");
            findings.push(finding.remedy("remove it: clients ask for it themselves"));
        }
    }
    list.to_vec()
}

/// Audiences, as they may be written.
pub(super) fn audiences(list: &[String], field: &FieldPath, findings: &mut Findings) {
    for (i, audience) in list.iter().enumerate() {
        if audience.is_empty() || audience.chars().any(|c| c.is_control() || c.is_whitespace()) {
            findings.push(Finding::new(Reason::AudienceInvalid, field.index(i), "an audience holds no blanks"));
        }
    }
}

/// The PEM certificates that a reference points at; a warning if there are none.
pub(super) fn ca(
    reference: &CaRef,
    namespace: &str,
    field: &FieldPath,
    lookup: &Lookup<'_>,
) -> Result<String, Box<Finding>> {
    let finding = |reason, message: String| Box::new(Finding::new(reason, field.clone(), message));
    let pem = lookup
        .config_maps
        .get(&(namespace, reference.config_map_name.as_str()))
        .and_then(|map| map.data.get(&reference.key))
        .ok_or_else(|| {
            let message = format!("no ConfigMap {namespace}/{} with key {}", reference.config_map_name, reference.key);
            finding(Reason::ConfigMapNotFound, message)
        })?;
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).peekable();
    if certificates.peek().is_none() || certificates.any(|c| c.is_err()) {
        return Err(finding(Reason::CaInvalid, format!("key {} holds no readable certificates", reference.key)));
    }
    Ok(pem.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, want) in [
            ("30s", Some(30)),
            ("1h30m", Some(5400)),
            ("0s", Some(0)),
            ("24h", Some(86_400)),
            ("", None),
            ("30", None),
            ("s", None),
            ("-1s", None),
            ("1.5h", None),
            ("1d", None),
            ("99999999999999999999h", None),
            ("999999999h", None),
        ] {
            assert_eq!(seconds(text), want, "{text}");
        }
    }

    #[test]
    fn times_need_an_offset() {
        let mut findings = Vec::new();
        assert_eq!(time("1970-01-01T00:01:00.9Z", &FieldPath::root(), &mut findings), Some(60));
        assert_eq!(time("1970-01-01T01:01:00+01:00", &FieldPath::root(), &mut findings), Some(60));
        assert!(findings.is_empty());
        assert_eq!(time("2026-01-01T00:00:00", &FieldPath::root(), &mut findings), None);
        assert_eq!(time("tomorrow", &FieldPath::root(), &mut findings), None);
        assert_eq!(findings.len(), 2);
    }

    #[test]
    fn scope_tokens() {
        assert!(is_scope("mcp:use") && is_scope("https://x/y.read"));
        assert!(!is_scope("") && !is_scope("a b") && !is_scope("a\"b") && !is_scope("a\\b") && !is_scope("\u{e9}"));
    }
}
