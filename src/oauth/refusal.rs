//! Error answers of authorization servers: RFC 6749 section 5.2, RFC 7591 section 3.2.2, RFC 6750 section 3.1.
//!
//! Invariant: what is told of a refusal is one of the words that the specifications know, and a short text for people
//! without control characters, without what was sent, and without anything that looks like a credential. It may stand in
//! a status that others read.

use super::json;
use crate::sensitive::Sensitive;

/// The longest error answer that is read, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// The longest description that is passed on, in characters.
const MAX_DESCRIPTION: usize = 300;
/// A run of this many characters may be a credential, if it is also mixed as credentials are.
const MIN_CREDENTIAL: usize = 16;
/// What stands where something was taken out.
const REMOVED: &str = "[removed]";

/// What to do after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The same request will be refused again: a person has to change something.
    Terminal,
    /// The request's credential is not accepted, or not for this.
    Credential,
    /// The server is busy or broken: try again later.
    Later,
}

/// Why an authorization server refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What to do about it.
    pub kind: RefusalKind,
    /// The error code, if it is one that the specifications know.
    pub error: Option<&'static str>,
    /// The server's words, shortened and cleaned.
    pub description: Option<String>,
}

/// Reads an answer whose status is not the expected one. `known` are the codes of this kind of request; `sent` are the
/// secrets that it carried, since some servers repeat what they were sent.
pub(super) fn read(status: u16, body: &[u8], known: &[(&'static str, RefusalKind)], sent: &[&Sensitive]) -> Refusal {
    let members = Some(body).filter(|body| body.len() <= MAX_BYTES).and_then(|body| json::object(body).ok());
    let text = |name| members.as_ref().and_then(|members| members.get(name)?.as_str());
    let code = text("error").and_then(|error| known.iter().find(|(code, _)| *code == error));
    Refusal {
        kind: kind(status, code.map(|(_, kind)| *kind)),
        error: code.map(|(error, _)| *error),
        description: text("error_description").map(|text| cleaned(text, sent)).filter(|text| !text.is_empty()),
    }
}

/// The status says whether the server judged the request at all, and whether it knows who asks: Keycloak answers a wrong
/// secret with 401 and `unauthorized_client`. Then the code says more than the status.
fn kind(status: u16, code: Option<RefusalKind>) -> RefusalKind {
    match (status, code) {
        (408 | 425 | 429 | 500.., _) => RefusalKind::Later,
        (401, _) => RefusalKind::Credential,
        (_, Some(kind)) => kind,
        (403, None) => RefusalKind::Credential,
        (400..=499, None) => RefusalKind::Terminal,
        // Neither a success that was expected nor an error: whatever it was, it need not be so for ever.
        _ => RefusalKind::Later,
    }
}

/// A stranger's text as it may be shown: on one line, without what was sent, without whatever looks like a credential,
/// and not long.
fn cleaned(text: &str, sent: &[&Sensitive]) -> String {
    let mut text = one_line(text);
    for secret in sent.iter().map(|secret| secret.expose()).filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, REMOVED);
    }
    shortened(&without_credentials(&text), MAX_DESCRIPTION)
}

/// The text with single spaces for whatever divides its words, and for what nobody sees.
pub(super) fn one_line(text: &str) -> String {
    let visible: String = text.chars().map(|c| if is_invisible(c) { ' ' } else { c }).collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What moves or hides what stands beside it: control characters, and those that change the direction of writing.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text without its runs of token characters (RFC 9110 section 11.2) that look like a credential.
fn without_credentials(text: &str) -> String {
    let (mut cleaned, mut run) = (String::new(), String::new());
    for c in text.chars().map(Some).chain([None]) {
        match c {
            Some(c) if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '+' | '/' | '=') => run.push(c),
            end => {
                cleaned.push_str(if is_credential(&run) { REMOVED } else { &run });
                run.clear();
                cleaned.extend(end);
            }
        }
    }
    cleaned
}

/// Long, and mixed as no word is: digits among letters, or upper case after lower case.
fn is_credential(run: &str) -> bool {
    let is_mixed = run.bytes().any(|b| b.is_ascii_digit()) && run.bytes().any(|b| b.is_ascii_alphabetic())
        || run.bytes().zip(run.bytes().skip(1)).any(|(a, b)| a.is_ascii_lowercase() && b.is_ascii_uppercase());
    run.len() >= MIN_CREDENTIAL && is_mixed
}

