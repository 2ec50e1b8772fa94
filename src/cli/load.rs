//! A folder of manifests as the gateway would serve it, for questions that are answered offline.
//!
//! Invariant: the same functions read, resolve, encode and join as in the gateway, so an answer here is the gateway's.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use serde::Serialize;

use crate::access::targets::Inventories;
use crate::api::Key;
use crate::api::schema::nearest;
use crate::fleet::{Fleet, Served};
use crate::generated::Server;
use crate::generated::codec::{self, Generated};
use crate::generated::server::State;
use crate::manifests::{self, Limits, Remembered};
use crate::resolve::{
    self, Accepted, Cluster, ObjectFinding, Observed, PublicUrl, Reason, RegisteredAs, Resolution, Settings, Severity,
};
use crate::roles::quickstart::KEPT;

/// What a folder or a cluster comes to.
#[derive(Default)]
pub struct Loaded {
    /// Everything that would be served.
    pub fleet: Fleet,
    /// What is refused: the answers are then about what stays in force.
    pub refused: Vec<Refused>,
    /// The tools that servers are known to have. Manifests do not say.
    pub inventories: Inventories,
    /// As whom McpClients are registered. Nor do they say that.
    pub registered: BTreeMap<Key, RegisteredAs>,
}

/// An object, or a file, that is wrong in itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Kind and name of the object, or the file.
    pub object: String,
    /// The finding's stable word.
    pub reason: &'static str,
    /// Where in the object.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// Loads manifests as if nothing had been there before.
///
/// # Errors
/// If a path does not exist.
pub fn load(paths: &[PathBuf], public_url: &PublicUrl, system_namespace: &str) -> anyhow::Result<Loaded> {
    load_with(paths, public_url, system_namespace, &BTreeMap::new(), |_| {})
}

/// Loads manifests to compare them with others. Secrets and ConfigMaps are not kept in Git as a rule, and whether a server
/// has what it needs of them is nothing that a change of policy changes: they are presumed to be there. `registered`: as whom
/// McpClients are, if a cluster was asked.
///
/// # Errors
/// As [`load`].
pub fn for_comparison(
    paths: &[PathBuf],
    system_namespace: &str,
    registered: &BTreeMap<Key, RegisteredAs>,
) -> anyhow::Result<Loaded> {
    load_with(paths, &any_url()?, system_namespace, registered, |server| {
        if lacks_reference(server) {
            server.state = State::Enabled;
        }
    })
}

fn load_with(
    paths: &[PathBuf],
    public_url: &PublicUrl,
    system_namespace: &str,
    registered: &BTreeMap<Key, RegisteredAs>,
    presume: impl Fn(&mut Server),
) -> anyhow::Result<Loaded> {
    check(paths)?;
    let scan = manifests::scan(paths, &Limits::default(), None);
    let merged = manifests::merge(&Remembered::default(), &scan);
    // What is meant for a cluster is answered as in one.
    let cluster = Cluster::presumed();
    let settings = Settings { public_url, system_namespace, cluster: Some(&cluster) };
    let mut resolution = resolve::tree(
        &settings,
        &merged.objects,
        &merged.invalid,
        merged.unreadable,
        &Accepted::default(),
        Observed { registered: Some(registered), ..Observed::default() },
    );
    for object in &mut resolution.generated {
        if let Generated::Server(server) = object {
            presume(server);
        }
    }
    let mut loaded = joined(resolution)?;
    loaded.refused.extend(merged.problems.iter().map(|problem| Refused {
        object: problem.file.to_string(),
        reason: Reason::FileUnreadable.as_str(),
        field: problem.position.map(|at| at.to_string()).unwrap_or_default(),
        message: problem.message.clone(),
    }));
    Ok(loaded)
}

/// Whether a server is not served for want of a Secret or a ConfigMap.
pub fn lacks_reference(server: &Server) -> bool {
    let references = [Reason::SecretNotFound, Reason::ConfigMapNotFound].map(Reason::as_str);
    matches!(&server.state, State::Unserved { reason, .. } if references.contains(&reason.as_str()))
}

/// Who can do what does not depend on the host under which it is done.
///
/// # Errors
/// Never.
pub fn any_url() -> anyhow::Result<PublicUrl> {
    Ok(PublicUrl::parse("https://mcp.invalid")?)
}

