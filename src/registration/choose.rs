//! Which method a client is registered by: chosen once, from what its author, the administrator and the server allow.
//!
//! Invariant: no failure chooses; a method that is not possible now is passed over only because the server's own metadata,
//! or the administrator, says so.

use super::call::Place;
use super::desired::{Desired, Method};
use super::profile;
use crate::oauth::server_metadata::ServerMetadata;

/// Whether what its author wants by now is another registration than the one that there is: by another method, or made here
/// where somebody else had made it.
pub fn is_another(desired: &Desired, method: Method) -> bool {
    match desired.asked {
        Some(asked) => asked != method,
        None => method == Method::Preregistered,
    }
}

/// The first method that is allowed and possible.
///
/// # Errors
/// In words, if none is.
pub fn choose(desired: &Desired, metadata: &ServerMetadata, place: &Place) -> Result<Method, String> {
    let unsupported = metadata.token_endpoint_auth_methods_supported.as_ref();
    let wanted = desired.metadata.auth_method.as_str();
    if let Some(offered) = unsupported.filter(|offered| !offered.iter().any(|one| one == wanted)) {
        // RFC 8414 section 2: what is not listed is not supported. `none` is often left out, and works.
        if wanted != "none" {
            let offered: Vec<String> = offered.iter().take(8).map(|one| one.chars().take(40).collect()).collect();
            return Err(format!(
                "its token endpoint does not offer {wanted}, but {}: set spec.registration.tokenEndpointAuthMethod",
                offered.join(", ")
            ));
        }
    }
    let mut obstacles = Vec::new();
    for method in &desired.methods {
        match obstacle(*method, desired, metadata, place) {
            None => return Ok(*method),
            Some(why) => obstacles.push(format!("{} ({why})", method.as_str())),
        }
    }
    Err(if obstacles.is_empty() {
        "no method is allowed: set spec.registration.methods of the McpAuthorizationServer, or register the client by hand \
         and use method: Preregistered"
            .to_owned()
    } else {
        let obstacles = obstacles.join(", ");
        format!("none of these is possible: {obstacles}; register the client by hand and use method: Preregistered")
    })
}

/// What is in the way of a method; nothing that will pass by itself is.
fn obstacle(method: Method, desired: &Desired, metadata: &ServerMetadata, place: &Place) -> Option<&'static str> {
    let (is_possible, why) = match method {
        Method::Preregistered => (desired.client_id.is_some(), "nothing says which id it has"),
        Method::Admin => (place.admin.is_some(), "there are no credentials for its administrative API"),
        Method::Dcr => (place.registration_endpoint.is_some(), "its metadata has no registration_endpoint"),
        Method::Cimd if !metadata.client_id_metadata_document_supported => {
            (false, "its metadata does not say client_id_metadata_document_supported")
        }
        Method::Cimd if desired.client_id.is_some() => return None,
        Method::Cimd if desired.gateway.is_none() => (false, "the gateway's public URL is not https"),
        Method::Cimd => (
            profile::takes_document(desired.profile, &desired.metadata),
            "it takes documents of clients for persons only",
        ),
    };
    (!is_possible).then_some(why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oauth::client_registration::AuthMethod;
    use crate::registration::desired::Profile;
    use crate::registration::tests::{desired, place};

    fn chosen(desired: &Desired, more: &serde_json::Value) -> Result<Method, String> {
        let issuer = "https://as.example";
        let mut document = json!({"issuer": issuer, "token_endpoint": "https://as.example/token"});
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata = ServerMetadata::parse(document.to_string().as_bytes(), issuer).unwrap();
        choose(desired, &metadata, &Place { admin: None, ..place() })
    }

    fn wanting(methods: &[Method]) -> Desired {
        let gateway = Some("https://gw.example".to_owned());
        Desired { methods: methods.to_vec(), gateway, profile: Profile::Generic, ..desired() }
    }

    #[test]
    fn a_server_that_does_not_say_that_it_takes_documents_is_given_none() {
        let both = wanting(&[Method::Cimd, Method::Dcr]);
        assert_eq!(chosen(&both, &json!({"client_id_metadata_document_supported": true})), Ok(Method::Cimd));
        for more in [json!({}), json!({"client_id_metadata_document_supported": false})] {
            assert_eq!(chosen(&both, &more), Ok(Method::Dcr));
            let why = chosen(&wanting(&[Method::Cimd]), &more).unwrap_err();
            assert!(why.contains("client_id_metadata_document_supported"), "{why}");
        }
    }

    #[test]
    fn a_document_that_nobody_could_fetch_or_use_is_not_chosen() {
        let takes = json!({"client_id_metadata_document_supported": true});
        let mut plain = wanting(&[Method::Cimd, Method::Dcr]);
        plain.gateway = None;
        assert_eq!(chosen(&plain, &takes), Ok(Method::Dcr));
        // A document of its own needs no gateway.
        plain.client_id = Some("https://ide.example/client".to_owned());
        assert_eq!(chosen(&plain, &takes), Ok(Method::Cimd));
        let mut keycloak = Desired { profile: Profile::Keycloak, ..wanting(&[Method::Cimd, Method::Dcr]) };
        assert_eq!(chosen(&keycloak, &takes), Ok(Method::Dcr), "it speaks for itself");
        keycloak.metadata.grant_types = vec!["authorization_code".to_owned()];
        assert_eq!(chosen(&keycloak, &takes), Ok(Method::Cimd));
    }

    #[test]
    fn a_server_that_does_not_offer_how_the_client_authenticates_is_told() {
        let offers = json!({"token_endpoint_auth_methods_supported": ["client_secret_basic"]});
        let mut wanted = wanting(&[Method::Dcr]);
        assert!(chosen(&wanted, &offers).unwrap_err().contains("private_key_jwt"));
        wanted.metadata.auth_method = AuthMethod::None;
        assert_eq!(chosen(&wanted, &offers), Ok(Method::Dcr));
    }
}
