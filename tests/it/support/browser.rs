//! A person with a browser, as far as logging in takes one: follows redirects, keeps cookies, fills in the form that a page
//! shows, and stops at the client's redirect URI.

use std::collections::BTreeMap;

use url::Url;

use super::http::{self, Response};

/// Pages and redirects that a login may take.
const STEPS: usize = 20;

/// The person who sits before it, and what it remembers.
pub(crate) struct Browser {
    name: String,
    password: String,
    /// By origin: ports of loopback are different servers.
    cookies: BTreeMap<(String, String), String>,
}

impl Browser {
    pub(crate) fn of(name: &str, password: &str) -> Self {
        Self { name: name.to_owned(), password: password.to_owned(), cookies: BTreeMap::new() }
    }

    /// Opens an authorization request, logs in, consents, and returns the parameters that came back to `redirect_uri`; or
    /// the page on which it ended.
    pub(crate) fn authorize(&mut self, url: &str, redirect_uri: &str) -> Result<BTreeMap<String, String>, Response> {
        let mut at = Url::parse(url).unwrap();
        let mut answer = self.ask("GET", &at, "");
        for _ in 0..STEPS {
            if let Some(location) = answer.header("location") {
                let next = at.join(location).unwrap();
                if next.as_str().starts_with(redirect_uri) {
                    return Ok(next.query_pairs().map(|(name, value)| (name.into(), value.into())).collect());
                }
                at = next;
                answer = self.ask("GET", &at, "");
            } else if let Some((action, fields)) = form(&answer).filter(|_| answer.status == 200) {
                at = at.join(&action).unwrap();
                let body = self.fill_in(fields);
                answer = self.ask("POST", &at, &body);
            } else {
                return Err(answer);
            }
        }
        panic!("{STEPS} steps, and no end at {at}: {answer:?}");
    }

    fn fill_in(&self, fields: Vec<(String, String)>) -> String {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in fields {
            let value = match name.as_str() {
                "login" | "username" => self.name.clone(),
                "password" => self.password.clone(),
                // A page of consent: everything is granted.
                "cancel" | "abort" => continue,
                _ => value,
            };
            body.append_pair(&name, &value);
        }
        body.finish()
    }

    fn ask(&mut self, method: &str, url: &Url, body: &str) -> Response {
        let origin = url.origin().ascii_serialization();
        let mine = self.cookies.iter().filter(|((of, _), _)| *of == origin);
        let cookies = mine.map(|((_, name), value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
        let mut headers = vec![("Accept", "text/html")];
        if !cookies.is_empty() {
            headers.push(("Cookie", &cookies));
        }
        if !body.is_empty() {
            headers.push(("Content-Type", "application/x-www-form-urlencoded"));
        }
        let answer =
            http::send(http::split(url.as_str()).0, &http::request(method, url.as_str(), &headers, body.as_bytes()));
        for (_, line) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
            let pair = line.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.cookies.insert((origin.clone(), name.to_owned()), value.to_owned());
            }
        }
        answer
    }
}

/// Where the first form of a page goes, and its fields with what stands in them.
fn form(page: &Response) -> Option<(String, Vec<(String, String)>)> {
    let text = page.text().replace(['\n', '\r', '\t'], " ");
    let (_, rest) = text.split_once("<form")?;
    let (form, _) = rest.split_once("</form>")?;
    let action = attribute(form.split_once('>')?.0, "action")?;
    let mut fields = Vec::new();
    for tag in ["<input", "<button"] {
        for (_, field) in form.match_indices(tag).map(|(at, _)| form.split_at(at)) {
            let field = field.split_once('>').map_or(field, |(field, _)| field);
            if let Some(name) = attribute(field, "name") {
                fields.push((name, attribute(field, "value").unwrap_or_default()));
            }
        }
    }
    Some((action, fields))
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    Some(value.replace("&amp;", "&").replace("&#x3D;", "="))
}
