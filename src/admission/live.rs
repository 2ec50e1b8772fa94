//! What the webhook asks the API server for by name, since what it does not know may be there all the same.
//!
//! Invariant: no Secret is asked for, and nothing is taken for missing that could not be asked about.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::{Api, Client};

use crate::api::object::{self, is_dns_subdomain};
use crate::api::{GROUP, Key, Kind, Object, VERSION};
use crate::cluster::in_words;

/// How many are asked for at once.
const AT_ONCE: usize = 16;
/// How many are asked for of one review. More count as missing, of which no more comes than a warning, or a wider right.
const MOST: usize = 256;

/// The API of a kind.
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version) = if Kind::OURS.contains(&kind) { (GROUP, VERSION) } else { ("", "v1") };
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind.as_str()))
}

/// Those of these objects that are there, and can be read.
///
/// # Errors
/// If the API server does not say whether one is there: in words.
pub async fn find(client: Client, mut keys: Vec<Key>) -> Result<Vec<Object>, String> {
    keys.retain(|key| key.kind != Kind::Secret && is_dns_subdomain(&key.name));
    keys.truncate(MOST);
    let found = stream::iter(keys).map(move |key| get(client.clone(), key)).buffer_unordered(AT_ONCE);
    found.try_filter_map(|found| std::future::ready(Ok(found))).try_collect().await
}

async fn get(client: Client, key: Key) -> Result<Option<Object>, String> {
    let resource = resource(key.kind);
    let api: Api<DynamicObject> = if key.kind.is_namespaced() {
        Api::namespaced_with(client, &key.namespace, &resource)
    } else {
        Api::all_with(client, &resource)
    };
    let found = api.get_opt(&key.name).await.map_err(|error| format!("{key}: {}", in_words(&error)))?;
    let whole = found.and_then(|mut found| {
        // Nothing of ours, and long.
        found.metadata.managed_fields = None;
        serde_json::to_value(found).ok()
    });
    Ok(whole.and_then(|whole| object::read(&whole).ok()))
}
