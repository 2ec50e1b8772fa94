//! What policies come to where they reach, as it is kept up while everything changes: what a look at all of it finds.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::api::Object;
use crate::controller::apply::Applied;
use crate::controller::policy;
use crate::controller::queue::{Agenda, Outcome};
use crate::controller::server::{self, Reviewed};
use crate::resolve::{self, Accepted, Findings, Lookup, Observed, Reason, Resolution};
use crate::tools::digest::sha256;
use crate::tools::lock;

const REASONS: [Reason; 5] = [
    Reason::ApprovalUnreachable,
    Reason::ArgumentNotRequired,
    Reason::ArgumentType,
    Reason::NothingAllowed,
    Reason::ToolNotFound,
];

/// The text of a lock of these tools.
fn lock_of(tools: &[&str]) -> String {
    let found = lock::lockable(tools.iter().copied());
    let reviewed =
        found.values().map(|(tool, digest)| lock::Reviewed { tool: tool.clone(), digest: *digest, risk: None });
    lock::write(reviewed).unwrap().text
}

/// Locks by the number that a server names.
fn locks() -> [String; 2] {
    let read = r#"{"name":"read","inputSchema":{"type":"object","properties":{"n":{}}}}"#;
    let write = r#"{"name":"write","inputSchema":{"type":"object","required":["n"],"properties":{"n":{}}}}"#;
    let typed = r#"{"name":"read","inputSchema":{"type":"object","properties":{"n":{"type":"string"}}}}"#;
    [lock_of(&[typed]), lock_of(&[read, write])]
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Server { namespace: &'static str, name: String, label: &'static str, lock: Option<usize>, valid: bool },
    Policy { namespace: &'static str, name: String, spec: Value },
    Gone { kind: api::Kind, namespace: &'static str, name: &'static str },
    Namespace { name: &'static str, label: &'static str },
}

const NAMESPACES: [&str; 3] = ["blue", "red", "sys"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const LABELS: [&str; 2] = ["x", "y"];

fn specs() -> impl Strategy<Value = Value> {
    let effect = select(&["Allow", "Deny", "RequireApproval"][..]);
    let when = select(&[None, Some("args.n == 1"), Some("has(args.n)")][..]);
    let rule = (effect, select(&["read", "write", "raed"][..]), when);
    let targets = select(vec![
        json!({"servers": ["a"]}),
        json!({"servers": ["a", "b"]}),
        json!({"selector": {}}),
        json!({"selector": {"matchLabels": {"l": "x"}}}),
        json!({"servers": ["c"], "selector": {"matchLabels": {"l": "y"}}}),
        json!({"selector": {}, "namespaceSelector": {"matchLabels": {"l": "x"}}}),
        json!({"servers": ["b"], "namespaceSelector": {}}),
        json!({}),
    ]);
    let mode = select(&["Enforce", "Enforce", "Shadow"][..]);
    (targets, mode, proptest::collection::vec(rule, 1..3)).prop_map(|(targets, mode, rules)| {
        let rules: Vec<Value> = rules
            .into_iter()
            .enumerate()
            .map(|(i, (effect, tool, when))| {
                let mut rule = json!({"name": format!("r{i}"), "effect": effect, "tools": [{"names": [tool]}],
                    "principals": [{"users": [format!("u{i}")]}]});
                if let Some(when) = when {
                    rule["when"] = when.into();
                }
                rule
            })
            .collect();
        json!({"authority": "corp", "targets": targets, "mode": mode, "rules": rules})
    })
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let namespace = || select(&NAMESPACES[..]);
    let name = || select(&NAMES[..]).prop_map(str::to_owned);
    let label = || select(&LABELS[..]);
    let lock = select(&[None, Some(0), Some(1), Some(2)][..]);
    let server = (namespace(), name(), label(), lock, prop::bool::weighted(0.9));
    let server =
        server.prop_map(|(namespace, name, label, lock, valid)| Event::Server { namespace, name, label, lock, valid });
    let policy = (namespace(), name(), specs());
    let policy = policy.prop_map(|(namespace, name, spec)| Event::Policy { namespace, name, spec });
    let gone = (select(&[SERVER, POLICY][..]), namespace(), select(&NAMES[..]));
    let gone = gone.prop_map(|(kind, namespace, name)| Event::Gone { kind, namespace, name });
    let labelled = (namespace(), label()).prop_map(|(name, label)| Event::Namespace { name, label });
    proptest::collection::vec(prop_oneof![4 => server, 5 => policy, 1 => gone, 1 => labelled], 1..40)
}

/// A controller's store and the looks that it asks for.
struct House {
    store: Store,
    objects: BTreeMap<(api::Kind, String, String), Value>,
    maps: Vec<crate::api::core::ConfigMap>,
    version: u64,
    /// What was last said of each policy of which something is said.
    told: HashMap<Key, Findings>,
    looks: usize,
}

impl House {
    fn new() -> Self {
        let maps = NAMESPACES.iter().flat_map(|namespace| {
            locks().into_iter().enumerate().map(move |(i, text)| {
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"namespace": namespace, "name": format!("lock-{i}")}, "data": {"tools-lock.json": text}});
                let Ok(Object::ConfigMap(map)) = api::object::read(&map) else { panic!("{map}") };
                map
            })
        });
        let (maps, objects, told) = (maps.collect(), BTreeMap::new(), HashMap::new());
        Self { store: store(), objects, maps, version: 0, told, looks: 0 }
    }

    fn happen(&mut self, event: &Event) -> Touched {
        self.version += 1;
        let (kind, namespace, name, mut object) = match event {
            Event::Server { namespace, name, label, lock, valid } => {
                let mut spec = server(None);
                if let Some(lock) = lock {
                    // The third is not there.
                    let digest = sha256(locks().get(*lock).map_or(&[][..], |text| text.as_bytes())).hex();
                    spec["tools"] = json!({"lock": {"configMapName": format!("lock-{lock}"), "sha256": digest}});
                }
                if !valid {
                    spec["path"] = json!("/elsewhere");
                }
                let mut one = object(name, self.version, &spec);
                one.metadata.labels = Some(Labels::from([("l".to_owned(), (*label).to_owned())]));
                (SERVER, *namespace, name, one)
            }
            Event::Policy { namespace, name, spec } => (POLICY, *namespace, name, object(name, self.version, spec)),
            Event::Gone { kind, namespace, name } => {
                let key = Key { kind: *kind, namespace: (*namespace).into(), name: (*name).into() };
                let Some(source) = self.store.source(&key) else { return Touched::new() };
                self.objects.remove(&(*kind, key.namespace.clone(), key.name.clone()));
                self.told.remove(&key);
                return self.store.source_gone(&key, &source.id.uid);
            }
            Event::Namespace { name, label } => {
                let labels = Labels::from([("l".to_owned(), (*label).to_owned())]);
                let object =
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
                self.objects.insert((api::Kind::Namespace, String::new(), (*name).to_owned()), object);
                return self.store.put_namespace(name, Some(labels));
            }
        };
        object.metadata.namespace = Some(namespace.to_owned());
        object.metadata.uid = Some(format!("uid-{}-{namespace}-{name}", kind.as_str()));
        let mut whole = object.data.clone();
        whole["apiVersion"] = "portcullis.dev/v1alpha1".into();
        whole["kind"] = kind.as_str().into();
        whole["metadata"] = json!({"namespace": namespace, "name": name, "uid": object.metadata.uid,
            "labels": object.metadata.labels});
        self.objects.insert((kind, namespace.to_owned(), name.to_owned()), whole);
        self.store.put_source(kind, object)
    }

    /// Looks at what was touched, as the queue would have it: each thing once, what is deep first.
    fn look(&mut self, touched: Touched) {
        let (mut agenda, now) = (Agenda::default(), Duration::ZERO);
        touched.into_iter().for_each(|(subject, depth)| agenda.add(subject, depth, now));
        while let Ok((subject, depth)) = agenda.take(now) {
            self.looks += 1;
            let touched = match &subject {
                Subject::Near(namespace) => self.store.take_near(namespace),
                Subject::Source(key) => self.look_at(key, depth),
                Subject::Stray(..) | Subject::Registered(_) | Subject::Unowned(_) => Touched::new(),
            };
            agenda.done(subject, Outcome::Settled, now, 0.0);
            touched.into_iter().for_each(|(subject, depth)| agenda.add(subject, depth, now));
        }
    }

    /// How many looks it takes until nothing more is asked for.
    fn looks(&mut self, event: &Event) -> usize {
        self.looks = 0;
        let touched = self.happen(event);
        self.look(touched);
        self.looks
    }

    fn look_at(&mut self, key: &Key, depth: Depth) -> Touched {
        let Some(source) = self.store.source(key) else { return Touched::new() };
        let id = source.id.clone();
        let cluster = self.store.issuer.cluster(&self.store.installation);
        let installation = self.store.installation.clone();
        let (settings, mut lookup) = (installation.settings(&cluster), Lookup::default());
        let maps = self.maps.clone();
        lookup.config_maps.extend(
            maps.iter()
                .map(|map| ((map.metadata.namespace.as_deref().unwrap(), map.metadata.name.as_deref().unwrap()), map)),
        );
        let mut touched = Touched::new();
        if depth != Depth::Status {
            let settled = match key.kind {
                SERVER => Settled::Server(Arc::new(self.settled_server(&source, &settings, &lookup))),
                _ => {
                    let outcome = source.policy().map(|policy| resolve::policy(policy, &settings, &lookup));
                    let errors = outcome.and_then(Result::err).unwrap_or_default();
                    let verdict = policy::Verdict { errors, warnings: Vec::new(), meanwhile: String::new() };
                    Settled::Policy(Arc::new(Applied { key: key.clone(), id: id.clone(), generated: None, verdict }))
                }
            };
            touched = self.store.settle(key, settled);
        }
        if key.kind == POLICY {
            match self.store.reaching(key, &id) {
                Reaching::Around(around) => drop(self.told.insert(key.clone(), around.findings())),
                Reaching::Unsaid => drop(self.told.remove(key)),
                Reaching::NotYet => {}
            }
        }
        touched
    }

    fn settled_server(
        &self,
        source: &Source,
        settings: &resolve::Settings<'_>,
        lookup: &Lookup<'_>,
    ) -> Applied<server::Verdict> {
        let spec = source.server().unwrap();
        let outcome = resolve::server(spec, settings, lookup);
        let reviewed = outcome.as_ref().ok().and_then(|resolved| Reviewed::of(spec, &resolved.object, lookup));
        let verdict = server::Verdict {
            errors: outcome.err().unwrap_or_default(),
            warnings: Vec::new(),
            resource: None,
            disabled: false,
            reviewed: reviewed.map(Arc::new),
            basis: None,
            oauth: false,
            isolation: None,
        };
        Applied { key: source.key.clone(), id: source.id.clone(), generated: None, verdict }
    }

    /// What `portcullis validate` says of the same objects.
    fn validated(&self) -> Resolution {
        let objects = self.objects.values().map(|object| api::object::read(object).unwrap());
        let objects: Vec<Object> = objects.chain(self.maps.iter().cloned().map(Object::ConfigMap)).collect();
        let cluster = self.store.issuer.cluster(&self.store.installation);
        let settings = self.store.installation.settings(&cluster);
        resolve::tree(&settings, &objects, &BTreeMap::new(), false, &Accepted::default(), Observed::default())
    }

    fn assert_as_validated(&self) {
        let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for found in self.validated().findings.iter().filter(|found| REASONS.contains(&found.finding.reason)) {
            expected.entry(found.key.to_string()).or_default().push(found.finding.to_string());
        }
        let told = self.told.iter().filter(|(_, findings)| !findings.is_empty());
        let told: BTreeMap<String, Vec<String>> =
            told.map(|(key, all)| (key.to_string(), all.iter().map(ToString::to_string).collect())).collect();
        assert_eq!(told, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_is_said_of_policies_is_what_validate_says_whatever_happened(
        events in events(),
        together in prop::bool::ANY,
    ) {
        let mut house = House::new();
        let mut waiting = Touched::new();
        for event in &events {
            waiting.extend(house.happen(event));
            if !together {
                house.look(std::mem::take(&mut waiting));
                house.assert_as_validated();
            }
        }
        house.look(waiting);
        house.assert_as_validated();
    }
}

#[test]
fn a_change_costs_what_depends_on_it_however_much_there_is_beside() {
    let policy = |name: &str, effect: &str, targets: &Value| Event::Policy {
        namespace: "red",
        name: name.to_owned(),
        spec: json!({"authority": "corp", "targets": targets, "rules": [{"name": "r", "effect": effect,
            "principals": [{"users": ["ana"]}], "tools": [{"names": ["read"]}]}]}),
    };
    let one = |number: usize| json!({"servers": [format!("n{number}")]});
    let server = |number: usize, label: &'static str| Event::Server {
        namespace: "red",
        name: format!("n{number}"),
        label,
        lock: None,
        valid: true,
    };
    let guardrail = |tool: &str| Event::Policy {
        namespace: "sys",
        name: "everywhere".to_owned(),
        spec: json!({"authority": "corp", "targets": {"selector": {}, "namespaceSelector": {}}, "rules": [{"name": "r",
            "effect": "Allow", "principals": [{"users": ["ana"]}], "tools": [{"names": [tool]}]}]}),
    };
    let (mut house, mut waiting) = (House::new(), Touched::new());
    for number in 0..300 {
        waiting.extend(house.happen(&server(number, "x")));
        waiting.extend(house.happen(&policy(&format!("p{number}"), "Allow", &one(number))));
    }
    house.look(waiting);
    assert_eq!(house.looks, 600 + 1 + 300, "each thing, what changed in the namespace, and what that touches");
    // What grants asks nobody.
    assert_eq!(house.looks(&policy("p7", "Allow", &json!({"servers": ["n7", "n8"]}))), 1);
    assert_eq!(house.looks(&guardrail("read")), 1);
    // It reaches one server, with two policies.
    assert_eq!(house.looks(&server(8, "y")), 1 + 1 + 2);
    // One that only narrows asks those that reach its server, and hears of them alone.
    assert_eq!(house.looks(&policy("narrow", "Deny", &one(9))), 1 + 1 + 1);
    assert_eq!(house.looks(&policy("p10", "Allow", &json!({"servers": ["n10", "n11"]}))), 1 + 1);
    assert_eq!(house.looks(&policy("p9", "Deny", &one(9))), 1 + 1 + 2);
    assert_eq!(house.looks(&guardrail("write")), 1 + 1 + 2);
    house.assert_as_validated();
    let told = house.told.values().filter(|findings| !findings.is_empty()).count();
    assert_eq!(told, 0, "the guardrail grants something");
}
