//! The CustomResourceDefinitions, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::v1alpha1::{McpAuthorizationServer, McpPolicy, McpServer};

/// The CustomResourceDefinition of every kind that we own, by name.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![McpAuthorizationServer::crd(), McpPolicy::crd(), McpServer::crd()]
}

/// The file that a definition is kept in: `<plural>.yaml`.
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.spec.names.plural)
}

/// A definition as YAML.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::SerializeError> {
    serde_saphyr::to_string(crd)
}
