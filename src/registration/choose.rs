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
        Method::Preregistered => desired.client_id.is_some(),
        Method::Admin => place.admin.is_some(),
        Method::Cimd => metadata.client_id_metadata_document_supported && desired.client_id.is_some(),
        Method::Dcr => place.registration_endpoint.is_some(),
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
        match names.as_slice() {
            [] => "no method is allowed: set spec.registration.methods of the McpAuthorizationServer, or register the \
                   client by hand and use method: Preregistered"
                .to_owned(),
            names => format!(
                "none of {} is possible: its metadata has no registration_endpoint, or says nothing of Client ID Metadata \
                 Documents; register the client by hand and use method: Preregistered",
                names.join(", ")
            ),
        }
    })
}
