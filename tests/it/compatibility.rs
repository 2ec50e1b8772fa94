//! Stock clients log a person in by their own OAuth, at real authorization servers, with nothing but the URL of a governed
//! server: 401, protected-resource metadata, the authorization server's metadata, registration, a code with PKCE for the
//! resource, a token, a call. What `docs/compatibility.md` says of each is what happens here.

mod house;
pub(crate) mod page;
pub(crate) mod table;

use std::sync::Arc;

use serde_json::json;

use self::house::{House, house};
use self::table::{Client, Outcome, Refresh, Row, Server, Way, Withheld, Works};
use crate::support::client::{self, Failure, echoed};
use crate::support::login::Opened;

/// A client at a server.
struct Pair {
    client: Client,
    house: Arc<House>,
    name: String,
    /// Where the table is wrong.
    wrong: Vec<String>,
}

/// Holds a row of the table to what happens.
fn log_in(client: Client, server: Server) {
    let row = table::row(client, server);
    let name = format!("{client:?}-{server:?}");
    let mut pair = Pair { client, house: house(server), name, wrong: Vec::new() };
    pair.reaches_all(&row);
    pair.steps_up_all(&row);
    pair.is_withheld_as(&row.withheld);
    assert!(pair.wrong.is_empty(), "{}: {:#?}", pair.name, pair.wrong);
}

impl Pair {
    fn reaches_all(&mut self, row: &Row) {
        let (scoped, open) = (self.house.url(), self.house.open());
        for (what, said, way, url) in [
            ("dynamic", &row.dynamic, Way::Dynamic, &scoped),
            ("document", &row.document, Way::Document, &scoped),
            ("given", &row.given, Way::Given, &scoped),
            ("noScopes", &row.no_scopes, Way::Dynamic, &open),
        ] {
            let reached = self.reaches(url, way);
            self.compare(what, said, &reached);
        }
    }

    fn steps_up_all(&mut self, row: &Row) {
        for (what, said, way, refresh) in [
            ("stepUp", &row.step_up, Way::Given, Refresh::IfTheServerLikes),
            ("stepUpDocument", &row.step_up_document, Way::Document, Refresh::IfTheServerLikes),
            ("stepUpWithoutRefresh", &row.step_up_without_refresh, Way::Document, Refresh::Never),
            ("stepUpDynamic", &row.step_up_dynamic, Way::Dynamic, Refresh::IfTheServerLikes),
        ] {
            let stepped = self.steps_up(way, refresh);
            self.compare(what, said, &stepped);
        }
    }

    fn compare(&mut self, what: &str, said: &Outcome, found: &Result<(), Failure>) {
        let agrees = match (said, found) {
            (Outcome::Works(Works::Works), Ok(())) => true,
            (Outcome::Fails { error, .. }, Err(failure)) => failure.message.contains(error),
            _ => false,
        };
        if !agrees {
            self.wrong.push(format!("{what}: the table says {said:?}, and it is {found:?}"));
        }
    }

    /// From nothing to an answer of the governed server, with one authorization request.
    fn reaches(&self, url: &str, way: Way) -> Result<(), Failure> {
        let login = self.house.login(way, &format!("{}-{way:?}", self.name), "ana", Refresh::IfTheServerLikes);
        let opened = login.opened();
        let logged_in = client::Client::log_in(self.client.stock(), url, login);
        self.asked_at_most(&opened, url, 1);
        let mut client = logged_in?;
        let called = client.call("echo", &json!({"message": self.name}));
        self.asked_at_most(&opened, url, 1);
        let result = called?;
        assert_eq!(echoed(&result)["arguments"]["message"], self.name);
        self.asked(&opened, url, 1);
        client.close();
        Ok(())
    }

    /// Two tools take a scope each that nobody asked for at first: each is got once, and both are kept. Where that fails, the
    /// person was asked no more often than that, either.
    fn steps_up(&self, way: Way, refresh: Refresh) -> Result<(), Failure> {
        let login = self.house.login(way, &format!("{}-{way:?}-{refresh:?}-more", self.name), "ana", refresh);
        let (opened, url) = (login.opened(), self.house.url());
        let logged_in = client::Client::log_in(self.client.stock(), &url, login);
        self.asked_at_most(&opened, &url, 1);
        let mut client = logged_in?;
        for (tool, requests) in [("echo", 1), ("delete_item", 2), ("create_item", 3), ("delete_item", 3), ("echo", 3)] {
            let called = client.call(tool, &json!({"id": "1", "name": "x"}));
            self.asked_at_most(&opened, &url, requests);
            let result = called?;
            assert_eq!(echoed(&result)["tool"], tool, "{}", self.name);
            self.asked(&opened, &url, requests);
        }
        client.close();
        Ok(())
    }

