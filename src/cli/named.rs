//! Which McpClient a command is about: `NAMESPACE/NAME`, or `-n NAMESPACE NAME` as `kubectl` has it.
//!
//! Invariant: a namespace is never guessed, and what was given is in every complaint about it.

use std::fmt;

use anyhow::bail;

use crate::api::object::{is_dns_label, is_dns_subdomain};

/// The McpClient that a command is about.
#[derive(clap::Args, Debug)]
pub(super) struct Named {
    /// The McpClient; its name alone, where --namespace is given
    #[arg(value_name = "NAMESPACE/NAME", env = "PORTCULLIS_MCP_CLIENT")]
    client: String,
    /// Its namespace, where that does not stand before its name
    #[arg(short, long, value_name = "NAMESPACE", env = "PORTCULLIS_NAMESPACE")]
    namespace: Option<String>,
}

impl Named {
    /// Namespace and name.
    ///
    /// # Errors
    /// If one of them is missing or cannot be one, or two namespaces are named.
    pub(super) fn parse(&self) -> anyhow::Result<(&str, &str)> {
        let (given, beside) = (self.client.as_str(), self.namespace.as_deref());
        let (namespace, name) = match (given.split_once('/'), beside) {
            (Some((before, _)), Some(beside)) if before != beside => {
                bail!("{given}, and the namespace {beside}: write one of the two only")
            }
            (Some(both), _) => both,
            (None, Some(beside)) => (beside, given),
            (None, None) => bail!("{given} names no namespace: write NAMESPACE/{given}, or -n NAMESPACE {given}"),
        };
        if !is_dns_label(namespace) {
            bail!("{given}: {namespace:?} is no name of a namespace: write NAMESPACE/NAME, or -n NAMESPACE NAME");
        }
        if !is_dns_subdomain(name) {
            bail!("{given}: {name:?} is no name of an McpClient: write NAMESPACE/NAME, or -n NAMESPACE NAME");
        }
        Ok((namespace, name))
    }
}

/// As it was given, in one word.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_ref().filter(|_| !self.client.contains('/')) {
            Some(namespace) => write!(f, "{namespace}/{}", self.client),
            None => f.write_str(&self.client),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        named: Named,
    }

    fn parsed(arguments: &[&str]) -> Result<String, String> {
        let line = Line::try_parse_from([&["clients"], arguments].concat()).unwrap();
        let parsed = line.named.parse().map_err(|error| error.to_string());
        parsed
            .inspect(|(namespace, name)| assert_eq!(line.named.to_string(), format!("{namespace}/{name}")))
            .map(|(namespace, name)| format!("{namespace} {name}"))
    }

    #[test]
    fn a_client_is_named_in_one_word_or_as_kubectl_has_it() {
        for arguments in [
            &["team/ide"][..],
            &["-n", "team", "ide"],
            &["ide", "-n", "team"],
            &["--namespace=team", "ide"],
            &["-n", "team", "team/ide"],
        ] {
            assert_eq!(parsed(arguments).as_deref(), Ok("team ide"), "{arguments:?}");
        }
    }

    #[test]
    fn what_names_none_is_repeated_with_what_to_write() {
        let complaint = |arguments: &[&str]| parsed(arguments).unwrap_err();
        assert_eq!(complaint(&["ide"]), "ide names no namespace: write NAMESPACE/ide, or -n NAMESPACE ide");
        let both = complaint(&["-n", "other", "team/ide"]);
        assert!(both.contains("team/ide") && both.contains("other"), "{both}");
        for arguments in
            [&["team/"][..], &["/ide"], &["team/ide/status"], &["-n", "team", ""], &["te.am/ide"], &["team/../x"]]
        {
            let said = complaint(arguments);
            assert!(said.starts_with(&format!("{}: ", arguments.last().unwrap())), "{said}");
            assert!(said.ends_with("write NAMESPACE/NAME, or -n NAMESPACE NAME"), "{said}");
        }
    }
}
