//! What a stock client needs to come to a token by itself: how it is known to the authorization server, and a person before
//! the browser that it opens.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use url::Url;

use super::browser::Browser;

/// Where clients on a person's machine take what comes back. Nobody listens there: [`Browser`] stops before.
pub(crate) const REDIRECT: &str = "http://127.0.0.1:7777/callback";

/// A client's way to a token.
pub(crate) struct Login {
    browser: Browser,
    /// An id that somebody registered before, with its secret if it has one.
    pub(crate) client: Option<Value>,
    /// Where the client's own metadata document is.
    pub(crate) document: Option<String>,
    /// The grants that it registers for.
    pub(crate) grants: &'static [&'static str],
    opened: Opened,
}

/// Every authorization request that a client sent its person to, in order.
pub(crate) type Opened = Arc<Mutex<Vec<Url>>>;

impl Login {
    /// Of a client that is known by nothing yet, and would keep a token fresh.
    pub(crate) fn of(browser: Browser) -> Self {
        let grants = &["authorization_code", "refresh_token"];
        Self { browser, client: None, document: None, grants, opened: Opened::default() }
    }

    /// As `tests/clients/README.md` has it.
    pub(crate) fn told(&self) -> Value {
        let mut told = json!({"redirect": REDIRECT, "grants": self.grants});
        for (name, value) in [("client", self.client.clone()), ("document", self.document.clone().map(Value::from))] {
            if let Some(value) = value {
                told[name] = value;
            }
        }
        told
    }

    /// The person opens this URL, and does what the pages want: the URL that comes back to the client, or the words of the
    /// page that it ended on.
    pub(crate) fn open(&mut self, url: &str) -> Result<String, String> {
        self.opened.lock().unwrap().push(Url::parse(url).unwrap());
        match self.browser.authorize(url, REDIRECT) {
            Ok(back) => Ok(Url::parse_with_params(REDIRECT, back).unwrap().into()),
            Err(page) => Err(format!("{} {}", page.status, words(&page.text()))),
        }
    }

    /// What outlives the client.
    pub(crate) fn opened(&self) -> Opened {
        self.opened.clone()
    }
}

/// The text of a page without its markup.
fn words(page: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for character in page.chars() {
        match character {
            '<' => inside = true,
            '>' => (inside, text) = (false, text + " "),
            other if !inside => text.push(other),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
