//! Requests to a token endpoint, and its answers (RFC 6749 sections 4.4 and 5, RFC 8693, RFC 7523, RFC 8707).
//!
//! Invariant: a request is sensitive as a whole; an answer is a [`Token`] only if it is one unambiguous document with a
//! token that can be sent as it is, as `Bearer`. A refresh token is not kept: the gateway asks anew.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::document::{Document, Malformed};
use super::json::JsonError;
use super::refusal::{self, Refusal, RefusalKind};
use crate::sensitive::Sensitive;

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// RFC 8693 section 3.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// The longest accepted answer, in bytes.
const MAX_BYTES: usize = 64 * 1024;
const MAX_TOKEN: usize = 16 * 1024;
const MAX_TYPE: usize = 256;
const MAX_SCOPES: usize = 1000;

/// How a client says who it is (RFC 6749 section 2.3): a value for the `Authorization` header, or parameters of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// The value of the `Authorization` header.
    pub header: Option<Sensitive>,
    /// Parameters of the body.
    pub params: Vec<(&'static str, Sensitive)>,
}

impl Authentication {
    /// `client_secret_basic`: id and secret are form-encoded before they are joined (RFC 6749 section 2.3.1), since either
    /// may hold a colon.
    pub fn client_secret_basic(client_id: &str, secret: &Sensitive) -> Self {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", encoded(client_id), encoded(secret.expose()));
        let header = Sensitive::new(format!("Basic {}", BASE64_STANDARD.encode(pair)));
        Self { header: Some(header), params: Vec::new() }
    }

    /// `client_secret_post`.
    pub fn client_secret_post(client_id: &str, secret: &Sensitive) -> Self {
        Self { header: None, params: vec![("client_id", Sensitive::new(client_id)), ("client_secret", secret.clone())] }
    }

    /// `private_key_jwt` (RFC 7523 section 2.2). The id is said too: the assertion is enough (RFC 7521 section 4.2), but
    /// some servers look for the client before they look at it.
    pub fn private_key_jwt(client_id: &str, assertion: &Sensitive) -> Self {
        let params = vec![
            ("client_id", Sensitive::new(client_id)),
            ("client_assertion_type", Sensitive::new(ASSERTION_TYPE)),
            ("client_assertion", assertion.clone()),
        ];
        Self { header: None, params }
    }

    /// `none`: a public client.
    pub fn none(client_id: &str) -> Self {
        Self { header: None, params: vec![("client_id", Sensitive::new(client_id))] }
    }
}

/// What a token is to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access<'a> {
    /// Where it is to be accepted (RFC 8707 section 2).
    pub resources: &'a [String],
    /// Its scopes; none leaves them to the server.
    pub scopes: &'a [String],
}

/// The body of a request for a token of the client's own (RFC 6749 section 4.4.2).
pub fn client_credentials(access: Access<'_>, client: &Authentication) -> Sensitive {
    form("client_credentials", &[], access, client)
}

/// The body of a request to exchange an access token for one that is accepted elsewhere (RFC 8693 section 2.1).
/// `audience` is the other side's name at the server, where it goes by names rather than by URLs.
pub fn token_exchange(
    subject_token: &Sensitive,
    audience: Option<&str>,
    access: Access<'_>,
    client: &Authentication,
) -> Sensitive {
    let mut params = vec![
        ("subject_token", subject_token.expose()),
        ("subject_token_type", ACCESS_TOKEN),
        ("requested_token_type", ACCESS_TOKEN),
    ];
    params.extend(audience.map(|audience| ("audience", audience)));
    form(TOKEN_EXCHANGE, &params, access, client)
}

/// The body of a request for a token that somebody else vouches for (RFC 7523 section 2.1).
pub fn jwt_bearer(assertion: &Sensitive, access: Access<'_>, client: &Authentication) -> Sensitive {
    form(JWT_BEARER, &[("assertion", assertion.expose())], access, client)
}

fn form(grant_type: &str, params: &[(&str, &str)], access: Access<'_>, client: &Authentication) -> Sensitive {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", grant_type).extend_pairs(params);
    form.extend_pairs(access.resources.iter().map(|resource| ("resource", resource)));
    if !access.scopes.is_empty() {
        form.append_pair("scope", &access.scopes.join(" "));
    }
    form.extend_pairs(client.params.iter().map(|(name, value)| (name, value.expose())));
    Sensitive::new(form.finish())
}

