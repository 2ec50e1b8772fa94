//! A report of `validate` as a SARIF log, for code scanning:
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>.
//!
//! Invariant: a log names every reason that there is, and every result is one of them, at a line of a file; files below the
//! working directory are named relative to it, as repositories name theirs.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};
use url::Url;

use super::validate::{Line, Report};
use crate::resolve::{Reason, Severity};

/// The whole log. `here` is the working directory.
pub(super) fn log(report: &Report, here: &Path) -> Value {
    let rules: Vec<Value> = Reason::ALL.iter().map(|reason| rule(*reason)).collect();
    let results: Vec<Value> = report.findings.iter().map(|line| result(line, here)).collect();
    let note = |text: &String| json!({"level": "note", "message": {"text": text}});
    let notes: Vec<Value> = report.notes.iter().map(note).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "portcullis", "version": env!("CARGO_PKG_VERSION"), "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules
            }},
            // Columns are counted in characters (section 3.14.17).
            "columnKind": "unicodeCodePoints",
            "invocations": [{"executionSuccessful": true, "toolExecutionNotifications": notes}],
            "results": results
        }]
    })
}

fn rule(reason: Reason) -> Value {
    let words = reason.doc().split_whitespace().collect::<Vec<_>>().join(" ");
    json!({
        "id": reason.as_str(),
        "shortDescription": {"text": words},
        "help": {"text": format!("{words} Remedy: {}.", reason.remedy())},
        "defaultConfiguration": {"level": level(reason.severity().as_str())}
    })
}

fn level(severity: &str) -> &'static str {
    if severity == Severity::Error.as_str() { "error" } else { "warning" }
}

fn result(line: &Line, here: &Path) -> Value {
    let field = if line.field.is_empty() { String::new() } else { format!("{}: ", line.field) };
    let within = line.object.iter().map(|object| format!("{object} {}", line.field));
    let within: Vec<Value> = within.map(|name| json!({"fullyQualifiedName": name.trim_end()})).collect();
    json!({
        "ruleId": line.reason,
        "ruleIndex": Reason::ALL.iter().position(|reason| reason.as_str() == line.reason),
        "level": level(line.severity),
        "message": {"text": format!("{field}{}; {}", line.message, line.remedy)},
        "locations": [{
            "physicalLocation": {
                "artifactLocation": {"uri": uri(&line.file, here)},
                // What cannot be read has no line; who shows results wants one.
                "region": {"startLine": line.line.unwrap_or(1), "startColumn": line.column.unwrap_or(1)}
            },
            "logicalLocations": within
        }]
    })
}

/// A file below `here` as a relative reference, another as a `file` URI (RFC 3986; section 3.4.3).
fn uri(file: &str, here: &Path) -> String {
    let mut path = PathBuf::new();
    for component in here.join(file).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    match (Url::from_file_path(&path), Url::from_directory_path(here)) {
        (Ok(url), Ok(base)) if url.path().starts_with(base.path()) => {
            url.path().strip_prefix(base.path()).unwrap_or_default().to_owned()
        }
        (Ok(url), _) => url.into(),
        _ => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_as_a_repository_names_them() {
        let here = Path::new("/work/tree");
        for (file, want) in [
            ("policies/p.yaml", "policies/p.yaml"),
            ("./policies/../p.yaml", "p.yaml"),
            ("/work/tree/a b/caf\u{e9}#1.yaml", "a%20b/caf%C3%A9%231.yaml"),
            ("../other/p.yaml", "file:///work/other/p.yaml"),
            ("/work/tree2/p.yaml", "file:///work/tree2/p.yaml"),
            ("work/tree/p.yaml", "work/tree/p.yaml"),
        ] {
            assert_eq!(uri(file, here), want, "{file}");
        }
    }
}
