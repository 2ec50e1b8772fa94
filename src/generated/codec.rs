//! The one encoding of generated objects, each kind of it with one version number.
//!
//! Invariant: `decode(encode(x)) == x`, and a document of another version than its kind has, with an unknown member or
//! without a known one is refused whole; only a member that came later and says so where it is defined may be absent. The
//! writer writes each kind in the version in which it came, so every live proxy reads all that it knows; and a proxy that
//! says that it reads an earlier version is not taken to serve kinds that came later.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Authority, Client, Kind, ObjectId, Policy, Server};

/// The latest version that this build writes and reads ([`Kind::version`] is that of each kind).
pub const VERSION: u32 = 2;

/// How large an encoded object may be: one of Kubernetes holds a mebibyte of data, in Secrets and in ConfigMaps.
pub const MOST_BYTES: usize = 1_000_000;

/// One generated object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", content = "object")]
pub enum Generated {
    /// A governed server.
    Server(Server),
    /// A policy.
    Policy(Policy),
    /// A trust anchor.
    Authority(Authority),
    /// A client whose document is served.
    Client(Client),
}

impl Generated {
    /// What it is, and which object it was resolved from.
    pub fn identity(&self) -> (Kind, &ObjectId) {
        match self {
            Generated::Server(server) => (Kind::Server, &server.id),
            Generated::Policy(policy) => (Kind::Policy, &policy.id),
            Generated::Authority(authority) => (Kind::Authority, &authority.id),
            Generated::Client(client) => (Kind::Client, &client.id),
        }
    }
}

#[derive(Serialize)]
struct Writing<'a> {
    version: u32,
    #[serde(flatten)]
    object: &'a Generated,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reading<'a> {
    #[serde(rename = "version")]
    _version: u32,
    kind: Kind,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Why a document could not be read. Never holds any of its content: it may hold credentials.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not JSON, or not of the expected shape.
    #[error("generated object is malformed at line {line}, column {column}")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Written by a build that this one does not understand.
    #[error("generated object has version {found}, which this build does not read of its kind")]
    Version {
        /// The document's version.
        found: u32,
    },
    /// Of another kind, or resolved from another object, than its name says.
    #[error("generated object is not what its name says")]
    Identity,
    /// Could not be written.
    #[error("generated object cannot be encoded")]
    Encode,
}

impl CodecError {
    /// A stable word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            CodecError::Malformed { .. } => "GeneratedMalformed",
            CodecError::Version { .. } => "GeneratedVersion",
            CodecError::Identity => "GeneratedIdentity",
            CodecError::Encode => "GeneratedEncode",
        }
    }
}

impl From<serde_json::Error> for CodecError {
    fn from(e: serde_json::Error) -> Self {
        CodecError::Malformed { line: e.line(), column: e.column() }
    }
}

/// Encodes an object as JSON.
pub fn encode(object: &Generated) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(&Writing { version: object.identity().0.version(), object }).map_err(|_| CodecError::Encode)
}

/// Decodes what [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Result<Generated, CodecError> {
    let Version { version } = serde_json::from_slice(bytes)?;
    // Before anything else is read: a later build may say what this one has no words for.
    if !(1..=VERSION).contains(&version) {
        return Err(CodecError::Version { found: version });
    }
    let Reading { kind, object, .. } = serde_json::from_slice(bytes)?;
    if version != kind.version() {
        return Err(CodecError::Version { found: version });
    }
    let object = object.get();
    Ok(match kind {
        Kind::Server => Generated::Server(serde_json::from_str(object)?),
        Kind::Policy => Generated::Policy(serde_json::from_str(object)?),
        Kind::Authority => Generated::Authority(serde_json::from_str(object)?),
        Kind::Client => Generated::Client(serde_json::from_str(object)?),
    })
}

