//! Keycloak's admin API: the only way that is idempotent, since the client's id is ours to choose.

use serde_json::{Value, json};

use super::house::{House, claims, error, form, request};
use crate::support::http::Response;
use crate::support::keycloak::MANAGER;

const ID: &str = "mcp-8d1c2f3a-5f0c7b1e";

struct Manager {
    token: String,
    clients: String,
}

impl Manager {
    fn of(house: &House) -> Self {
        let (client, secret) = MANAGER;
        let own = [("grant_type", "client_credentials"), ("client_id", client), ("client_secret", secret)];
        let answer = form(&house.endpoint("token_endpoint"), &[], &own);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let clients = house.issuer().replace("/realms/", "/admin/realms/") + "/clients";
        Self { token: answer.json()["access_token"].as_str().unwrap().to_owned(), clients }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        request(method, &format!("{}{path}", self.clients), Some(&self.token), body)
    }

    fn find(&self, id: &str) -> Vec<Value> {
        let found = self.ask("GET", &format!("?clientId={id}"), None);
        assert_eq!(found.status, 200, "{}", found.text());
        found.json().as_array().unwrap().clone()
    }
}

fn wanted() -> Value {
    json!({"clientId": ID, "name": "Reporting agent", "protocol": "openid-connect", "publicClient": false,
        "serviceAccountsEnabled": true, "standardFlowEnabled": false, "attributes": {"portcullis.dev/owner": "5f0c7b1e"}})
}

#[test]
fn a_client_whose_id_we_chose_is_found_again_and_made_once() {
    let house = House::keycloak();
    let manager = Manager::of(&house);
    let made = manager.ask("POST", "", Some(&wanted()));
    assert_eq!(made.status, 201, "{}", made.text());
    assert!(made.header("location").unwrap().starts_with(&format!("{}/", manager.clients)));
    let again = manager.ask("POST", "", Some(&wanted()));
    assert_eq!(again.status, 409, "{}", again.text());
    let found = manager.find(ID);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["attributes"]["portcullis.dev/owner"], "5f0c7b1e");
    assert!(found[0]["secret"].as_str().is_some_and(|secret| secret.len() >= 32));
    assert_eq!(house.clients(), [ID]);
    // A look does not find by halves.
    assert!(manager.find("mcp-8d1c2f3a").is_empty());
}

#[test]
fn an_update_merges_and_a_secret_is_ours_to_set() {
    let house = House::keycloak();
    let manager = Manager::of(&house);
    manager.ask("POST", "", Some(&wanted()));
    let path = format!("/{}", manager.find(ID)[0]["id"].as_str().unwrap());
    let updated = manager.ask("PUT", &path, Some(&json!({"clientId": ID, "secret": "a-secret-of-our-own-choice"})));
    assert_eq!(updated.status, 204, "{}", updated.text());
    let found = &manager.find(ID)[0];
    assert_eq!((&found["name"], &found["secret"]), (&json!("Reporting agent"), &json!("a-secret-of-our-own-choice")));
    let own =
        [("grant_type", "client_credentials"), ("client_id", ID), ("client_secret", "a-secret-of-our-own-choice")];
    let answer = house.token(&own);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(claims(answer.json()["access_token"].as_str().unwrap())["azp"], ID);
}

#[test]
fn a_deleted_client_is_not_found() {
    let house = House::keycloak();
    let manager = Manager::of(&house);
    manager.ask("POST", "", Some(&wanted()));
    let path = format!("/{}", manager.find(ID)[0]["id"].as_str().unwrap());
    assert_eq!(manager.ask("DELETE", &path, None).status, 204);
    assert_eq!(manager.ask("DELETE", &path, None).status, 404);
    assert!(manager.find(ID).is_empty());
}

/// What the manager may do is manage clients of its realm.
#[test]
fn a_token_without_the_role_is_forbidden_and_none_is_unauthorized() {
    let house = House::keycloak();
    let manager = Manager::of(&house);
    let other = House::keycloak();
    let elsewhere = Manager { token: manager.token.clone(), clients: Manager::of(&other).clients };
    assert_eq!(elsewhere.ask("POST", "", Some(&wanted())).status, 401);
    assert!(other.clients().is_empty());
    let client = house.register(&super::house::service());
    let token = house.token_with_secret(&client, &[]).json()["access_token"].as_str().unwrap().to_owned();
    let powerless = Manager { token, clients: manager.clients.clone() };
    assert_eq!(powerless.ask("POST", "", Some(&wanted())).status, 403);
}

/// A manager may register too, and needs no initial access token for it.
#[test]
fn a_manager_registers_with_its_own_token() {
    let house = House::keycloak();
    let manager = Manager::of(&house);
    assert_eq!(house.register_with(Some(&manager.token), &super::house::service()).status, 201);
    let wrong = error(&form(
        &house.endpoint("token_endpoint"),
        &[],
        &[("grant_type", "client_credentials"), ("client_id", MANAGER.0), ("client_secret", "wrong")],
    ));
    assert_eq!(wrong, (401, "unauthorized_client".to_owned()));
}
