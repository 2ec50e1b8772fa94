//! Sequences of edits and restarts, held against what design 4 says of invalid policies, written down as simply as it
//! can be: the last accepted Deny rules stay, Allow rules stop, what was never accepted denies its namespace (in the
//! system namespace everything), a file that was never read denies every server, and a delete is honoured.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::fleet::Fleet;
use crate::generated::codec::{self, Generated};
use crate::generated::policy::Effect;
use crate::identity::principal::{Groups, Kind, Principal};
use crate::manifests::{Limits, Remembered, Scan, merge, scan};
use crate::policy::evaluate::evaluate;
use crate::policy::index::PrincipalKeys;
use crate::policy::request::{Facts, Request, Target};
use crate::resolve::{Accepted, Observed, PublicUrl, Settings, tree};
use crate::tools::risk::KnownRisk;

const FILES: [&str; 3] = ["a.yaml", "b.yaml", "sub/c.yaml"];
/// Policies, as `namespace/name`.
const POLICIES: [&str; 3] = ["team/p", "team/q", "sys/g"];
const SERVERS: [&str; 2] = ["team", "other"];
const TOOLS: [&str; 3] = ["t0", "t1", "t2"];

/// What a policy says: which tool it allows, which it denies. `sys/g` says it of all namespaces.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rules {
    allows: usize,
    denies: usize,
}

#[derive(Clone, Debug)]
enum Document {
    Valid(Rules),
    /// It can be told which object it is, and it is wrong in itself.
    Invalid,
}

