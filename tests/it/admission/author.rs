//! What somebody is answered who writes or deletes an object: all of it, as the API server sends it.

use kube::Client;
use kube::api::{Api, DynamicObject};
use serde_json::Value;

use crate::support::kube::api;
use crate::support::runtime;

/// What an author does.
#[derive(Clone, Copy)]
pub(super) enum Deed<'a> {
    /// Server-side apply; or create, if the name is to be generated.
    Write(&'a Value),
    Delete(&'a Value),
}

/// What an author is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    /// Why it is refused.
    pub(super) message: String,
    pub(super) warnings: Vec<String>,
}

impl Answer {
    pub(super) fn is_taken(&self) -> bool {
        self.code < 300
    }
}

/// Does it. `id`: of its entry in the API server's audit log.
pub(super) fn done(author: &Client, deed: Deed<'_>, id: &str) -> Answer {
    asked(author, deed, id, "")
}

/// Does it for nothing but the answer.
pub(super) fn tried(author: &Client, deed: Deed<'_>, id: &str) -> Answer {
    asked(author, deed, id, "&dryRun=All")
}

fn asked(author: &Client, deed: Deed<'_>, id: &str, how: &str) -> Answer {
    let (Deed::Write(object) | Deed::Delete(object)) = deed;
    let url = api_of(author, object).resource_url().to_owned();
    let name = object["metadata"]["name"].as_str();
    let (method, url, kind, body) = match (deed, name) {
        (Deed::Delete(_), name) => {
            ("DELETE", format!("{url}/{}?{how}", name.unwrap()), "application/json", String::new())
        }
        (Deed::Write(object), Some(name)) => {
            let url = format!("{url}/{name}?force=true&fieldManager=tests{how}");
            ("PATCH", url, "application/apply-patch+yaml", object.to_string())
        }
        (Deed::Write(object), None) => ("POST", format!("{url}?{how}"), "application/json", object.to_string()),
    };
    let request = http::Request::builder().method(method).uri(url).header("Content-Type", kind).header("Audit-ID", id);
    runtime().block_on(async {
        let response = author.send(request.body(body.into_bytes().into()).unwrap()).await.unwrap();
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let answer: Value = serde_json::from_slice(&response.into_body().collect_bytes().await.unwrap()).unwrap();
        let warnings = headers.get_all("warning").iter().map(|warning| unquoted(warning.to_str().unwrap()));
        let message = answer["message"].as_str().filter(|_| code >= 300).unwrap_or_default().to_owned();
        Answer { code, message, warnings: warnings.collect() }
    })
}

/// The text of a `Warning` header (RFC 9111, 5.5).
fn unquoted(warning: &str) -> String {
    let text = warning.strip_prefix("299 - \"").and_then(|rest| rest.strip_suffix('"')).unwrap();
    text.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// The objects of the kind and namespace of one.
pub(super) fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (version, kind) = (text(&object["apiVersion"]).unwrap(), text(&object["kind"]).unwrap());
    api(client, &version, &kind, object["metadata"]["namespace"].as_str())
}
