use http::HeaderValue;
use serde_json::json;

use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn schema() -> Vec<ParamHeader> {
    let schema = json!({"type": "object", "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "Deep-N"}}},
        "flag": {"type": "boolean", "x-mcp-header": "flag"},
        "x-mcp-header": {"type": "string", "default": {"x-mcp-header": "no"}},
    }});
    param_headers(&schema.to_string()).unwrap()
}

fn check(pairs: &[(&str, &str)], arguments: &serde_json::Value) -> Result<(), &'static str> {
    check_params(&headers(pairs), Some(arguments.to_string().as_bytes()), &schema())
        .map_err(|mismatch| mismatch.reason())
}

#[test]
fn duty_36_annotated_parameters_are_found_by_their_path() {
    let mut found: Vec<_> = schema().into_iter().map(|p| (p.header.to_string(), p.path.join("."))).collect();
    found.sort();
    let expected = [("mcp-param-deep-n", "deep.n"), ("mcp-param-flag", "flag"), ("mcp-param-region", "region")];
    assert_eq!(found, expected.map(|(header, path)| (header.to_owned(), path.to_owned())));
}

#[test]
fn duty_36_headers_equal_the_arguments() {
    let all = [("Mcp-Param-Region", "eu"), ("mcp-param-deep-n", "42"), ("mcp-param-FLAG", "true")];
    assert_eq!(check(&all, &json!({"region": "eu", "deep": {"n": 42}, "flag": true})), Ok(()));
    assert_eq!(check(&all, &json!({"region": "us", "deep": {"n": 42}, "flag": true})), Err("HeaderMismatch"));
    assert_eq!(check(&all, &json!({"region": "eu", "deep": {"n": 43}, "flag": true})), Err("HeaderMismatch"));
    assert_eq!(check(&all, &json!({"region": "eu", "deep": {"n": 42}, "flag": "true"})), Ok(()));
    assert_eq!(check(&all, &json!({"region": "eu", "deep": {"n": 42}, "flag": false})), Err("HeaderMismatch"));
    assert_eq!(check(&[("mcp-param-region", "=?base64?ZcO8?=")], &json!({"region": "eü"})), Ok(()));
    assert_eq!(check(&[("mcp-param-region", "=?base64?*?=")], &json!({"region": "*"})), Err("HeaderEncoding"));
}

#[test]
fn duty_36_integers_are_compared_by_value_within_the_safe_range() {
    for (header, body, equal) in [
        ("42.0", json!(42), true),
        ("42", json!(42.0), true),
        ("4.2e1", json!(42), true),
        ("-7", json!(-7), true),
        ("042", json!(42), false),
        ("0x2a", json!(42), false),
        ("9007199254740993", json!(9_007_199_254_740_993_u64), false),
        ("42", json!([42]), false),
    ] {
        let result = check(&[("mcp-param-deep-n", header)], &json!({"deep": {"n": body}}));
        assert_eq!(result.is_ok(), equal, "{header} {body}");
    }
}

#[test]
fn duty_36_absent_and_null_arguments_have_no_header_and_others_need_one() {
    assert_eq!(check(&[], &json!({})), Ok(()));
    assert_eq!(check(&[], &json!({"region": null, "deep": 1})), Ok(()));
    assert_eq!(check(&[], &json!({"region": "eu"})), Err("HeaderMissing"));
    assert_eq!(check(&[("mcp-param-region", "eu")], &json!({})), Err("HeaderMismatch"));
    assert_eq!(check(&[("mcp-param-region", "null")], &json!({"region": null})), Err("HeaderMismatch"));
    assert_eq!(check_params(&headers(&[]), None, &schema()), Ok(()));
    assert_eq!(check_params(&headers(&[("mcp-param-other", "x")]), None, &schema()), Ok(()));
}

#[test]
fn duty_37_annotations_that_clients_must_refuse() {
    let one = |schema: serde_json::Value| param_headers(&schema.to_string()).map(|found| found.len());
    let text = json!({"type": "string", "x-mcp-header": "A"});
    assert_eq!(
        one(json!({"properties": {"a": text, "b": {"type": "string", "x-mcp-header": "a"}}})),
        Err(BadAnnotation::Repeated)
    );
    for name in [json!(""), json!("a b"), json!("a\r\nb"), json!(1), json!("é")] {
        assert_eq!(
            one(json!({"properties": {"a": {"type": "string", "x-mcp-header": name}}})),
            Err(BadAnnotation::Name)
        );
    }
    for kind in [json!("number"), json!("object"), json!(["string", "null"]), json!(null)] {
        assert_eq!(one(json!({"properties": {"a": {"type": kind, "x-mcp-header": "A"}}})), Err(BadAnnotation::Type));
    }
    for place in [
        json!({"x-mcp-header": "A"}),
        json!({"items": text}),
        json!({"properties": {"a": {"items": text}}}),
        json!({"anyOf": [{"properties": {"a": text}}]}),
        json!({"properties": {"a": {"if": {"properties": {"b": text}}}}}),
        json!({"$defs": {"d": text}}),
        json!({"additionalProperties": text}),
    ] {
        assert_eq!(one(place.clone()), Err(BadAnnotation::Place), "{place}");
    }
    assert_eq!(param_headers("[]"), Err(BadAnnotation::Schema));
    assert_eq!(one(json!({"properties": {"a": {"enum": [{"x-mcp-header": "A"}]}}})), Ok(0));
}
