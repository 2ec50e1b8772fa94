//! `docs/compatibility.md`, from the table and from what is pinned: it names no version that the tests do not run.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::controller::registrations::boundaries;

use super::table::{Client, Outcome, Row, Server, table};

/// The notes of a page, in the order in which they are first referred to.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn cell(&mut self, outcome: &Outcome) -> String {
        match outcome {
            Outcome::Works(_) => "works".to_owned(),
            Outcome::Fails { error, why } => {
                let note = format!("{why} The client says: `{error}`");
                let known = self.0.iter().position(|other| *other == note).unwrap_or_else(|| {
                    self.0.push(note);
                    self.0.len() - 1
                });
                format!("no ({})", known + 1)
            }
        }
    }

    fn write(self, page: &mut String) {
        if !self.0.is_empty() {
            page.push('\n');
        }
        for (number, note) in self.0.iter().enumerate() {
            writeln!(page, "{}. {note}", number + 1).unwrap();
        }
    }
}

/// The page.
pub(crate) fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    for client in Client::ALL {
        writeln!(page, "| {} | {} |", client.title(), version_of_client(client)).unwrap();
    }
    for server in Server::ALL {
        writeln!(page, "| {} | {} |", server.title(), version_of_server(server)).unwrap();
    }
    let rows = table();
    log_ins(&mut page, &rows);
    step_ups(&mut page, &rows);
    page.push_str(DYING);
    page.push_str(&boundaries::rows());
    page
}

fn log_ins(page: &mut String, rows: &[Row]) {
    page.push_str(LOGGING_IN);
    let mut notes = Notes::default();
    for row in rows {
        let outcomes = [&row.dynamic, &row.document, &row.given, &row.no_scopes].map(|outcome| notes.cell(outcome));
        writeln!(page, "| {} | {} | {} |", row.client.title(), row.server.title(), outcomes.join(" | ")).unwrap();
    }
    notes.write(page);
}

fn step_ups(page: &mut String, rows: &[Row]) {
    page.push_str(STEPPING_UP);
    let mut notes = Notes::default();
    for row in rows {
        let ways = [&row.step_up, &row.step_up_document, &row.step_up_without_refresh, &row.step_up_dynamic];
        let stepped = ways.map(|outcome| notes.cell(outcome));
        let asks = if row.withheld.asks == 1 { "asks once" } else { "does not ask" };
        let ends = if row.withheld.ends { "ends" } else { "goes on" };
        let ends = format!("{asks}, says `{}`, {ends}", row.withheld.error);
        let (client, server) = (row.client.title(), row.server.title());
        writeln!(page, "| {client} | {server} | {} | {ends} |", stepped.join(" | ")).unwrap();
    }
    notes.write(page);
}

fn pinned(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn npm(package: &str) -> String {
    let pins: Value = serde_json::from_str(&pinned("hack/testbed/npm/package.json")).unwrap();
    pins["dependencies"][package].as_str().unwrap().to_owned()
}

/// What follows `before` in a file, to the end of the line or a quote.
fn after(path: &str, before: &str) -> String {
    let text = pinned(path);
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{path} has no {before}"));
    rest.split(['\n', '"']).next().unwrap().to_owned()
}

fn version_of_client(client: Client) -> String {
    match client {
        Client::Npm1 => npm("@modelcontextprotocol/sdk"),
        Client::Npm2 => npm("@modelcontextprotocol/client"),
        Client::Pypi1 => after("hack/testbed/python/mcp1.in", "mcp=="),
        Client::Pypi2 => after("hack/testbed/python/mcp2.in", "mcp=="),
        Client::Rmcp => after("Cargo.lock", "name = \"rmcp\"\nversion = \""),
    }
}

fn version_of_server(server: Server) -> String {
    match server {
        Server::Keycloak => after("hack/testbed/keycloak/install", "\nversion="),
        Server::OidcProvider => npm("oidc-provider"),
    }
}

const INTRODUCTION: &str = "\
# Compatibility

What released MCP clients do at real authorization servers, with a governed server between. Each is used as its own documentation
says, in the newest revision that it knows, and is told the URL of the server and nothing else, beside an id where that was
registered before. Generated from `tests/clients/compatibility.yaml`; the tests hold every cell to what happens, errors included.
[connect.md](connect.md) says how to set such a pair up.

| | version |
|---|---|
";

const LOGGING_IN: &str = "
## Logging in

From the first 401 to a governed call: protected-resource metadata, the authorization server's metadata, an id, a code with PKCE for
the resource, a token for the resource. *Registers itself*: Dynamic Client Registration (RFC 7591). *Document*: a Client ID Metadata
Document of the client's own. *Registered before*: an administrator did, and told the client its id. *Without scopes*: the client
registers itself, and the McpServer asks for no scopes.

| client | authorization server | registers itself | document | registered before | without scopes |
|---|---|---|---|---|---|
";

const DYING: &str = "
## A controller that dies

What an McpClient has at its authorization server after the controller was killed at each step of a deed, and another one has gone on:
before a request about it arrives at the server, after the server has answered, and the same for each write to the API server. *One*:
exactly one client bears our mark, and its credentials work. *Told of*: where the answer that went astray had the id or the token by
which alone a client could be found (RFC 7591, RFC 7592), it may be left; then the condition `Orphaned`, an event and a metric say so. The
number is that of the places at which the controller is killed: `make soak` takes each of them, `make test` some.

| deed | npm `oidc-provider`, DCR | Keycloak, DCR | Keycloak, administrative API |
|---|---|---|---|
";

const STEPPING_UP: &str = "
## Getting a scope that is missing

Two tools take one scope each that the client did not ask for at first (`authorization.scopes.tools`). *Works*: one authorization
request for each, and both tools can be called from then on. Where it does not work, there are no more authorization requests than
that either: no client asks a person on and on. *No refresh*: with a document in whose `grant_types` there is no `refresh_token`; in
all others there is. The last column is about a person who does not get the scope: nobody is asked twice for one call.

| client | authorization server | registered before | document | document, no refresh | registers itself | if the person does not get it |
|---|---|---|---|---|---|---|
";
