//! The CustomResourceDefinitions, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use super::v1alpha1::{McpAuthorizationServer, McpClient, McpPolicy, McpServer};

/// The CustomResourceDefinition of every kind that we own, by name.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![McpAuthorizationServer::crd(), McpClient::crd(), McpPolicy::crd(), McpServer::crd()];
    let schemas = crds.iter_mut().flat_map(|crd| &mut crd.spec.versions).filter_map(|version| version.schema.as_mut());
    schemas.filter_map(|schema| schema.open_api_v3_schema.as_mut()).for_each(forbid_null);
    crds
}

/// An optional member is present or absent. A null that counts as present would pass `has()` in a rule and mean nothing
/// to us.
fn forbid_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.properties.iter_mut().flat_map(|members| members.values_mut()).for_each(forbid_null);
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        forbid_null(item);
    }
}

/// The file that a definition is kept in: `<plural>.yaml`.
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.spec.names.plural)
}

/// A definition as YAML.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::SerializeError> {
    serde_saphyr::to_string(crd)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("crds")
    }

    #[test]
    fn the_files_equal_the_types() {
        let mut names: Vec<String> = all().iter().map(file_name).collect();
        for crd in all() {
            let path = folder().join(file_name(&crd));
            let kept = fs::read_to_string(&path).unwrap_or_default();
            assert!(kept == to_yaml(&crd).unwrap(), "{} is stale: portcullis crd --dir crds", path.display());
        }
        names.sort();
        let mut kept: Vec<String> =
            fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        kept.sort();
        assert_eq!(kept, names);
    }

    #[test]
    fn what_is_written_is_read_back_equal() {
        for crd in all() {
            let yaml = to_yaml(&crd).unwrap();
            assert_eq!(serde_saphyr::from_str::<CustomResourceDefinition>(&yaml).unwrap(), crd);
        }
    }

    /// Every member, its path, and its schema.
    fn walk(path: String, schema: &serde_json::Value, visit: &mut impl FnMut(&str, &serde_json::Value)) {
        visit(&path, schema);
        for (name, member) in schema["properties"].as_object().into_iter().flatten() {
            walk(format!("{path}.{name}"), member, visit);
        }
        if schema["items"].is_object() {
            walk(format!("{path}[]"), &schema["items"], visit);
        }
    }

    fn specs() -> Vec<(String, serde_json::Value)> {
        all()
            .iter()
            .map(|crd| {
                let json = serde_json::to_value(crd).unwrap();
                let spec = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
                (crd.spec.names.kind.clone(), spec.clone())
            })
            .collect()
    }

    #[test]
    fn every_field_is_documented_and_bounded() {
        for (kind, spec) in specs() {
            walk(kind, &spec, &mut |path, schema| {
                let text = schema["type"] == "string" && schema["enum"].is_null();
                assert!(!text || schema["maxLength"].is_u64(), "{path} has no maxLength");
                assert!(schema["type"] != "array" || schema["maxItems"].is_u64(), "{path} has no maxItems");
                let is_list_item = path.ends_with("[]");
                assert!(is_list_item || schema["description"].is_string(), "{path} has no description");
                if schema["type"] == "array" {
                    let list_type = schema["x-kubernetes-list-type"].as_str();
                    assert!(list_type.is_some(), "{path} does not say how it merges");
                }
            });
        }
    }

    /// Whatever the API server drops of a policy, such as a misspelled `matchLabels`, could widen what it grants.
    #[test]
    fn policies_keep_what_is_misspelled_so_that_it_can_be_refused() {
        let (kind, spec) = specs().into_iter().find(|(kind, _)| kind == "McpPolicy").unwrap();
        let mut objects = 0;
        walk(kind, &spec, &mut |path, schema| {
            if schema["properties"].is_object() {
                objects += 1;
                assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{path}");
            }
        });
        assert!(objects >= 15, "{objects}");
    }

    #[test]
    fn cel_rules_say_what_is_wrong() {
        let mut rules = 0;
        for crd in all() {
            let json = serde_json::to_value(&crd).unwrap();
            let schema = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            walk(crd.spec.names.kind.clone(), schema, &mut |path, schema| {
                for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                    rules += 1;
                    assert!(rule["message"].is_string(), "{path}: {rule}");
                    let text = rule["rule"].as_str().unwrap();
                    assert!(cel::Program::compile(text).is_ok(), "{path}: {text}");
                }
            });
        }
        assert!(rules >= 14, "{rules}");
    }
}
