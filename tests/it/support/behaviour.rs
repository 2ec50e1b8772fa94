//! The behaviour table, `tests/behaviour/*.yaml`: [`cases`] and the [`world`] in which they are judged, and [`edits`] with their
//! [`authors`]. Its README says what the members mean.

use std::path::{Path, PathBuf};

use portcullis::generated::Risk;
use portcullis::identity::principal::{Actor, Groups, Kind, Principal};
use serde::Deserialize;
use serde_json::{Value, json};

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    rules: Option<Value>,
    apply: Option<Value>,
    #[serde(default)]
    pub(crate) given: Vec<Value>,
    pub(crate) before: Option<Value>,
    pub(crate) expect: Expect,
    pub(crate) reason: Option<String>,
    pub(crate) field: Option<String>,
    #[serde(default)]
    pub(crate) also: Vec<String>,
    #[serde(default)]
    pub(crate) calls: Vec<Call>,
}

/// A case of an author's rights, or of old against new.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit {
    pub(crate) name: String,
    #[serde(rename = "as")]
    pub(crate) author: String,
    rules: Option<Value>,
    apply: Option<Value>,
    #[serde(default)]
    pub(crate) given: Vec<Value>,
    before: Option<Value>,
    pub(crate) expect: Expect,
    pub(crate) reason: Option<String>,
    pub(crate) field: Option<String>,
    #[serde(default)]
    pub(crate) also: Vec<String>,
    /// Where the author would need the verb `grant`.
    #[serde(default)]
    pub(crate) needs: Vec<String>,
    /// The ValidatingAdmissionPolicy that refuses it.
    pub(crate) policy: Option<String>,
    /// What it does, line by line.
    #[serde(default)]
    pub(crate) changes: Vec<String>,
    /// The lines in the audit log, if these say more.
    pub(crate) audited: Option<Vec<String>>,
    /// Whether its author is told.
    #[serde(default = "yes")]
    pub(crate) told: bool,
}

/// What is said of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Expect {
    Accept,
    Warn,
    Reject,
}

/// A call and its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    #[serde(rename = "as")]
    caller: Caller,
    #[serde(default = "notes")]
    pub(crate) to: String,
    pub(crate) tool: String,
    pub(crate) risk: Option<Risk>,
    pub(crate) arguments: Option<Value>,
    #[serde(default = "some_day")]
    at: String,
    pub(crate) answer: Answer,
    pub(crate) listed: Option<Listed>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Answer {
    #[serde(rename = "allowed")]
    Allowed,
    #[serde(rename = "refused")]
    Refused,
    #[serde(rename = "unknown tool")]
    UnknownTool,
    #[serde(rename = "approval")]
    Approval,
    #[serde(rename = "not served")]
    NotServed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Listed {
    Yes,
    No,
    Depends,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Caller {
    user: Option<String>,
    client: Option<String>,
    service_account: Option<String>,
    #[serde(default = "corp")]
    authority: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    groups_unknown: bool,
    via: Option<String>,
    actor: Option<String>,
}

fn notes() -> String {
    "team/notes".to_owned()
}

fn corp() -> String {
    "corp".to_owned()
}

fn yes() -> bool {
    true
}

fn some_day() -> String {
    "2026-06-01T12:00:00Z".to_owned()
}

/// The McpPolicy `team/p` with these rules.
fn policy(rules: &Value) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": {"name": "p", "namespace": "team"},
        "spec": {"authority": "corp", "targets": {"servers": ["notes"]}, "rules": rules}
    })
}

/// What is found of an object: the words, sorted.
fn sorted<'a>(reason: Option<&'a String>, also: &'a [String]) -> Vec<&'a str> {
    let mut words: Vec<&str> = reason.into_iter().chain(also).map(String::as_str).collect();
    words.sort_unstable();
    words
}

impl Edit {
    /// The object as it is stored, whoever let it in.
    pub(crate) fn before(&self) -> Option<Value> {
        self.before.as_ref().map(|before| if before.is_array() { policy(before) } else { before.clone() })
    }

    /// The object as its author wants it; `None`: gone.
    pub(crate) fn after(&self) -> Option<Value> {
        match (&self.rules, &self.apply, &self.before) {
            (Some(rules), None, _) => Some(policy(rules)),
            (None, Some(object), _) => Some(object.clone()),
            (None, None, Some(_)) => None,
            _ => panic!("{}: a case has rules, or apply, or before alone", self.name),
        }
    }

    /// The words of everything that is found, sorted.
    pub(crate) fn words(&self) -> Vec<&str> {
        sorted(self.reason.as_ref(), &self.also)
    }
}

impl Case {
    /// The object that is judged.
    pub(crate) fn object(&self) -> Value {
        match (&self.rules, &self.apply) {
            (Some(rules), None) => policy(rules),
            (None, Some(object)) => object.clone(),
            _ => panic!("{}: a case has either rules or apply", self.name),
        }
    }

    /// As `Kind namespace/name`, or `Kind name`.
    pub(crate) fn called(&self) -> String {
        let object = self.object();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().map(|namespace| format!("{namespace}/"));
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        format!("{kind} {}{name}", namespace.unwrap_or_default())
    }

    /// The words of everything that is found, sorted.
    pub(crate) fn words(&self) -> Vec<&str> {
        sorted(self.reason.as_ref(), &self.also)
    }
}

impl Call {
    pub(crate) fn principal(&self) -> Principal {
        let caller = &self.caller;
        let (kind, subject) = match (&caller.user, &caller.client, &caller.service_account) {
            (Some(user), None, None) => (Kind::User, user.clone()),
            (None, Some(client), None) => (Kind::Client, client.clone()),
            (None, None, Some(account)) => {
                (Kind::ServiceAccount, format!("system:serviceaccount:{}", account.replace('/', ":")))
            }
            _ => panic!("a caller is a user, a client or a serviceAccount: {caller:?}"),
        };
        let groups = caller.groups.iter().map(|group| group.as_str().into()).collect();
        Principal {
            authority: caller.authority.as_str().into(),
            issuer: format!("https://{}", caller.authority).into(),
            tenant: None,
            subject: subject.into(),
            kind,
            client: caller.via.as_deref().or(caller.client.as_deref()).map(Box::from),
            groups: if caller.groups_unknown { Groups::Unknown } else { Groups::Known(groups) },
            actor: caller.actor.as_deref().map(|actor| Actor { subject: actor.into(), issuer: None }),
        }
    }

    /// In Unix seconds.
    pub(crate) fn time(&self) -> i64 {
        self.at.parse::<jiff::Timestamp>().unwrap().as_second()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviour")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is there in every case.
pub(crate) fn world() -> Vec<Value> {
    read(&folder().join("world.yaml"))
}

/// What those may do who write in [`edits`]: Kubernetes' own roles and bindings.
pub(crate) fn authors() -> Vec<Value> {
    read(&folder().join("authors.yaml"))
}

/// The cases of authors' rights, and of old against new.
const EDITS: &str = "8-rights-and-changes.yaml";

/// All of them, in the order of their lines.
pub(crate) fn edits() -> Vec<Edit> {
    read(&folder().join(EDITS))
}

/// Every other case, in the order of files and lines.
pub(crate) fn cases() -> Vec<Case> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let is_cases = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name != EDITS && name.ends_with(".yaml") && name.starts_with(|first: char| first.is_ascii_digit())
    };
    let mut files: Vec<PathBuf> = files.filter(is_cases).collect();
    files.sort();
    files.iter().flat_map(|path| read(path)).collect()
}
