//! Searches output for secrets, in the forms that a leak takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

/// Members of OAuth's requests and answers that are secrets.
const MEMBERS: [&str; 8] = [
    "client_secret",
    "registration_access_token",
    "access_token",
    "client_assertion",
    "subject_token",
    "assertion",
    "secret",
    "refresh_token",
];

/// The least that tells a leak from chance.
const LEAST: usize = 12;

/// Secrets that were seen, by what they are.
#[derive(Clone, Default)]
pub(crate) struct Secrets(BTreeMap<String, BTreeSet<String>>);

impl Secrets {
    pub(crate) fn note(&mut self, class: &str, secret: &str) {
        self.0.entry(class.to_owned()).or_default().insert(secret.to_owned());
    }

    /// Every secret of a request or an answer, as a hop has it: a credential by its scheme, a member by its name.
    pub(crate) fn note_message(&mut self, text: &str) {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let headers = head.lines().filter_map(|line| line.split_once(": "));
        for (_, value) in headers.filter(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            value.split_once(' ').into_iter().for_each(|(scheme, credential)| self.note(scheme, credential));
        }
        match serde_json::from_str::<Value>(body) {
            Ok(body) => self.note_value(&body),
            Err(_) => {
                let pairs = url::form_urlencoded::parse(body.as_bytes());
                pairs.filter(|(name, _)| MEMBERS.contains(&name.as_ref())).for_each(|(name, it)| self.note(&name, &it));
            }
        }
    }

    fn note_value(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.note_value(item)),
            Value::Object(members) => members.iter().for_each(|(name, item)| match item {
                Value::String(text) if MEMBERS.contains(&name.as_str()) => self.note(name, text),
                // Keycloak's answer for a new secret is `{"type": "secret", "value": …}`.
                Value::String(text) if name == "value" && members["type"] == "secret" => self.note("secret", text),
                item => self.note_value(item),
            }),
            _ => {}
        }
    }

    /// All that are long enough to be looked for. Of each of these classes there is one: of what was never seen, nothing is proved.
    pub(crate) fn all(&self, classes: &[&str]) -> Vec<&str> {
        for class in classes {
            let seen = self.0.get(*class).is_some_and(|secrets| secrets.iter().any(|secret| secret.len() >= LEAST));
            assert!(seen, "no {class} was seen, among {:?}", self.0.keys());
        }
        let all: BTreeSet<&str> = self.0.values().flatten().map(String::as_str).collect();
        all.into_iter().filter(|secret| secret.len() >= LEAST).collect()
    }
}

/// The forms in which `secret` could appear: as it is, as JSON or a URL would escape it, in base64 at any alignment, in hex,
/// and for a JWT its signature alone.
fn forms(secret: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.as_bytes().to_vec()];
    for lead in 0..3_usize {
        let padded = [&vec![b'x'; lead][..], secret.as_bytes()].concat();
        for encoded in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            // The first and last group mix with their neighbours.
            let bytes = encoded.into_bytes();
            let (from, to) = (if lead == 0 { 0 } else { 4 }, bytes.len() - bytes.len() % 4);
            if to > from + 8 {
                forms.push(bytes[from..to].to_vec());
            }
        }
    }
    forms.push(secret.bytes().map(|b| format!("{b:02x}")).collect::<String>().into_bytes());
    let json = serde_json::to_string(secret).unwrap();
    forms.push(json.trim_matches('"').as_bytes().to_vec());
    forms.push(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect::<String>().into_bytes());
    if let Some((signed, signature)) = secret.rsplit_once('.').filter(|(_, s)| s.len() >= 40) {
        forms.push(signature.as_bytes().to_vec());
        // What is told shortened ends before the signature.
        let claims = signed.rsplit_once('.').and_then(|(_, claims)| claims.get(..40));
        forms.extend(claims.map(|claims| claims.as_bytes().to_vec()));
    }
    forms
}

/// Every form of some secrets, by its first two bytes: a text is gone through once for all of them, since logs are long.
struct Forms(Vec<Vec<Vec<u8>>>);

impl Forms {
    fn of(secrets: &[&str]) -> Self {
        let mut by_start = vec![Vec::new(); 1 << 16];
        for secret in secrets {
            assert!(secret.len() >= LEAST, "{secret:?} is too short to tell a leak from chance");
            for form in forms(secret) {
                by_start[start(&form)].push(form);
            }
        }
        Self(by_start)
    }

    fn stand_in(&self, text: &[u8]) -> bool {
        let begins = |at: usize| self.0[start(&text[at..])].iter().any(|form| text[at..].starts_with(form));
        (1..text.len()).any(|end| begins(end - 1))
    }
}

fn start(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Whether `secret` stands in `text` in any form.
pub(crate) fn leaks(secret: &str, text: &[u8]) -> bool {
    Forms::of(&[secret]).stand_in(text)
}

/// Fails when one of `secrets` stands in one of the named texts.
pub(crate) fn assert_none(secrets: &[&str], texts: &[(&str, &[u8])]) {
    let forms = Forms::of(secrets);
    for (place, text) in texts {
        assert!(!forms.stand_in(text), "{place} leaks a secret: {}", String::from_utf8_lossy(text));
    }
}

/// Fails when one of `secrets` stands in a file below `folder`; files for which `expected` holds are passed over.
pub(crate) fn assert_none_below(secrets: &[&str], folder: &Path, expected: &dyn Fn(&Path) -> bool) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_none_below(secrets, &path, expected);
        } else if path.is_file() && !expected(&path) {
            let mut bytes = fs::read(&path).unwrap();
            // Journal segments are zeroed ahead of their use, which would only take time to search.
            bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            assert_none(secrets, &[(&path.display().to_string(), &bytes)]);
        }
    }
}
