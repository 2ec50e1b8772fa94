//! Any bytes as a manifest: refused with a place, or objects; never a panic. What is resolved loads, again after an
//! edit of it, and no value of a Secret is in any finding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::api::Object;
use portcullis::generated::codec;
use portcullis::manifests::parse;
use portcullis::resolve::{Accepted, Cluster, Observed, PublicUrl, Settings, tree};
use std::collections::BTreeMap;

fuzz_target!(|bytes: &[u8]| {
    let file = "fuzz.yaml".into();
    let Ok(parsed) = parse(&file, bytes) else { return };
    let mut objects: BTreeMap<_, Object> = BTreeMap::new();
    let mut invalid = BTreeMap::new();
    for found in parsed.objects {
        assert!(found.source.locate(&Default::default()).line >= 1);
        match found.object {
            Ok(object) => drop(objects.insert(found.key, object)),
            Err(why) => drop(invalid.insert(found.key, why)),
        }
    }
    invalid.retain(|key, _| !objects.contains_key(key));
    let objects: Vec<Object> = objects.into_values().collect();
    let public_url = PublicUrl::parse("https://mcp.example.com").unwrap();
    let cluster = Cluster::presumed();
    let settings = Settings { public_url: &public_url, system_namespace: "portcullis-system", cluster: Some(&cluster) };
    let first = tree(&settings, &objects, &invalid, false, &Accepted::default(), Observed::default());
    let second = tree(&settings, &[], &invalid, false, &first.accepted, Observed::default());
    for generated in first.generated.iter().chain(&second.generated) {
        let encoded = codec::encode(generated).unwrap();
        assert_eq!(&codec::decode(&encoded).unwrap(), generated);
    }
    let findings = format!("{:?}", first.findings);
    for object in &objects {
        let Object::Secret(secret) = object else { continue };
        // Shorter ones could stand there by chance.
        let values = secret.data.values().filter(|value| value.len() >= 24);
        for value in values.filter_map(|value| std::str::from_utf8(value).ok()) {
            assert!(!findings.contains(value));
        }
    }
});
