//! What a protected resource asks of its clients: `WWW-Authenticate` (RFC 9110 section 11.6.1) with the scheme `Bearer`
//! (RFC 6750 section 3, RFC 9728 section 5.1).
//!
//! Invariant: a header that cannot be read in one way says nothing; what is handed out are scope tokens and one URL's text,
//! bounded, and nothing of them has been believed yet.

/// The longest header that is read, in bytes.
const MAX_BYTES: usize = 8 * 1024;
/// How many scopes are read.
const MAX_SCOPES: usize = 64;

/// Parameters of a challenge, by name.
type Params<'h> = Vec<(&'h str, String)>;

/// A `Bearer` challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// `error`.
    pub error: Option<String>,
    /// `scope`.
    pub scopes: Vec<String>,
    /// `resource_metadata`.
    pub resource_metadata: Option<String>,
}

impl Challenge {
    /// The first `Bearer` challenge among these header values.
    pub fn read<'h>(values: impl Iterator<Item = &'h [u8]>) -> Option<Self> {
        values
            .filter_map(|value| std::str::from_utf8(value).ok().filter(|text| text.len() <= MAX_BYTES))
            .find_map(|text| challenges(text)?.into_iter().find(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")))
            .map(|(_, params)| Self::of(params))
    }

    fn of(params: Params<'_>) -> Self {
        let mut challenge = Self::default();
        for (name, value) in params {
            match name.to_ascii_lowercase().as_str() {
                "error" => challenge.error = Some(value),
                "resource_metadata" => challenge.resource_metadata = Some(value),
                "scope" => {
                    let scopes = value.split(' ').filter(|scope| is_scope(scope));
                    challenge.scopes = scopes.take(MAX_SCOPES).map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        challenge
    }

    /// The scopes that a request would have needed; empty if that is not what was wrong (RFC 6750 section 3.1).
    pub fn lacking(&self) -> &[String] {
        if self.error.as_deref() == Some("insufficient_scope") { &self.scopes } else { &[] }
    }
}

/// RFC 6749 section 3.3.
fn is_scope(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// All challenges of one header value, each with its parameters; `None` if it cannot be read, or names a parameter twice.
fn challenges(text: &str) -> Option<Vec<(&str, Params<'_>)>> {
    let mut all: Vec<(&str, Params<'_>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(all);
        }
        let (word, after) = token(rest)?;
        let (value, tail) = match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            // Padding of a token68 (`Negotiate abc==`) is no parameter.
            Some(value) if !value.starts_with('=') && !all.is_empty() => {
                value_of(value.trim_start_matches([' ', '\t']))?
            }
            Some(_) => return None,
            None => {
                all.push((word, Vec::new()));
                rest = after;
                continue;
            }
        };
        let (_, params) = all.last_mut()?;
        if params.iter().any(|(name, _)| name.eq_ignore_ascii_case(word)) {
            return None;
        }
        params.push((word, value));
        rest = tail;
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let is_tchar = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_tchar(c)).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(word, _)| !word.is_empty())
}

/// A token or a quoted string, and what follows.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else { return token(text).map(|(word, rest)| (word.to_owned(), rest)) };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if c.is_control() => return None,
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, quoted.get(at + 1..)?)),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Option<Challenge> {
        Challenge::read(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn what_real_servers_send_is_read() {
        let url = "https://up.example/.well-known/oauth-protected-resource/mcp";
        let challenge = read(&[&format!(r#"Bearer error="invalid_token", resource_metadata="{url}""#)]).unwrap();
        assert_eq!(challenge.resource_metadata.as_deref(), Some(url));
        assert!(challenge.lacking().is_empty());
        let step = r#"bearer realm="x, y", scope="files:read files:write" , Error=insufficient_scope"#;
        assert_eq!(read(&[step]).unwrap().lacking(), ["files:read", "files:write"]);
        // Several challenges in one header, or in several.
        let both = format!(r#"Basic realm="a \"b\"", Bearer resource_metadata="{url}", DPoP algs="ES256""#);
        assert_eq!(read(&[&both]).unwrap().resource_metadata.as_deref(), Some(url));
        assert_eq!(read(&["Basic realm=\"x\"", "Bearer"]), Some(Challenge::default()));
    }

    #[test]
    fn what_could_be_read_in_two_ways_says_nothing() {
        for odd in [
            r#"Bearer scope="a", scope="b", error="insufficient_scope""#,
            r#"Bearer error="insufficient_scope"#,
            r#"scope="a", Bearer"#,
            "Negotiate abc==, Bearer error=x",
            "Bearer error=\"a\u{1}b\"",
            "Basic realm=x",
            "\u{e9}",
            "",
        ] {
            assert_eq!(read(&[odd]), None, "{odd}");
        }
        let scopes = (0..1000).map(|n| format!("s{n}")).collect::<Vec<_>>().join(" ");
        let many = format!(r#"Bearer error="insufficient_scope", scope="{scopes}""#);
        assert_eq!(read(&[&many]).unwrap().lacking().len(), MAX_SCOPES);
        assert_eq!(read(&[&format!("Bearer error=\"{}\"", "x".repeat(MAX_BYTES))]), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(text in "\\PC{0,64}", more in "[ ,=\"\\\\a-c]{0,32}") {
            let _ = read(&[&text, &format!("Bearer {more}")]);
        }
    }
}