/// Why an answer holds no token that can be used. Carries none of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than 64 KiB.
    #[error("the token endpoint's answer is longer than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not strict JSON.
    #[error("the token endpoint's answer is unreadable: {0}")]
    Json(#[from] JsonError),
    /// A required member is missing.
    #[error("the token endpoint's answer has no `{0}`")]
    Missing(&'static str),
    /// A member has the wrong type, is too long, or has characters that it cannot have.
    #[error("the token endpoint's answer has a malformed `{0}`")]
    Malformed(&'static str),
    /// A token that is not sent as it is.
    #[error("the token endpoint gave a token that is not of type Bearer, which this gateway cannot use")]
    NotBearer,
}

impl TokenError {
    /// A stable word for conditions and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            TokenError::TooLarge => "TokenAnswerTooLarge",
            TokenError::Json(error) => error.reason(),
            TokenError::Missing(_) => "TokenAnswerIncomplete",
            TokenError::Malformed(_) => "TokenAnswerMalformed",
            TokenError::NotBearer => "TokenNotBearer",
        }
    }
}

/// An access token, and what its server says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub access_token: Sensitive,
    /// When it expires (Unix seconds), if that was said.
    pub expires_at: Option<i64>,
    /// Its scopes; `None` says that they are those that were asked for (RFC 6749 section 5.1).
    pub scopes: Option<Vec<String>>,
    /// What kind of token an exchange gave (RFC 8693 section 2.2.1).
    pub issued_token_type: Option<String>,
}

/// Reads an answer with status 200 that came at `now` (Unix seconds).
///
/// # Errors
/// If it is not one unambiguous document with a bearer token.
pub fn parse_token(body: &[u8], now: i64) -> Result<Token, TokenError> {
    if body.len() > MAX_BYTES {
        return Err(TokenError::TooLarge);
    }
    let document = Document::read(body)?;
    let token_type = text(&document, "token_type", MAX_TYPE)?.ok_or(TokenError::Missing("token_type"))?;
    // RFC 6749 section 5.1: in any case.
    if !token_type.eq_ignore_ascii_case("bearer") {
        return Err(TokenError::NotBearer);
    }
    let token = text(&document, "access_token", MAX_TOKEN)?.ok_or(TokenError::Missing("access_token"))?;
    // RFC 6750 section 2.1: anything else would end the header, or be cut there.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenError::Malformed("access_token"));
    }
    Ok(Token {
        access_token: Sensitive::new(token),
        expires_at: document.seconds("expires_in")?.map(|seconds| now.saturating_add(seconds)),
        scopes: scopes(&document)?,
        issued_token_type: text(&document, "issued_token_type", MAX_TYPE)?.map(str::to_owned),
    })
}

impl From<Malformed> for TokenError {
    fn from(Malformed(member): Malformed) -> Self {
        TokenError::Malformed(member)
    }
}

fn text<'d>(document: &'d Document, name: &'static str, longest: usize) -> Result<Option<&'d str>, TokenError> {
    match document.text(name)? {
        Some(text) if !(1..=longest).contains(&text.len()) => Err(TokenError::Malformed(name)),
        text => Ok(text),
    }
}

/// An empty text is no scope at all, which is not the scope that was asked for.
fn scopes(document: &Document) -> Result<Option<Vec<String>>, TokenError> {
    let Some(text) = document.text("scope")? else { return Ok(None) };
    let scopes: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
    if scopes.len() > MAX_SCOPES { Err(TokenError::Malformed("scope")) } else { Ok(Some(scopes)) }
}

/// RFC 6749 sections 5.2 and 4.1.2.1 (the last two), and RFC 8707 section 2.
const REFUSALS: &[(&str, RefusalKind)] = &[
    ("invalid_request", RefusalKind::Terminal),
    ("invalid_client", RefusalKind::Credential),
    ("invalid_grant", RefusalKind::Terminal),
    ("unauthorized_client", RefusalKind::Terminal),
    ("unsupported_grant_type", RefusalKind::Terminal),
    ("invalid_scope", RefusalKind::Terminal),
    ("invalid_target", RefusalKind::Terminal),
    ("server_error", RefusalKind::Later),
    ("temporarily_unavailable", RefusalKind::Later),
];

