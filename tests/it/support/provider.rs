//! npm oidc-provider, one for each test that asks: an authorization server with dynamic registration, its management with
//! rotation, Client ID Metadata Documents and resource indicators (`tests/servers/README.md` has its options).

use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::Process;
use super::seen::Seen;
use super::{http, testbed, trusted};

/// A running authorization server. Dropping it ends it.
pub(crate) struct Provider {
    /// Ends with it.
    _process: Process,
    issuer: String,
    address: String,
    control: String,
    seen: Seen,
    _folder: TempDir,
}

impl Provider {
    /// Its issuer is its own URL, unless the options name another, such as that of a hop in front of it.
    pub(crate) fn start(options: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("authority.pem");
        std::fs::write(&authority, trusted::authority()).unwrap();
        let mut command = testbed::node("servers/oidc-provider.mjs");
        command.arg(options.to_string()).env("NODE_EXTRA_CA_CERTS", authority);
        let process = Process::start(command);
        let (port, control) = process.wait_stdout("its ports", 0, |line| {
            let ready: Value = serde_json::from_str(line).ok()?;
            Some((ready["ready"].as_u64()?, ready["control"].as_u64()?))
        });
        let address = format!("127.0.0.1:{port}");
        let issuer = options["issuer"].as_str().map_or_else(|| format!("http://{address}"), str::to_owned);
        let seen = Seen::new(process.shared_stdout());
        let control = format!("http://127.0.0.1:{control}");
        Self { _process: process, issuer, address, control, seen, _folder: folder }
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `host:port` where it listens, for a hop in front of it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn control(&self, method: &str, path: &str) -> Option<Value> {
        let url = format!("{}{path}", self.control);
        let answer = http::send(http::split(&url).0, &http::request(method, &url, &[], b""));
        match answer.status {
            404 => None,
            200 => Some(answer.json()),
            status => panic!("{method} {path}: {status} {}", answer.text()),
        }
    }

    /// Every client that it keeps, with all that it knows of them.
    pub(crate) fn clients(&self) -> Vec<Value> {
        self.control("GET", "/clients").unwrap().as_array().unwrap().clone()
    }

    /// Deletes a client behind the back of whoever registered it.
    pub(crate) fn delete_client(&self, client: &str) {
        self.control("DELETE", &format!("/clients/{client}")).expect("a client to delete");
    }

    /// Ends a client's secret now.
    pub(crate) fn expire_secret(&self, client: &str) {
        self.control("POST", &format!("/clients/{client}/expired")).expect("a client with a secret");
    }

    /// Forgets the registration access tokens of a client.
    pub(crate) fn kill_registration_token(&self, client: &str) {
        self.control("DELETE", &format!("/clients/{client}/token")).expect("a client with a token");
    }

    /// A new initial access token (option `initialAccessToken: true`).
    pub(crate) fn initial_access_token(&self) -> String {
        self.control("POST", "/initial-access-tokens").unwrap().as_str().unwrap().to_owned()
    }

    /// Forgets every initial access token.
    pub(crate) fn kill_initial_access_tokens(&self) {
        self.control("DELETE", "/initial-access-tokens").expect("an initial access token");
    }

    /// How many requests of a kind it answered: `registration`, `client` (a read), `client_update`, `client_delete`, `token`,
    /// `authorization`, `discovery`, `jwks`.
    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.control("GET", "/counts").unwrap_or(json!({}))[kind].as_u64().unwrap_or(0)
    }

    /// What it reported.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }
}
