//! The keys that seal what leaves the gateway, such as session ids: made and rotated here, so that every proxy has the same.
//!
//! Invariant: what was sealed with a key can be opened for one more rotation; keys are made of the system's randomness, are
//! written by whoever leads only, and are in no output.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use super::Context;
use super::error::{ApiError, Failure, code};
use crate::generated::kind::{GENERATED, SEALING, SEALING_LABEL};
use crate::seal::KEY_BYTES;

/// The key that seals.
const CURRENT: &str = "current";
/// The key that only opens.
const PREVIOUS: &str = "previous";
/// When the current key was made.
const MADE: &str = "portcullis.dev/rotated-at";
/// How long a key seals.
pub const ROTATION: Duration = Duration::from_secs(30 * 86_400);
/// How often that is looked at.
pub const LOOK: Duration = Duration::from_secs(60);

/// Makes the keys if there are none, and rotates them if it is time.
///
/// # Errors
/// If they could not be read or written. It is to be tried again.
pub async fn keep(context: &Context) -> Result<(), Failure> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &context.installation.gateway_namespace);
    let failed = |error: &kube::Error| Failure::Apply(ApiError::new(format!("Secret {SEALING}"), error));
    let found = api.get_opt(SEALING).await.map_err(|error| failed(&error))?;
    let Some(secret) = next(found.as_ref(), Timestamp::now(), random)? else { return Ok(()) };
    let params = PostParams { field_manager: Some(super::object::FIELD_MANAGER.to_owned()), ..PostParams::default() };
    // With the version that was seen, or as a new object: whoever else wrote meanwhile wins, and is looked at again.
    let write = async {
        match found {
            Some(_) => api.replace(SEALING, &params, &secret).await,
            None => api.create(&params, &secret).await,
        }
    };
    match context.while_leading(write).await? {
        Ok(_) => Ok(()),
        Err(error) if code(&error) == Some(409) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

/// The Secret as it should be, if it is not.
fn next(
    found: Option<&Secret>,
    now: Timestamp,
    random: impl Fn() -> Result<Vec<u8>, Failure>,
) -> Result<Option<Secret>, Failure> {
    let data = found.and_then(|secret| secret.data.as_ref());
    let key = |name: &str| data.and_then(|data| data.get(name)).filter(|key| key.0.len() == KEY_BYTES).cloned();
    let metadata = found.map(|secret| secret.metadata.clone()).unwrap_or_default();
    let labelled = metadata.labels.as_ref().and_then(|all| all.get(GENERATED)).is_some_and(|v| v == SEALING_LABEL);
    let made: Option<Timestamp> =
        metadata.annotations.as_ref().and_then(|all| all.get(MADE)).and_then(|text| text.parse().ok());
    let age = made.map(|made| Duration::try_from(now.duration_since(made)).unwrap_or_default());
    let current = key(CURRENT);
    let due = current.is_none() || age.is_none_or(|age| age >= ROTATION);
    if !due && labelled {
        return Ok(None);
    }
    let mut keys = BTreeMap::new();
    let (made, previous) = if due { (now, current.clone()) } else { (made.unwrap_or(now), key(PREVIOUS)) };
    let current = match current.filter(|_| !due) {
        Some(current) => current,
        None => ByteString(random()?),
    };
    keys.insert(CURRENT.to_owned(), current);
    keys.extend(previous.map(|previous| (PREVIOUS.to_owned(), previous)));
    let mut labels = metadata.labels.clone().unwrap_or_default();
    labels.insert(GENERATED.to_owned(), SEALING_LABEL.to_owned());
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.insert(MADE.to_owned(), made.to_string());
    let metadata =
        ObjectMeta { name: Some(SEALING.to_owned()), labels: Some(labels), annotations: Some(annotations), ..metadata };
    Ok(Some(Secret { metadata, data: Some(keys), ..found.cloned().unwrap_or_default() }))
}

fn random() -> Result<Vec<u8>, Failure> {
    let mut key = vec![0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut key).map_err(|_| Failure::Build("RandomUnavailable"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
    }

    fn of(byte: u8) -> impl Fn() -> Result<Vec<u8>, Failure> {
        move || Ok(vec![byte; KEY_BYTES])
    }

    fn keys(secret: &Secret) -> [Option<u8>; 2] {
        let data = secret.data.as_ref().unwrap();
        [CURRENT, PREVIOUS].map(|name| data.get(name).map(|key| key.0[0]))
    }

    #[test]
    fn keys_are_made_kept_and_rotated_and_the_previous_one_still_opens() {
        let first = next(None, at(0), of(1)).unwrap().unwrap();
        assert_eq!(keys(&first), [Some(1), None]);
        assert_eq!(first.metadata.labels.as_ref().unwrap()[GENERATED], SEALING_LABEL);
        assert_eq!(next(Some(&first), at(29), of(9)).unwrap(), None);
        let second = next(Some(&first), at(30), of(2)).unwrap().unwrap();
        assert_eq!(keys(&second), [Some(2), Some(1)]);
        let third = next(Some(&second), at(60), of(3)).unwrap().unwrap();
        assert_eq!(keys(&third), [Some(3), Some(2)]);
    }

    #[test]
    fn what_somebody_broke_is_mended() {
        let first = next(None, at(0), of(1)).unwrap().unwrap();
        let mut unlabelled = first.clone();
        unlabelled.metadata.labels = None;
        assert_eq!(next(Some(&unlabelled), at(1), of(9)).unwrap(), Some(first.clone()));
        let mut short = first.clone();
        short.data.as_mut().unwrap().insert(CURRENT.into(), ByteString(vec![1]));
        assert_eq!(keys(&next(Some(&short), at(1), of(4)).unwrap().unwrap()), [Some(4), None]);
        let mut undated = first;
        undated.metadata.annotations = None;
        assert_eq!(keys(&next(Some(&undated), at(1), of(5)).unwrap().unwrap()), [Some(5), Some(1)]);
    }
}