#[derive(Clone, Debug)]
enum Content {
    Documents(Vec<(&'static str, Document)>),
    /// No YAML.
    Garbage,
    /// A document of which it cannot be told which object it is, behind one of which it can.
    Unidentified,
    /// Too large to be read.
    Huge,
}

#[derive(Clone, Debug)]
enum Step {
    Write(&'static str, Content),
    Remove(&'static str),
    Rename(&'static str, &'static str),
    /// The gateway looks at the folder.
    Look,
    /// The gateway is killed, and started again.
    Restart,
}

fn content() -> impl Strategy<Value = Content> {
    let rules = (0..3usize, 0..3usize).prop_map(|(allows, denies)| Rules { allows, denies });
    let document = prop_oneof![3 => rules.prop_map(Document::Valid), 1 => Just(Document::Invalid)];
    prop_oneof![
        8 => vec((select(&POLICIES[..]), document), 0..3).prop_map(Content::Documents),
        2 => Just(Content::Garbage),
        1 => Just(Content::Unidentified),
        1 => Just(Content::Huge),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let file = || select(&FILES[..]);
    let step = prop_oneof![
        6 => (file(), content()).prop_map(|(file, content)| Step::Write(file, content)),
        2 => file().prop_map(Step::Remove),
        1 => (file(), file()).prop_map(|(from, to)| Step::Rename(from, to)),
        5 => Just(Step::Look),
        2 => Just(Step::Restart),
    ];
    vec(step, 1..16)
}

fn text(content: &Content) -> String {
    let document = |(name, document): &(&str, Document)| {
        let (namespace, name) = name.split_once('/').unwrap();
        let reach = if namespace == "sys" { ", namespaceSelector: {}" } else { "" };
        let (rules, more) = match document {
            Document::Valid(rules) => (*rules, ""),
            Document::Invalid => (Rules { allows: 0, denies: 0 }, ", whne: x"),
        };
        format!(
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
             authority: corp\n  targets: {{selector: {{}}{reach}}}\n  rules:\n  - {{name: a, effect: Allow, principals: \
             [{{any: true}}], tools: [{{names: [{}, other]}}]}}\n  - {{name: d, effect: Deny, principals: [{{any: true}}], tools: \
             [{{names: [{}]}}]{more}}}\n---\n",
            TOOLS[rules.allows], TOOLS[rules.denies],
        )
    };
    match content {
        Content::Documents(documents) => documents.iter().map(document).collect(),
        Content::Garbage => "kind: [".to_owned(),
        Content::Unidentified => {
            let sound = document(&("team/p", Document::Valid(Rules { allows: 0, denies: 1 })));
            sound + "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolcy\nmetadata: {name: x}\n"
        }
        Content::Huge => "#".repeat(LIMITS.file_bytes as usize + 1),
    }
}

const LIMITS: Limits = Limits { files: 100, file_bytes: 8 << 10, total_bytes: 1 << 20, depth: 4 };

/// The pipeline as [`super::configuration`] runs it, its state kept as text between restarts.
struct Gateway {
    scan: Option<Scan>,
    remembered: Remembered,
    accepted: Accepted,
    fleet: Fleet,
    served: BTreeSet<String>,
}

impl Gateway {
    fn start(remembered: &str, accepted: &str) -> Self {
        Self {
            scan: None,
            remembered: serde_json::from_str(remembered).unwrap(),
            accepted: serde_json::from_str(accepted).unwrap(),
            fleet: Fleet::default(),
            served: BTreeSet::new(),
        }
    }

    fn restart(&mut self) {
        let remembered = serde_json::to_string(&self.remembered).unwrap();
        *self = Self::start(&remembered, &serde_json::to_string(&self.accepted).unwrap());
    }

    fn look(&mut self, folder: &Path) {
        let found = scan(&[folder.to_owned()], &LIMITS, self.scan.as_ref());
        let merged = merge(&self.remembered, &found);
        let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
        let settings = Settings { public_url: &public_url, system_namespace: "sys", cluster: None };
        let resolution =
            tree(&settings, &merged.objects, &merged.invalid, merged.unreadable, &self.accepted, Observed::default());
        let mut policies = BTreeSet::new();
        for object in resolution.generated {
            match codec::decode(&codec::encode(&object).unwrap()).unwrap() {
                Generated::Server(server) => self.fleet.put_server(server),
                Generated::Authority(authority) => self.fleet.put_authority(authority),
                Generated::Policy(policy) => {
                    policies.insert(policy.id.uid.clone());
                    self.fleet.put_policy(policy).unwrap();
                }
                Generated::Client(_) => panic!("a gateway that stands alone has no clients"),
            }
        }
        self.served.difference(&policies).for_each(|uid| self.fleet.remove_policy(uid));
        (self.served, self.scan) = (policies, Some(found));
        (self.remembered, self.accepted) = (merged.remembered, resolution.accepted);
    }

    fn allows(&self, namespace: &str, tool: &str) -> bool {
        let principal = Principal {
            authority: "corp".into(),
            issuer: "https://corp.example.com".into(),
            tenant: None,
            subject: "ana".into(),
            kind: Kind::User,
            client: None,
            groups: Groups::Known(Box::default()),
            actor: None,
        };
        let keys = PrincipalKeys::of(&principal);
        let target = Target::Tool { name: tool, risk: KnownRisk::default() };
        let request = Request { principal: &principal, keys: &keys, target, arguments: None };
        let served = self.fleet.by_name(namespace, "s").unwrap();
        evaluate(served.layers, &request, &Facts { now: 0 }).effect == Effect::Allow
    }
}

/// What is remembered of all looks so far, and what the last one found.
#[derive(Default)]
struct Model {
    disk: BTreeMap<&'static str, Content>,
    /// The policies that were last read from a file.
    read: BTreeMap<&'static str, Vec<&'static str>>,
    accepted: BTreeMap<&'static str, Rules>,
    /// Policies that exist: what they say, if they are in force, else nothing.
    exist: BTreeMap<&'static str, Option<Rules>>,
    never_read: bool,
}

impl Model {
    fn look(&mut self) {
        let mut claims: BTreeMap<&str, Vec<&Document>> = BTreeMap::new();
        let mut broken: BTreeSet<&str> = BTreeSet::new();
        self.never_read = false;
        self.read.retain(|file, _| self.disk.contains_key(file));
        for (file, content) in &self.disk {
            match (content, self.read.get(file)) {
                (Content::Documents(documents), _) => {
                    self.read.insert(file, documents.iter().map(|(name, _)| *name).collect());
                    documents.iter().for_each(|(name, document)| claims.entry(name).or_default().push(document));
                }
                (_, Some(names)) => broken.extend(names),
                (_, None) => self.never_read = true,
            }
        }
        self.exist.clear();
        for name in POLICIES {
            let in_force = match claims.get(name).map(Vec::as_slice) {
                None if !broken.contains(name) => {
                    // Deleted.
                    self.accepted.remove(name);
                    continue;
                }
                Some([Document::Valid(rules)]) if !broken.contains(name) => Some(*rules),
                _ => None,
            };
            self.accepted.extend(in_force.map(|rules| (name, rules)));
            self.exist.insert(name, in_force);
        }
    }

    fn allows(&self, namespace: &str, tool: &str) -> bool {
        let reaches = |name: &str| name.starts_with("sys/") || name.starts_with(&format!("{namespace}/"));
        let here: Vec<_> = self.exist.iter().filter(|(name, _)| reaches(name)).collect();
        let never_accepted = here.iter().any(|(name, _)| !self.accepted.contains_key(**name));
        let denied = here.iter().any(|(name, _)| self.accepted.get(**name).is_some_and(|r| TOOLS[r.denies] == tool));
        let allowed = here.iter().any(|(_, rules)| rules.is_some_and(|r| TOOLS[r.allows] == tool));
        !self.never_read && !never_accepted && !denied && allowed
    }
}

const BASE: &str = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAuthorizationServer\nmetadata: {name: corp}\nspec: {issuer: \
                    https://corp.example.com}\n";

fn base() -> String {
    let server = |namespace: &&str| {
        format!(
            "---\napiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: s, namespace: {namespace}}}\nspec: \
             {{upstream: {{url: https://vendor.example/mcp, credentials: {{none: {{}}}}}}, authorization: {{servers: \
             [corp]}}}}\n"
        )
    };
    BASE.to_owned() + &SERVERS.iter().map(server).collect::<String>()
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let path = |file: &str| folder.path().join(file);
    fs::create_dir(path("sub")).unwrap();
    fs::write(path("base.yaml"), base()).unwrap();
    let (mut gateway, mut model) = (Gateway::start("{\"files\":{}}", "{\"policies\":{}}"), Model::default());
    gateway.look(folder.path());
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Write(file, content) => {
                fs::write(path(file), text(content)).unwrap();
                model.disk.insert(file, content.clone());
            }
            Step::Remove(file) => {
                if model.disk.remove(file).is_some() {
                    fs::remove_file(path(file)).unwrap();
                }
            }
            Step::Rename(from, to) => {
                if let Some(content) = model.disk.remove(from) {
                    fs::rename(path(from), path(to)).unwrap();
                    model.disk.insert(to, content);
                }
            }
            Step::Look | Step::Restart => {
                if matches!(step, Step::Restart) {
                    gateway.restart();
                }
                gateway.look(folder.path());
                model.look();
                for (namespace, tool) in SERVERS.iter().flat_map(|n| TOOLS.iter().map(move |t| (n, t))) {
                    let (is, should) = (gateway.allows(namespace, tool), model.allows(namespace, tool));
                    prop_assert_eq!(is, should, "{} in {} after step {} of {:#?}", tool, namespace, number, steps);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_is_edited_and_restarted_leaves_in_force_what_the_design_says(steps in steps()) {
        run(&steps)?;
    }
}