/// Decodes what [`encode`] wrote of this very object.
pub fn decode_as(kind: Kind, uid: &str, bytes: &[u8]) -> Result<Generated, CodecError> {
    let object = decode(bytes)?;
    let (found, id) = object.identity();
    if (found, id.uid.as_str()) == (kind, uid) { Ok(object) } else { Err(CodecError::Identity) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::generated::authority::TypRule;

    /// One of each kind, in which every member has something to say.
    fn examples() -> [Value; 6] {
        let id = json!({"uid": "u", "namespace": "team", "name": "n", "generation": 1});
        let selector = json!({"match_labels": {"a": "b"},
            "match_expressions": [{"key": "k", "operator": "In", "values": ["v"]}]});
        let principal = json!({"authority": "corp", "any": false, "users": ["u"], "groups": ["g"], "clients": ["c"],
            "via": ["v"], "service_account": {"namespace": "ci", "name": "bot"}, "actor": {"Subjects": ["a"]},
            "named": {"authority": "corp", "any": false, "mcp_clients": ["agent"]}});
        let rule = json!({"name": "r", "effect": "Allow", "principals": [principal], "except": [principal],
            "tools": [{"names": ["t"], "patterns": ["*"], "risk": ["Write"]}], "resources": ["r://x"], "prompts": ["p"],
            "when": "args.a == 1", "not_before": 1, "not_after": 2, "message": "m",
            "break_glass": {"reason": "r", "ticket": "t"}});
        let policy = json!({"id": id, "guardrail": true,
            "targets": {"servers": ["s"], "selector": selector, "namespaces": selector}, "mode": "Shadow",
            "standing": {"NarrowingOnly": {"reason": "Broken"}}, "rules": [rule]});
        let server = json!({"id": id, "labels": {"a": "b"}, "namespace_labels": {"a": "b"}, "path": "/team/n",
            "resource": "https://x/team/n", "metadata": "{}",
            "upstream": {"url": "https://y", "tls": {"ca_pem": "p", "server_name": "n"},
                "credentials": {"Headers": [{"name": "authorization", "value": "hunter2"}]}},
            "authorities": ["corp"], "audiences": ["a"],
            "scopes": {"baseline": ["b"], "tools": [{"name": "n", "patterns": ["*"], "scopes": ["s"]}]},
            "risk": [{"name": "n", "patterns": ["*"], "class": "Write"}],
            "lock": {"on_change": "Deny", "tools": {"t": ["A".repeat(43), "Write"], "u": ["A".repeat(43), null]}},
            "audit": {"level": "Metadata", "delivery": "Durable", "redact": ["/args/a"]},
            "state": {"Unserved": {"reason": "r", "message": "m"}}});
        let authority = json!({"id": id, "issuer": "https://i",
            "rules": {"typ": "Compatible", "algorithms": ["ES256"], "skew_seconds": 1, "max_lifetime_seconds": 1,
                "subject_claim": "sub", "tenant_claim": "t", "client_claims": ["c"], "groups_claim": "g",
                "allowed_audiences": ["a"]},
            "keys": {"Discovery": {"ca_pem": "p"}}, "key_set": {"jwks": "{}", "valid_until": 1},
            "revoked": [{"Token": {"jti": "j"}}, {"Subject": {"subject": "s", "issued_before": 1}}],
            "clients": {"team/a/1": 1}});
        let mut cluster = authority.clone();
        cluster["keys"] = "Kubernetes".into();
        cluster["rules"]["typ"] =
            json!({"ServiceAccount": {"api_audiences": ["a"], "refused": ["s"], "token_review": true}});
        let mut client = server.clone();
        client["upstream"]["credentials"] = json!({"Oauth": {"issuer": "https://i", "ca_pem": "p",
            "token_endpoint": "https://i/t", "client_id": "c", "proof": {"Key": "hunter2"},
            "grant": {"TokenExchange": {"authority": "corp"}}, "scopes": ["s"], "resource": "https://y",
            "says_resource": true}});
        let documents = json!({"id": id, "document": "{}", "key_set": "{}"});
        let version = |kind: &str| Kind::ALL.into_iter().find(|one| format!("{one:?}") == kind).unwrap().version();
        let objects = [
            ("Policy", policy),
            ("Server", server),
            ("Server", client),
            ("Client", documents),
            ("Authority", authority),
            ("Authority", cluster),
        ];
        objects.map(|(kind, object)| json!({"version": version(kind), "kind": kind, "object": object}))
    }

    fn decoded(document: &Value) -> Result<Generated, CodecError> {
        decode(document.to_string().as_bytes())
    }

    /// JSON pointers to every object in a document, maps of labels apart.
    fn objects(value: &Value, path: String, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    objects(member, format!("{path}/{name}"), found);
                }
                if !["labels", "namespace_labels", "match_labels", "clients", "lock/tools"]
                    .iter()
                    .any(|labels| path.ends_with(labels))
                {
                    found.push(path);
                }
            }
            Value::Array(entries) => {
                entries.iter().enumerate().for_each(|(i, entry)| objects(entry, format!("{path}/{i}"), found));
            }
            _ => {}
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for example in examples() {
            let object = decoded(&example).unwrap();
            assert_eq!(decode(&encode(&object).unwrap()).unwrap(), object);
        }
    }

    #[test]
    fn what_is_another_object_than_its_name_says_is_refused() {
        for example in examples() {
            let bytes = example.to_string().into_bytes();
            let object = decode(&bytes).unwrap();
            let own = object.identity().0;
            for (kind, uid) in Kind::ALL.into_iter().flat_map(|kind| [(kind, "u"), (kind, "v"), (kind, "")]) {
                let decoded = decode_as(kind, uid, &bytes);
                assert_eq!(decoded.is_ok(), (kind, uid) == (own, "u"), "{kind:?} {uid}");
            }
        }
    }

    #[test]
    fn a_missing_or_an_unknown_member_refuses_the_whole() {
        for example in examples() {
            let mut places = Vec::new();
            objects(&example, String::new(), &mut places);
            for place in places {
                let names: Vec<String> =
                    example.pointer(&place).unwrap().as_object().unwrap().keys().cloned().collect();
                for name in names.into_iter().filter(|name| name != "token_review") {
                    let mut without = example.clone();
                    without.pointer_mut(&place).unwrap().as_object_mut().unwrap().remove(&name);
                    // Earlier builds wrote no names.
                    assert_eq!(decoded(&without).is_ok(), name == "named", "without {place}/{name}");
                }
                let mut with = example.clone();
                with.pointer_mut(&place).unwrap().as_object_mut().unwrap().insert("more".into(), Value::Null);
                assert!(decoded(&with).is_err(), "with {place}/more");
            }
        }
    }

    /// Objects of builds that asked the API server about no token, and what those builds read.
    #[test]
    fn where_no_review_is_wanted_nothing_is_said_of_it() {
        let [.., mut example] = examples();
        let place = "/object/rules/typ/ServiceAccount";
        let wanted = |object: &Generated| match object {
            Generated::Authority(authority) => {
                matches!(authority.rules.typ, TypRule::ServiceAccount { token_review: true, .. })
            }
            _ => panic!(),
        };
        assert!(wanted(&decoded(&example).unwrap()));
        example.pointer_mut(place).unwrap().as_object_mut().unwrap().remove("token_review");
        let object = decoded(&example).unwrap();
        assert!(!wanted(&object));
        let written: Value = serde_json::from_slice(&encode(&object).unwrap()).unwrap();
        assert_eq!(written.pointer(place), example.pointer(place));
    }

    #[test]
    fn other_versions_are_refused_and_named_and_nothing_is_quoted() {
        for example in examples() {
            let own = u32::try_from(example["version"].as_u64().unwrap()).unwrap();
            for version in [0, 1, VERSION, VERSION + 1, u32::MAX].into_iter().filter(|version| *version != own) {
                let mut other = example.clone();
                other["version"] = version.into();
                // A newer build may say what this one has no words for.
                other["object"] = json!({"new": "hunter2"});
                let error = decoded(&other).unwrap_err();
                assert!(matches!(error, CodecError::Version { found } if found == version), "{error}");
                assert_eq!(error.reason(), "GeneratedVersion");
            }
            let text = example.to_string();
            for broken in
                [text.trim_end_matches('}'), &format!("{text} x"), &text.replace("\"hunter2\"", "[\"hunter2\"]")]
            {
                let outcome = decode(broken.as_bytes());
                assert!(outcome.is_err() || *broken == text);
                assert!(!format!("{outcome:?}").contains("hunter2"), "{outcome:?}");
            }
        }
    }
}
