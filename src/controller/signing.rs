//! Signing keys of local authorities, each in a Secret of the system namespace.
//!
//! Invariant: a key is made once and never replaced: it is created, not written over, so of two controllers that make one,
//! both sign with that of the first; and a Secret that holds no key is said to be damaged, for a new key would end every
//! token without a word.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use super::conditions::SIGNING_KEY_DAMAGED;
use super::error::{ApiError, Failure, code};
use super::lease::Fence;
use crate::api::{GROUP, VERSION};
use crate::generated::Authority;
use crate::generated::kind::{SOURCE, SOURCE_UID};
use crate::issuer::{IssuerError, Signer};

/// The key, in `data`, of the signing key (PKCS#8).
const KEY: &str = "signing-key.p8";

/// Why an authority cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The Secret could not be read or made.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// It is there, and holds no key.
    #[error(
        "Secret {0} holds no signing key: restore it from a backup, or delete it, which ends every token of the authority \
         and makes a new key"
    )]
    Damaged(String),
    /// A new key could not be made.
    #[error(transparent)]
    Key(#[from] IssuerError),
    /// Somebody else leads.
    #[error("{}", Failure::NotLeading)]
    Fenced,
}

impl SigningError {
    /// A stable word.
    pub fn reason(&self) -> &'static str {
        match self {
            SigningError::Api(error) => error.reason(),
            SigningError::Damaged(_) => SIGNING_KEY_DAMAGED,
            SigningError::Key(error) => error.reason(),
            SigningError::Fenced => Failure::NotLeading.reason(),
        }
    }
}

/// The name of the Secret that holds the key of the authority with this UID.
pub fn secret_name(uid: &str) -> String {
    format!("issuer-{uid}")
}

/// The signer of a local authority; its key is made if there is none, while `fence` is open.
///
/// # Errors
/// If there is no key and none could be made, or the one that is there cannot be used.
pub async fn signer(
    client: &Client,
    system_namespace: &str,
    authority: &Authority,
    fence: &Fence,
) -> Result<Signer, SigningError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), system_namespace);
    let name = secret_name(&authority.id.uid);
    let failed =
        |doing: &str, error: &kube::Error| ApiError::new(format!("{doing} Secret {system_namespace}/{name}"), error);
    let found = secrets.get_opt(&name).await.map_err(|error| failed("reading", &error))?;
    let secret = match found {
        Some(secret) => secret,
        None => {
            let new = secret_with(Signer::generate()?, &name, authority);
            let params = PostParams::default();
            match fence.while_open(secrets.create(&params, &new)).await.ok_or(SigningError::Fenced)? {
                Ok(created) => created,
                // Somebody was first: theirs is the key.
                Err(error) if code(&error) == Some(409) => {
                    secrets.get(&name).await.map_err(|error| failed("reading", &error))?
                }
                Err(error) => return Err(failed("making", &error).into()),
            }
        }
    };
    let key = secret.data.as_ref().and_then(|data| data.get(KEY));
    let signer = key.and_then(|key| Signer::new(&key.0, authority.issuer.clone()).ok());
    signer.ok_or_else(|| SigningError::Damaged(format!("{system_namespace}/{name}")))
}

/// The authority owns it, so that it goes with it; nobody can change what it holds.
fn secret_with(key: Vec<u8>, name: &str, authority: &Authority) -> Secret {
    let owner = OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: "McpAuthorizationServer".to_owned(),
        name: authority.id.name.clone(),
        uid: authority.id.uid.clone(),
        ..OwnerReference::default()
    };
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(SOURCE_UID.to_owned(), authority.id.uid.clone())])),
            annotations: Some(BTreeMap::from([(SOURCE.to_owned(), authority.id.display_name())])),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(key))])),
        immutable: Some(true),
        ..Secret::default()
    }
}
