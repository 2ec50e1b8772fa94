//! The credentials of a registered client, in the Secret that its owner named.
//!
//! Invariant: the owner gets what is in the ledger, as it is there, and nothing of what the registration is managed with.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::outcome::Publication;
use crate::controller::Context;
use crate::controller::error::{ApiError, Failure};
use crate::controller::owned_secret::{self, Data, Found};
use crate::registration::wanted::signing;
use crate::registration::{Desired, Ledger};
use crate::sensitive::Sensitive;

/// Writes the credentials, if they are not there as they should be.
pub(super) async fn write(context: &Context, desired: &Desired, ledger: &Ledger) -> Result<Publication, Failure> {
    let (api, owner, name) = (&context.client, &desired.owner, &desired.secret_name);
    let Some(data) = data(ledger) else { return Ok(Publication::Unknown) };
    let found = owned_secret::find(api, owner, name).await.map_err(Failure::Dereference)?;
    match &found {
        Found::Own { data: known, .. } if *known == data => return Ok(Publication::Written),
        Found::Foreign => return Ok(Publication::Foreign),
        Found::Forbidden => return Ok(Publication::Forbidden),
        Found::Own { .. } | Found::Absent => {}
    }
    match context.while_leading(owned_secret::write(api, owner, name, &found, &data)).await? {
        Ok(true) => Ok(Publication::Written),
        // It is not as it was found any more.
        Ok(false) => Ok(Publication::Foreign),
        Err(ApiError::Refused { code: 403, .. }) => Ok(Publication::Forbidden),
        Err(error) => Err(Failure::Apply(error)),
    }
}

/// What the Secret is to hold.
fn data(ledger: &Ledger) -> Option<Data> {
    let current = ledger.current.as_ref()?;
    let method = current.auth_method.as_str();
    let mut data = Data::new();
    let mut say = |key: &str, value: Sensitive| data.insert(key.to_owned(), value);
    say("client_id", Sensitive::new(&current.client_id));
    say("issuer", Sensitive::new(&ledger.issuer));
    say("token_endpoint_auth_method", Sensitive::new(method));
    if let Some(secret) = &current.client_secret {
        say("client_secret", secret.clone());
    }
    if let Some(key) = signing(ledger) {
        say("kid", Sensitive::new(&key.kid));
        say("private_key.pem", Sensitive::new(pem(key.pkcs8.expose())));
    }
    Some(data)
}

/// PKCS#8 as PEM (RFC 7468 section 10), of its Base64.
fn pem(base64: &str) -> String {
    // Written anew, so that whatever was stored is Base64 of something.
    let text = BASE64_STANDARD.encode(BASE64_STANDARD.decode(base64).unwrap_or_default());
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_others_read_it() {
        let pkcs8 = crate::oauth::client_key::ClientKey::generate().unwrap();
        let pem = pem(&BASE64_STANDARD.encode(&pkcs8));
        assert!(pem.lines().all(|line| line.len() <= 64));
        assert!(jsonwebtoken::EncodingKey::from_ec_pem(pem.as_bytes()).is_ok());
    }
}
