//! Which method a client is registered by: chosen once, from what its author, the administrator and the server allow.
//!
//! Invariant: no failure chooses; a method that is not possible now is passed over only because the server's own metadata,
//! or the administrator, says so.

use super::call::Place;
use super::desired::{Desired, Method};
use crate::oauth::server_metadata::ServerMetadata;

/// The first method that is allowed and possible.
///
/// # Errors
/// In words, if none is.
pub fn choose(desired: &Desired, metadata: &ServerMetadata, place: &Place) -> Result<Method, String> {
    let possible = |method: &Method| match method {
        Method::Admin => place.admin.is_some(),
        Method::Dcr => place.registration_endpoint.is_some(),
        // Never another method in their stead: what somebody else has registered is not registered again.
        Method::Preregistered | Method::Cimd => false,
    };
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
    desired.methods.iter().copied().find(possible).ok_or_else(|| {
        let names: Vec<&str> = desired.methods.iter().map(|method| method.as_str()).collect();
        match desired.methods.as_slice() {
            [] => "no method is allowed: set spec.registration.methods of the McpAuthorizationServer".to_owned(),
            [Method::Preregistered | Method::Cimd] => format!(
                "this build does not carry out the method {} yet, and has sent nothing: use Admin or DCR",
                names.join(", ")
            ),
            _ => format!(
                "none of {} is possible: its metadata has no registration_endpoint, or there is no administrative API; this \
                 build carries out Admin and DCR",
                names.join(", ")
            ),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::model::{desired, place};
    use super::*;

    const ISSUER: &str = "https://as.example";

    fn metadata() -> ServerMetadata {
        let text = format!(r#"{{"issuer":"{ISSUER}","client_id_metadata_document_supported":true}}"#);
        ServerMetadata::parse(text.as_bytes(), ISSUER).unwrap()
    }

    fn chosen(methods: &[Method], place: &Place) -> Result<Method, String> {
        let desired = Desired { methods: methods.to_vec(), client_id: Some("a".into()), ..desired() };
        choose(&desired, &metadata(), place)
    }

    #[test]
    fn the_first_that_is_possible_is_chosen() {
        let everything = place();
        assert_eq!(chosen(&[Method::Dcr, Method::Admin], &everything), Ok(Method::Dcr));
        assert_eq!(chosen(&[Method::Admin, Method::Dcr], &everything), Ok(Method::Admin));
        assert_eq!(chosen(&[Method::Cimd, Method::Dcr], &everything), Ok(Method::Dcr));
        let no_admin = Place { admin: None, ..place() };
        assert_eq!(chosen(&[Method::Admin, Method::Dcr], &no_admin), Ok(Method::Dcr));
        let nothing = Place::default();
        assert!(
            chosen(&[Method::Admin, Method::Dcr], &nothing).unwrap_err().contains("none of Admin, DCR is possible")
        );
    }

    #[test]
    fn what_is_registered_already_is_not_registered_again() {
        for method in [Method::Preregistered, Method::Cimd] {
            let why = chosen(&[method], &place()).unwrap_err();
            assert!(why.contains(method.as_str()) && why.contains("not carry out"), "{why}");
        }
    }
}
