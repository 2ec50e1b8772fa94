//! Objects that nobody thought of, made from the schemas themselves.

use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
};

use super::*;
use crate::{api::crd, generated::codec};

/// Values that fit a schema more or less: strings are drawn from what means something somewhere.
fn fitting(schema: &Value) -> BoxedStrategy<Value> {
    if let Some(allowed) = schema["enum"].as_array() {
        return select(allowed.clone()).boxed();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let mut members = Vec::new();
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            for (name, member) in schema["properties"].as_object().into_iter().flatten() {
                let name = name.clone();
                let present = if required.contains(&name.as_str()) { 0.98 } else { 0.25 };
                let member = proptest::option::weighted(present, fitting(member));
                members.push(member.prop_map(move |m| m.map(|m| (name.clone(), m))).boxed());
            }
            members.prop_map(|all| Value::Object(all.into_iter().flatten().collect())).boxed()
        }
        Some("array") => vec(fitting(&schema["items"]), 1..3).prop_map(Value::Array).boxed(),
        Some("integer" | "number") => (-1i64..100).prop_map(Value::from).boxed(),
        Some("boolean") => Just(Value::Bool(true)).boxed(),
        _ => prop_oneof![4 => select(WORDS.to_vec()).prop_map(Value::from), 1 => "\\PC{1,12}".prop_map(Value::from)]
            .boxed(),
    }
}

const WORDS: [&str; 18] = [
    "corp",
    "s",
    "default",
    "/team/s",
    "https://vendor.example/mcp",
    "http://127.0.0.1:9/mcp",
    "get_*",
    "*",
    "args.a == 1",
    "has(args.b) && args.b.startsWith('x')",
    "2026-01-01T00:00:00Z",
    "2027-01-01T00:00:00+02:00",
    "30s",
    "1h",
    "/args/a",
    "mcp:use",
    "Authorization",
    "key",
];

pub(crate) fn documents() -> impl Strategy<Value = Vec<Value>> {
    let kinds: Vec<(String, Value)> = crd::all()
        .into_iter()
        .map(|crd| {
            let json = serde_json::to_value(&crd).unwrap();
            let schema = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            (crd.spec.names.kind, schema.clone())
        })
        .collect();
    let document = kinds
        .into_iter()
        .map(|(kind, schema)| {
            (fitting(&schema), select(vec!["corp", "s", "t"]), select(vec!["team", "sys"]))
                .prop_map(move |(spec, name, namespace)| {
                    json!({
                        "apiVersion": "portcullis.dev/v1alpha1", "kind": kind,
                        "metadata": {"name": name, "namespace": namespace}, "spec": spec
                    })
                })
                .boxed()
        })
        .collect::<Vec<_>>();
    vec(proptest::strategy::Union::new(document), 1..6)
}

/// A tree as a folder would give it: no two objects with the same key.
fn unique(documents: Vec<Value>) -> Vec<Value> {
    let mut seen = std::collections::BTreeSet::new();
    let key = |d: &Value| match object::read(d) {
        Ok(object) => object.key(),
        Err(Rejected::Invalid { key, .. }) => key,
        Err(other) => panic!("{other:?}"),
    };
    documents.into_iter().filter(|d| seen.insert(key(d))).collect()
}

fn sorted(mut generated: Vec<Generated>) -> Vec<Vec<u8>> {
    let mut encoded: Vec<_> = generated.drain(..).map(|g| codec::encode(&g).unwrap()).collect();
    encoded.sort();
    encoded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_resolved_loads(documents in documents()) {
        let mut all = unique(documents);
        let first = resolve(&all);
        // Once more over what was accepted: edits of every kind.
        all.rotate_left(1);
        let second = resolve_after(&all, &first.accepted);
        for generated in first.generated.iter().chain(&second.generated) {
            let bytes = codec::encode(generated).unwrap();
            prop_assert_eq!(&codec::decode(&bytes).unwrap(), generated);
            if let Generated::Server(server) = generated {
                let served = matches!(server.state, crate::generated::server::State::Enabled);
                prop_assert!(!served || !server.metadata.is_empty());
            }
            if let Generated::Policy(policy) = generated {
                let compiled = crate::policy::rule::compile(std::sync::Arc::new(policy.clone()));
                prop_assert!(compiled.is_ok(), "{:?}", compiled.err());
            }
        }
        for finding in &first.findings {
            prop_assert!(!finding.finding.message.is_empty() && !finding.finding.remedy.is_empty());
        }
    }

    #[test]
    fn the_order_of_objects_decides_nothing(documents in documents(), turn in 0usize..6) {
        let mut all = unique(documents);
        let first = resolve(&all);
        let turn = turn % all.len();
        all.rotate_left(turn);
        let second = resolve(&all);
        prop_assert_eq!(sorted(first.generated), sorted(second.generated));
        prop_assert_eq!(first.findings, second.findings);
    }

    #[test]
    fn no_mutilated_document_panics(
        documents in documents(),
        cuts in vec((any::<prop::sample::Index>(), subsequence(vec![0, 1, 2, 3, 4], 1)), 1..4)
    ) {
        for document in documents {
            let mut text = document.to_string();
            for (index, with) in &cuts {
                let at = index.index(text.len());
                if text.is_char_boundary(at) {
                    text.replace_range(at..at, [" ", "\"", "null", "{}", "[1]"][with[0]]);
                }
            }
            if let Ok(value) = serde_json::from_str::<Value>(&text)
                && let Err(Rejected::Invalid { problems, .. }) = object::read(&value) {
                prop_assert!(!problems.is_empty());
            }
        }
    }
}