/// At most `most` characters, and a sign where there were more.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: &[(&str, RefusalKind)] =
        &[("invalid_client", RefusalKind::Credential), ("invalid_grant", RefusalKind::Terminal)];

    fn refused(status: u16, body: &str) -> Refusal {
        read(status, body.as_bytes(), KNOWN, &[])
    }

    #[test]
    fn the_status_says_whether_the_request_was_judged_and_the_code_what_is_wrong_with_it() {
        use RefusalKind::*;
        for (status, body, kind) in [
            (400, r#"{"error":"invalid_grant"}"#, Terminal),
            (400, r#"{"error":"invalid_client"}"#, Credential),
            (401, r#"{"error":"invalid_grant"}"#, Credential),
            (403, r#"{"error":"invalid_grant"}"#, Terminal),
            (401, "", Credential),
            (403, "<html>", Credential),
            (404, "{}", Terminal),
            (409, "{}", Terminal),
            (408, "{}", Later),
            (425, "{}", Later),
            (429, r#"{"error":"invalid_client"}"#, Later),
            (500, r#"{"error":"invalid_grant"}"#, Later),
            (503, "", Later),
            (599, "", Later),
            (202, "{}", Later),
            (0, "", Later),
        ] {
            assert_eq!(refused(status, body).kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn only_known_codes_and_readable_answers_are_repeated() {
        let body = r#"{"error":"invalid_grant","error_description":"The code has expired.","error_uri":"https://x"}"#;
        let expected = Refusal {
            kind: RefusalKind::Terminal,
            error: Some("invalid_grant"),
            description: Some("The code has expired.".to_owned()),
        };
        assert_eq!(refused(400, body), expected);
        let nothing = Refusal { kind: RefusalKind::Terminal, error: None, description: None };
        let large = format!(r#"{{"error":"invalid_grant","x":"{}"}}"#, "x".repeat(MAX_BYTES));
        for body in [
            r#"{"error":"made_up"}"#,
            r#"{"error":["invalid_grant"]}"#,
            r#"{"error":"invalid_grant","error":"invalid_grant"}"#,
            r#"["invalid_grant"]"#,
            r#"{"error_description":7}"#,
            r#"{"error_description":" \n\t "}"#,
            "invalid_grant",
            &large,
        ] {
            assert_eq!(refused(400, body), nothing, "{body:.60}");
        }
    }

    #[test]
    fn a_description_says_what_people_wrote() {
        for text in [
            "redirect_uris must only contain web uris",
            "token_endpoint_auth_method 'private_key_jwt' is not allowed",
            "Policy 'Trusted Hosts' rejected request to client-registration service. Details: Host not trusted.",
            "client_id_metadata_document_supported is false (RFC 7591 section 3.2.2)",
        ] {
            assert_eq!(cleaned(text, &[]), text);
        }
        assert_eq!(cleaned("a\u{0}b\r\nc\u{1b}[31md\u{85}e\u{202e}f", &[]), "a b c [31md e f");
        let long = "word ".repeat(1000);
        let short = cleaned(&long, &[]);
        assert!(short.chars().count() == MAX_DESCRIPTION + 1 && short.ends_with('…'), "{short}");
    }

    #[test]
    fn a_description_shows_no_credential() {
        let (chosen, id) = (Sensitive::new("hunter2"), Sensitive::new(""));
        let echoed = cleaned("the secret hunter2 (hunter2) of agent is wrong", &[&chosen, &id]);
        assert_eq!(echoed, "the secret [removed] ([removed]) of agent is wrong");
        for secret in [
            "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
            "VkZ7v6Yx9QmT2bN8sLdR4wKjHcPfGaEu",
            "oKxTbQzRmWnPvYcLdFgHjKsAeUiXqBtZ",
            "5f4dcc3b5aa765d61d8327deb882cf99",
            "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ] {
            for text in
                [format!("token {secret} is unknown"), format!("token=\"{secret}\";"), format!("Bearer:{secret}")]
            {
                let shown = cleaned(&text, &[]);
                assert!(!shown.contains(secret.split_at(8).0) && shown.contains(REMOVED), "{shown}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_what_is_told_is_short_and_says_nothing_that_was_sent(
            status: u16,
            before in ".{0,400}",
            secret in "[a-zA-Z0-9_-]{6,80}",
            after in ".{0,400}",
        ) {
            let (secret, text) = (Sensitive::new(secret.clone()), format!("{before}{secret}{after}"));
            let body = serde_json::json!({"error": "invalid_grant", "error_description": text}).to_string();
            let refusal = read(status, body.as_bytes(), KNOWN, &[&secret]);
            let told = refusal.description.unwrap_or_default();
            prop_assert!(told.chars().count() <= MAX_DESCRIPTION + 1);
            prop_assert!(!told.contains(char::is_control));
            prop_assert!(!told.contains(secret.expose()), "{}", told);
        }
    }
}