/// Reads the answer to a request for a token that did not succeed. `sent` are the secrets that the request carried: none
/// of them is repeated.
pub fn refusal(status: u16, body: &[u8], sent: &[&Sensitive]) -> Refusal {
    refusal::read(status, body, REFUSALS, sent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const NOTHING: Access<'_> = Access { resources: &[], scopes: &[] };

    fn pairs(body: &Sensitive) -> Vec<(String, String)> {
        url::form_urlencoded::parse(body.expose().as_bytes()).into_owned().collect()
    }

    fn owned(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn token(body: &Value) -> Result<Token, TokenError> {
        parse_token(body.to_string().as_bytes(), NOW)
    }

    #[test]
    fn each_grant_says_what_its_specification_asks_for() {
        let resources = ["https://mcp.example/a?b=c&d".to_owned(), "https://mcp.example/e".to_owned()];
        let scopes = ["mcp:use".to_owned(), "mcp:admin".to_owned()];
        let access = Access { resources: &resources, scopes: &scopes };
        let client = Authentication::none("c");
        let common = [
            ("resource", &*resources[0]),
            ("resource", &*resources[1]),
            ("scope", "mcp:use mcp:admin"),
            ("client_id", "c"),
        ];
        let with = |own: &[(&str, &str)]| owned(&[own, &common].concat());
        assert_eq!(pairs(&client_credentials(access, &client)), with(&[("grant_type", "client_credentials")]));
        let exchange = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", "theirs"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", "upstream"),
        ];
        let theirs = Sensitive::new("theirs");
        assert_eq!(pairs(&token_exchange(&theirs, Some("upstream"), access, &client)), with(&exchange));
        assert_eq!(pairs(&token_exchange(&theirs, None, access, &client)), with(&exchange[..4]));
        let bearer = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", "theirs")];
        assert_eq!(pairs(&jwt_bearer(&theirs, access, &client)), with(&bearer));
        assert_eq!(client_credentials(NOTHING, &client).expose(), "grant_type=client_credentials&client_id=c");
    }

    #[test]
    fn a_client_says_who_it_is_in_one_way() {
        let secret = Sensitive::new("7Fjfp0ZBr1KtDRbnfVdmIw");
        // RFC 6749 section 2.3.1.
        let basic = Authentication::client_secret_basic("s6BhdRkqt3", &secret);
        assert_eq!(basic.header.as_ref().unwrap().expose(), "Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3");
        assert_eq!(client_credentials(NOTHING, &basic).expose(), "grant_type=client_credentials");
        let post = Authentication::client_secret_post("s6BhdRkqt3", &secret);
        let expected = [("client_id", "s6BhdRkqt3"), ("client_secret", "7Fjfp0ZBr1KtDRbnfVdmIw")];
        assert_eq!(pairs(&client_credentials(NOTHING, &post))[1..], owned(&expected));
        let jwt = Authentication::private_key_jwt("s6BhdRkqt3", &Sensitive::new("e30.e30.AA"));
        let expected = [
            ("client_id", "s6BhdRkqt3"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", "e30.e30.AA"),
        ];
        assert_eq!(pairs(&client_credentials(NOTHING, &jwt))[1..], owned(&expected));
        assert!([&post, &jwt].iter().all(|authentication| authentication.header.is_none()));
        let shown = format!("{basic:?} {post:?} {jwt:?} {:?}", client_credentials(NOTHING, &post));
        assert!(!["7Fjfp", "czZC", "e30"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }

    #[test]
    fn id_and_secret_are_encoded_before_they_are_joined() {
        let odd = Authentication::client_secret_basic("https://gw.example/c:1", &Sensitive::new("a b+%:ü"));
        let header = odd.header.unwrap();
        let decoded = BASE64_STANDARD.decode(header.expose().strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(String::from_utf8(decoded).unwrap(), "https%3A%2F%2Fgw.example%2Fc%3A1:a+b%2B%25%3A%C3%BC");
    }

    #[test]
    fn the_examples_of_the_specifications_are_read() {
        // RFC 6749 section 5.1; the refresh token is not kept.
        let issued = token(&json!({
            "access_token": "2YotnFZFEjr1zCsicMWpAA", "token_type": "example", "expires_in": 3600,
            "refresh_token": "tGzv3JOkF0XG5Qx2TlKWIA", "example_parameter": "example_value",
        }));
        assert_eq!(issued, Err(TokenError::NotBearer));
        // RFC 8693 section 2.3.
        let exchanged = token(&json!({
            "access_token": "eyJhbGciOiJFUzI1NiIsImtpZCI6IjllciJ9.e30.AA", "token_type": "bEARER", "expires_in": 60,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }));
        let expected = Token {
            access_token: Sensitive::new("eyJhbGciOiJFUzI1NiIsImtpZCI6IjllciJ9.e30.AA"),
            expires_at: Some(NOW + 60),
            scopes: None,
            issued_token_type: Some("urn:ietf:params:oauth:token-type:access_token".to_owned()),
        };
        assert_eq!(exchanged, Ok(expected.clone()));
        assert!(!format!("{expected:?}").contains("eyJ"));
    }

    #[test]
    fn what_is_not_said_is_not_known() {
        let bare =
            token(&json!({"access_token": "t", "token_type": "Bearer", "expires_in": null, "scope": null})).unwrap();
        assert_eq!((bare.expires_at, bare.scopes, bare.issued_token_type), (None, None, None));
        let scopes = |scope: &str| {
            token(&json!({"access_token": "t", "token_type": "Bearer", "scope": scope})).unwrap().scopes.unwrap()
        };
        assert_eq!(scopes("a  b"), ["a", "b"]);
        assert_eq!(scopes(""), Vec::<String>::new(), "no scope is not the scope that was asked for");
        let gone = token(&json!({"access_token": "t", "token_type": "Bearer", "expires_in": i64::MAX})).unwrap();
        assert_eq!(gone.expires_at, Some(i64::MAX));
    }

    #[test]
    fn hostile_answers_are_refused_and_not_repeated() {
        for (name, value, reason) in [
            ("access_token", json!(null), "TokenAnswerIncomplete"),
            ("access_token", json!(""), "TokenAnswerMalformed"),
            ("access_token", json!(["canary"]), "TokenAnswerMalformed"),
            ("access_token", json!("canary\r\nX-Evil: 1"), "TokenAnswerMalformed"),
            ("access_token", json!("canary canary"), "TokenAnswerMalformed"),
            ("access_token", json!("canary\u{fc}"), "TokenAnswerMalformed"),
            ("access_token", json!("a".repeat(16 * 1024 + 1)), "TokenAnswerMalformed"),
            ("access_token", json!("a".repeat(64 * 1024)), "TokenAnswerTooLarge"),
            ("token_type", json!(null), "TokenAnswerIncomplete"),
            ("token_type", json!("DPoP"), "TokenNotBearer"),
            ("token_type", json!("N_A"), "TokenNotBearer"),
            ("token_type", json!({"canary": 1}), "TokenAnswerMalformed"),
            ("expires_in", json!("3600"), "TokenAnswerMalformed"),
            ("expires_in", json!(-1), "TokenAnswerMalformed"),
            ("expires_in", json!(1.5), "TokenAnswerMalformed"),
            ("scope", json!(["canary"]), "TokenAnswerMalformed"),
            ("scope", json!("a ".repeat(MAX_SCOPES + 1)), "TokenAnswerMalformed"),
            ("issued_token_type", json!("x".repeat(257)), "TokenAnswerMalformed"),
            ("x", json!([[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]), "JsonTooDeep"),
        ] {
            let mut body = json!({"access_token": "canary", "token_type": "Bearer"});
            body[name] = value;
            let error = token(&body).unwrap_err();
            assert_eq!(error.reason(), reason, "{name}");
            assert!(!format!("{error} {error:?}").contains("canary"));
        }
        let twice = br#"{"access_token":"a","token_type":"Bearer","access_token":"b"}"#;
        assert_eq!(parse_token(twice, NOW), Err(TokenError::Json(JsonError::DuplicateMember)));
        assert_eq!(parse_token(b"access_token=a&token_type=bearer", NOW), Err(TokenError::Json(JsonError::Malformed)));
    }

    #[test]
    fn refusals_are_told_apart() {
        use RefusalKind::*;
        for (status, error, kind) in [
            (401, "invalid_client", Credential),
            (400, "invalid_client", Credential),
            (400, "invalid_grant", Terminal),
            (400, "invalid_scope", Terminal),
            (400, "invalid_target", Terminal),
            (400, "unauthorized_client", Terminal),
            (401, "unauthorized_client", Credential),
            (400, "temporarily_unavailable", Later),
            (429, "invalid_client", Later),
        ] {
            let body = json!({"error": error, "error_description": "client canary is unknown"}).to_string();
            let refusal = refusal(status, body.as_bytes(), &[&Sensitive::new("canary")]);
            assert_eq!((refusal.kind, refusal.error), (kind, Some(error)));
            assert_eq!(refusal.description.as_deref(), Some("client [removed] is unknown"));
        }
        assert_eq!(refusal(400, br#"{"error":"invalid_token"}"#, &[]).error, None, "not a code of this endpoint");
    }

    proptest! {
        #[test]
        fn whatever_is_put_into_a_request_comes_out_of_it(
            id in ".{0,20}", secret in ".{0,20}", resource in ".{1,20}", scope in "[!#-\\[\\]-~]{1,10}",
        ) {
            let client = Authentication::client_secret_post(&id, &Sensitive::new(secret.clone()));
            let (resources, scopes) = ([resource.clone()], [scope.clone()]);
            let body = client_credentials(Access { resources: &resources, scopes: &scopes }, &client);
            let expected = [
                ("grant_type", "client_credentials"), ("resource", &resource), ("scope", &scope),
                ("client_id", &id), ("client_secret", &secret),
            ];
            prop_assert_eq!(pairs(&body), owned(&expected));
        }

        #[test]
        fn arbitrary_answers_give_no_token_that_cannot_be_sent(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(token) = parse_token(&body, NOW) {
                prop_assert!(http::HeaderValue::from_str(token.access_token.expose()).is_ok());
            }
        }
    }
}
