//! Manifests that are written for people to go on with: from a scan, and for a quickstart.
//!
//! Invariant: what an upstream or a user chose stands in them quoted, or in comments on one line, so that no name can
//! become another field.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use url::Url;

use super::output;
use super::scan::{FromEnv, Scan};
use crate::generated::Risk;

/// A Kubernetes name made from a URL's host.
///
/// # Errors
/// If the URL has no host.
pub fn name_of(url: &str) -> anyhow::Result<String> {
    let parsed = Url::parse(url)?;
    let host = parsed.host_str().context("the URL has no host")?;
    let name: String =
        host.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(50).collect();
    let name = name.trim_matches('-');
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic());
    Ok(if starts_well { name.to_owned() } else { format!("server-{name}").trim_end_matches('-').to_owned() })
}

/// Reads a name that a Kubernetes object and a URL's path may have (RFC 1123 label).
pub fn label(text: &str) -> Result<String, String> {
    let is_label = (1..=63).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    let expected = "write at most 63 small letters, digits and hyphens, such as my-server";
    is_label.then(|| text.to_owned()).ok_or_else(|| expected.to_owned())
}

/// The McpServer of a scanned server, which shows it `headers`. `authority` names an McpAuthorizationServer.
pub fn server(namespace: &str, name: &str, authority: &str, scan: &Scan, headers: &[FromEnv]) -> String {
    let mut credentials =
        String::from("      # The caller's token is never passed on. What the upstream needs is said here.\n");
    if headers.is_empty() {
        credentials += "      none: {}\n";
    } else {
        credentials += "      headers:\n";
        for FromEnv { header, .. } in headers {
            credentials += &format!(
                "      - name: {}\n        secretKeyRef: {{name: {}, key: {}}}\n",
                quoted(header),
                secret_name(name),
                quoted(&secret_key(header))
            );
        }
    }
    format!(
        "apiVersion: portcullis.dev/v1alpha1\n\
         kind: McpServer\n\
         metadata:\n  name: {name}\n  namespace: {namespace}\n\
         spec:\n  upstream:\n    url: {url}\n    credentials:\n{credentials}  \
         authorization:\n    # Whose tokens are accepted: names of McpAuthorizationServers.\n    servers: [{authority}]\n",
        url = quoted(&scan.url),
    )
}

/// The Secret that [`server`] refers to, with `(header, value)` entries; it may be sent to the host of `url` only.
///
/// # Errors
/// If `url` is none.
pub fn secret(namespace: &str, server: &str, url: &str, entries: &[(&str, &str)]) -> anyhow::Result<String> {
    let url = Url::parse(url)?;
    let host = url.host_str().context("the URL has no host")?;
    // A host alone is meant for https on its own port.
    let port = url.port().or_else(|| (url.scheme() != "https").then(|| url.port_or_known_default()).flatten());
    let host = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let entries: String = entries
        .iter()
        .map(|(header, value)| format!("  {}: {}\n", quoted(&secret_key(header)), quoted(value)))
        .collect();
    Ok(format!(
        "apiVersion: v1\n\
         kind: Secret\n\
         metadata:\n  name: {name}\n  namespace: {namespace}\n  annotations:\n    \
         # Its values are sent nowhere else, whoever refers to them.\n    portcullis.dev/allowed-hosts: {host}\n\
         stringData:\n{entries}",
        name = secret_name(server),
        host = quoted(&host),
    ))
}

fn secret_name(server: &str) -> String {
    format!("{server}-credentials")
}

fn secret_key(header: &str) -> String {
    header.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// A policy that has a rule for each class and grants nothing yet.
pub fn closed_policy(namespace: &str, name: &str, scan: &Scan) -> String {
    let rules = [Risk::ReadOnly, Risk::Write, Risk::Destructive].map(|class| {
        rule(&format!("nobody-yet-{}", class.as_str().to_lowercase()), "users: [nobody-yet]", class, scan)
    });
    format!(
        "# What no rule allows is denied. This one grants nothing: no such person exists. Replace the principals of the\n\
         # rules with your own, class by class.\n\
         apiVersion: portcullis.dev/v1alpha1\n\
         kind: McpPolicy\n\
         metadata:\n  name: {name}\n  namespace: {namespace}\n\
         spec:\n  authority: local\n  targets:\n    servers: [{name}]\n  rules:\n{}{}",
        unclassified(scan),
        rules.concat()
    )
}

/// A comment on tools that no rule by class grants.
pub fn unclassified(scan: &Scan) -> String {
    match named(scan, None) {
        tools if tools.is_empty() => tools,
        tools => format!("  # In no class, so that no rule by class grants them: {tools}\n"),
    }
}

/// An Allow for the tools of one class, by class, with the tools that are in it as a comment.
pub fn rule(name: &str, principal: &str, class: Risk, scan: &Scan) -> String {
    let tools = named(scan, Some(class));
    let comment = if tools.is_empty() { "none today".to_owned() } else { tools };
    format!(
        "  - name: {name}\n    effect: Allow\n    principals:\n    - {principal}\n    tools:\n    # {comment}\n    \
         - risk: [{}]\n",
        class.as_str()
    )
}

/// Tools of a class, for a comment: an upstream's words, so on one line and printable.
fn named(scan: &Scan, class: Option<Risk>) -> String {
    let names: Vec<&str> = scan.tools.iter().filter(|tool| tool.risk == class).map(|tool| tool.name.as_str()).collect();
    let text: String = output::printable(&names.join(", ")).replace(['\n', '\u{2028}', '\u{2029}'], " ");
    if text.chars().count() > 100 { text.chars().take(99).chain(['…']).collect() } else { text }
}

/// A YAML string that is a string whatever it holds: JSON strings are YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// Writes a file of manifests. `mode` is for a new file; one that is there keeps its own.
///
/// # Errors
/// If it cannot be written.
pub fn write(folder: &Path, name: &str, text: &str, mode: u32) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path)?;
        file.write_all(text.as_bytes())
    };
    written().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_whatever_the_host() {
        for (url, name) in [
            ("https://mcp.Vendor.example/mcp", "mcp-vendor-example"),
            ("http://127.0.0.1:9/mcp", "server-127-0-0-1"),
            ("http://[::1]:9/mcp", "server-1"),
            (&format!("https://{}.{}/", "a".repeat(49), "b".repeat(60)), &"a".repeat(49)),
        ] {
            assert_eq!(name_of(url).unwrap(), name);
            assert_eq!(label(name).as_deref(), Ok(name));
        }
        for bad in ["", "Bad Name", "../x", "-x", "x-", "a_b", &"x".repeat(64)] {
            assert!(label(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tool_that_is_named_like_yaml_stays_in_its_comment() {
        let tool = |name: &str| super::super::scan::Found {
            name: name.to_owned(),
            risk: Some(Risk::Write),
            why: Vec::new(),
            digest: None,
        };
        let scan = Scan {
            url: "https://x.example/mcp\n\"x".to_owned(),
            server: None,
            revision: String::new(),
            tools: vec![tool("a\n  - name: all\n    effect: Allow"), tool("b\u{2028}c\u{85}d")],
            unreadable: 0,
            definitions: Vec::new(),
        };
        let policy = closed_policy("default", "x", &scan);
        assert_eq!(
            policy.matches("effect: Allow").count() - policy.matches("# a   - name: all     effect: Allow").count(),
            3
        );
        assert!(policy.lines().all(|line| !line.contains(['\u{2028}', '\u{85}'])), "{policy}");
        assert!(server("default", "x", "local", &scan, &[]).contains("url: \"https://x.example/mcp\\n\\\"x\"\n"));
    }
}