    /// A person who does not get a scope is asked at most once for a call, and may go on with what that scope is not for.
    fn is_withheld_as(&mut self, said: &Withheld) {
        let login = self.house.login(Way::Given, &format!("{}-less", self.name), "ben", Refresh::IfTheServerLikes);
        let (opened, url) = (login.opened(), self.house.url());
        let mut client = client::Client::log_in(self.client.stock(), &url, login).unwrap();
        client.call("echo", &json!({})).unwrap();
        let failure = client.call("delete_item", &json!({"id": "1"})).unwrap_err();
        let asks = opened.lock().unwrap().len() - 1;
        if !failure.message.contains(&said.error) || asks != said.asks {
            self.wrong.push(format!("withheld: the table says {said:?}, and it is {failure:?} after {asks}"));
        }
        assert!(asks <= 1, "{}", self.name);
        if !said.ends {
            client.call("echo", &json!({})).unwrap();
            client.close();
        }
        self.asked(&opened, &url, 1 + asks);
    }

    /// Whatever became of it, so many authorization requests were made at most, and all of them are known.
    fn asked_at_most(&self, opened: &Opened, resource: &str, most: usize) {
        let times = opened.lock().unwrap().len();
        assert!(times <= most, "{}: {times} authorization requests", self.name);
        if times > 0 {
            self.asked(opened, resource, times);
        }
    }

    /// Every authorization request was for the resource, and so many came to the server.
    fn asked(&self, opened: &Opened, resource: &str, times: usize) {
        let opened = opened.lock().unwrap();
        let parameter = |name: &str| -> Vec<String> {
            let of =
                |url: &url::Url| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
            opened.iter().map(|url| of(url).unwrap_or_default()).collect()
        };
        assert_eq!(parameter("resource"), vec![resource; times], "{}", self.name);
        assert_eq!(parameter("code_challenge_method"), vec!["S256"; times], "{}", self.name);
        assert_eq!(self.house.authorizations(&parameter("client_id")[0]), times, "{}", self.name);
    }
}

#[test]
fn every_client_has_one_row_for_every_server() {
    let pairs: Vec<_> = table::table().iter().map(|row| (row.client, row.server)).collect();
    let all: Vec<_> = Client::ALL.into_iter().flat_map(|client| Server::ALL.map(|server| (client, server))).collect();
    assert_eq!(pairs, all);
}

/// Who asks it for an authorization server's metadata, as clients of 2025-03-26 do, is sent nowhere.
#[test]
fn the_gateway_passes_itself_off_as_no_authorization_server() {
    let house = house(Server::OidcProvider);
    let origin = house.url().replace("/default/items", "");
    for path in ["oauth-authorization-server", "openid-configuration", "oauth-authorization-server/default/items"] {
        let answer = crate::support::http::get(&format!("{origin}/.well-known/{path}"), &[]);
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
}

#[test]
fn npm_1_logs_in_at_keycloak() {
    log_in(Client::Npm1, Server::Keycloak);
}

#[test]
fn npm_1_logs_in_at_oidc_provider() {
    log_in(Client::Npm1, Server::OidcProvider);
}

#[test]
fn npm_2_logs_in_at_keycloak() {
    log_in(Client::Npm2, Server::Keycloak);
}

#[test]
fn npm_2_logs_in_at_oidc_provider() {
    log_in(Client::Npm2, Server::OidcProvider);
}

#[test]
fn pypi_1_logs_in_at_keycloak() {
    log_in(Client::Pypi1, Server::Keycloak);
}

#[test]
fn pypi_1_logs_in_at_oidc_provider() {
    log_in(Client::Pypi1, Server::OidcProvider);
}

#[test]
fn pypi_2_logs_in_at_keycloak() {
    log_in(Client::Pypi2, Server::Keycloak);
}

#[test]
fn pypi_2_logs_in_at_oidc_provider() {
    log_in(Client::Pypi2, Server::OidcProvider);
}

#[test]
fn rmcp_logs_in_at_keycloak() {
    log_in(Client::Rmcp, Server::Keycloak);
}

#[test]
fn rmcp_logs_in_at_oidc_provider() {
    log_in(Client::Rmcp, Server::OidcProvider);
}
