//! Tool names and the patterns that match them.

use super::{Finding, Findings, Reason};
use crate::{api::FieldPath, policy::pattern::is_safe_name};

/// The longest pattern that the evaluator takes, in bytes; the schema counts characters.
const MAX_BYTES: usize = 512;

/// Checks patterns of whole tool names: `*` stands for any characters, all else for itself. Characters that are special
/// in other pattern languages are refused, since they would not mean what their author expects.
pub(super) fn patterns(list: &[String], field: &FieldPath, findings: &mut Findings) -> Vec<String> {
    for (i, pattern) in list.iter().enumerate() {
        let problem = if pattern.is_empty() {
            "the pattern is empty"
        } else if pattern.len() > MAX_BYTES {
            "a pattern has at most 512 bytes"
        } else if pattern.chars().any(char::is_control) {
            "the pattern holds a control character"
        } else if pattern.contains(['?', '[', ']', '{', '}', '\\']) {
            "the characters ? [ ] { } \\ are reserved in patterns"
        } else if pattern.bytes().filter(|b| *b == b'*').count() > 8 {
            "a pattern has at most 8 stars"
        } else {
            continue;
        };
        findings.push(Finding::new(Reason::PatternInvalid, field.index(i), problem));
    }
    list.to_vec()
}

/// Checks that patterns of an Allow can match: a star there stands only for names that every implementation reads alike
/// (design 3.5).
pub(super) fn granting(list: &[String], field: &FieldPath, findings: &mut Findings) {
    for (i, pattern) in list.iter().enumerate() {
        let literal: String = pattern.chars().filter(|c| *c != '*').collect();
        // What is wrong in any rule is said once.
        let dead = pattern.contains('*') && !literal.is_empty() && !is_safe_name(&literal);
        if dead && !findings.iter().any(|finding| finding.field == field.index(i)) {
            let problem =
                "no name that an Allow's pattern matches is like this: they have 1 to 128 letters, digits, _, . and -";
            findings.push(
                Finding::new(Reason::PatternInvalid, field.index(i), problem).remedy("give the exact name in names"),
            );
        }
    }
}

/// Checks exact tool names.
pub(super) fn names(list: &[String], field: &FieldPath, findings: &mut Findings) -> Vec<String> {
    for (i, name) in list.iter().enumerate() {
        let (problem, remedy) = if name.is_empty() || name.chars().any(char::is_control) {
            ("not a tool name", "write the name as the server lists it")
        } else if name.contains('*') {
            ("names are exact: * stands for itself here", "move it to patterns")
        } else {
            continue;
        };
        findings.push(Finding::new(Reason::PatternInvalid, field.index(i), problem).remedy(remedy));
    }
    list.to_vec()
}