/// Joins what was resolved as the gateway does.
///
/// # Errors
/// If an object cannot be encoded.
pub fn joined(resolution: Resolution) -> anyhow::Result<Loaded> {
    let errors = resolution.findings.iter().filter(|found| found.finding.severity == Severity::Error);
    let refused = |found: &ObjectFinding| Refused {
        object: found.key.to_string(),
        reason: found.finding.reason.as_str(),
        field: found.finding.field.to_string(),
        message: found.finding.message.clone(),
    };
    let refused = errors.map(refused).collect();
    let mut fleet = Fleet::default();
    for object in resolution.generated {
        match codec::decode(&codec::encode(&object)?)? {
            Generated::Server(server) => fleet.put_server(server),
            Generated::Authority(authority) => fleet.put_authority(authority),
            // What cannot be compiled denies, in the fleet as in the gateway.
            Generated::Policy(policy) => drop(fleet.put_policy(policy)),
            // Nobody's rights are in it.
            Generated::Client(_) => {}
        }
    }
    Ok(Loaded { fleet, refused, ..Loaded::default() })
}

/// Whether these can be files and folders of manifests.
///
/// # Errors
/// If one is not there, or is the folder of a quickstart, which holds the gateway's state too.
pub fn check(paths: &[PathBuf]) -> anyhow::Result<()> {
    for path in paths {
        match path.metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("there is no {}: name a folder or a file of manifests", path.display())
            }
            found => found.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let manifests = path.join("manifests");
        if path.join(KEPT).is_file() && manifests.is_dir() {
            bail!("{} is the folder of a quickstart: its manifests are in {}", path.display(), manifests.display());
        }
    }
    Ok(())
}

/// Loads manifests and says on standard error if some of them are refused.
///
/// # Errors
/// As [`load`].
pub fn for_questions(paths: &[PathBuf], system_namespace: &str) -> anyhow::Result<Loaded> {
    let loaded = load(paths, &any_url()?, system_namespace)?;
    if !loaded.refused.is_empty() {
        let errors = super::output::counted(loaded.refused.len(), "error");
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let paths = paths.join(" ");
        eprintln!(
            "warning: {errors} in the manifests (see portcullis validate {paths}); the answer is that of a gateway which \
             never accepted what is invalid"
        );
    }
    Ok(loaded)
}

/// The server with this `namespace/name`.
///
/// # Errors
/// If there is none; says which ones there are.
pub fn server<'a>(fleet: &'a Fleet, name: &str) -> anyhow::Result<Served<'a>> {
    let found = name.split_once('/').and_then(|(namespace, name)| fleet.by_name(namespace, name));
    match found {
        Some(served) => Ok(served),
        None => {
            let known = fleet.servers().map(|served| served.server.id.display_name());
            let form = if name.contains('/') { "" } else { " (write NAMESPACE/NAME)" };
            bail!("{}", missing(&format!("McpServer {name}{form}"), name, known.collect()))
        }
    }
}

/// Says that `what` is not there, and what its `name` may have been meant to be.
pub fn missing(what: &str, name: &str, mut known: Vec<String>) -> String {
    known.sort_unstable();
    known.dedup();
    // `notes` may be meant to be `default/notes`.
    let bare = known.iter().find(|known| known.rsplit_once('/').is_some_and(|(_, bare)| bare == name));
    let meant = bare.map(String::as_str).or_else(|| nearest(name, known.iter().map(String::as_str)));
    let hint = match (meant, known.as_slice()) {
        (Some(meant), _) => format!("did you mean {meant}?"),
        (None, []) => "there is none at all; is this the right place to look?".to_owned(),
        (None, [..]) if known.len() > 10 => format!("there are {}, such as {}", known.len(), known[..10].join(", ")),
        (None, [..]) => format!("there are: {}", known.join(", ")),
    };
    format!("there is no {what}: {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_answered_with_what_may_be_meant() {
        let known = || vec!["default/notes".to_owned(), "payments/ledger".to_owned()];
        for (name, hint) in [
            ("default/nots", "did you mean default/notes?"),
            ("ledger", "did you mean payments/ledger?"),
            ("x/y", "there are: default/notes, payments/ledger"),
        ] {
            let said = missing(&format!("McpServer {name}"), name, known());
            assert_eq!(said, format!("there is no McpServer {name}: {hint}"));
        }
        assert!(missing("McpServer x", "x", Vec::new()).ends_with("is this the right place to look?"));
        let many = (0..30).map(|n| format!("a/s{n}")).collect();
        assert!(missing("McpServer zzzzzz/zzzz", "zzzzzz/zzzz", many).contains("there are 30, such as a/s0,"));
    }
}
