use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::mcp::malformed::Fault;

const NEW: Revision = Revision::V2026_07_28;
const OLD: Revision = Revision::V2025_11_25;

fn response(result: &str) -> Envelope {
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
    Envelope::parse_server(Bytes::from(text), &Limits::SERVER).unwrap()
}

fn filter(result: &str, revision: Revision, keep: &[&str]) -> Result<Filtered, Hostile> {
    let keep = |tool: &ToolView<'_>| keep.contains(&&*tool.name);
    filter_tools(&response(result), revision, 1000, keep, |cursor| format!("<{cursor}>"))
}

fn body(filtered: &Filtered) -> &str {
    std::str::from_utf8(&filtered.body).unwrap()
}

#[test]
fn duty_50_kept_tools_keep_their_bytes_and_their_order() {
    let result = r#"{"x": [1 , 2],"tools":[ {"name":"c","inputSchema":{"b":1, "a":1.0}} , {"name":"b"},{ "description":"d","name":"\u0061"}],"_meta":{}}"#;
    let filtered = filter(result, OLD, &["a", "c"]).unwrap();
    assert_eq!(
        body(&filtered),
        concat!(
            r#"{"jsonrpc":"2.0","id":1,"result":{"x":[1 , 2],"tools":[{"name":"c","inputSchema":{"b":1, "a":1.0}},"#,
            r#"{ "description":"d","name":"\u0061"}],"_meta":{}}}"#
        )
    );
    assert_eq!((filtered.kept, filtered.hidden, filtered.unreadable), (2, 1, 0));
    assert!(!body(&filter(result, OLD, &[]).unwrap()).contains("name"));
}

#[test]
fn duty_51_filtered_lists_are_private_even_if_nothing_was_removed() {
    for result in [r#"{"tools":[],"ttlMs":50,"cacheScope":"public"}"#, r#"{"cacheScope":1,"ttlMs":50,"tools":[]}"#] {
        let value: Value = serde_json::from_slice(&filter(result, NEW, &[]).unwrap().body).unwrap();
        assert_eq!(value["result"], json!({"tools": [], "ttlMs": 50, "cacheScope": "private"}));
    }
    let value: Value = serde_json::from_slice(&filter(r#"{"tools":[]}"#, NEW, &[]).unwrap().body).unwrap();
    assert_eq!(value["result"], json!({"tools": [], "ttlMs": 0, "cacheScope": "private"}));
    let old = filter(r#"{"tools":[]}"#, OLD, &[]).unwrap();
    assert_eq!(body(&old), r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#);
}

#[test]
fn duty_52_ttl_is_capped_at_the_promised_delay() {
    let value: Value =
        serde_json::from_slice(&filter(r#"{"tools":[],"ttlMs":99999}"#, NEW, &[]).unwrap().body).unwrap();
    assert_eq!(value["result"]["ttlMs"], 1000);
}

#[test]
fn duty_55_cursors_are_mapped_and_an_empty_page_keeps_its_cursor() {
    let filtered = filter(r#"{"tools":[{"name":"a"}],"nextCursor":"\u0070\""}"#, OLD, &[]).unwrap();
    assert_eq!(body(&filtered), r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"nextCursor":"<p\">"}}"#);
    assert!(body(&filter(r#"{"tools":[],"nextCursor":""}"#, OLD, &[]).unwrap()).contains(r#""nextCursor":"<>""#));
    assert!(!body(&filter(r#"{"tools":[],"nextCursor":null}"#, OLD, &[]).unwrap()).contains("nextCursor"));
    assert_eq!(filter(r#"{"tools":[],"nextCursor":7}"#, OLD, &[]), Err(Hostile::BadResult));
    assert_eq!(next_cursor(&response(r#"{"nextCursor":"p"}"#)), Ok(Some("p".to_owned())));
    assert_eq!(next_cursor(&response("{}")), Ok(None));
}

#[test]
fn duty_30_tools_that_share_a_name_are_all_removed_and_reported() {
    let result = r#"{"tools":[{"name":"a","x":1},{"name":"b"},{"name":"\u0061","x":2},{"name":"A"},{"name":"a "}]}"#;
    let filtered = filter(result, OLD, &["a", "b", "A", "a "]).unwrap();
    assert_eq!(filtered.duplicates, ["a"]);
    assert_eq!(filtered.kept, 3);
    let value: Value = serde_json::from_slice(&filtered.body).unwrap();
    assert_eq!(value["result"]["tools"], json!([{"name": "b"}, {"name": "A"}, {"name": "a "}]));
}

#[test]
fn duty_23_what_a_case_folding_client_would_read_otherwise_is_removed() {
    for tool in [
        r#"{"name":"a","Name":"hidden"}"#,
        r#"{"name":"a","inputSchema":{},"inputschema":{}}"#,
        r#"{"name":""}"#,
        r#"{"name":"a\u0000"}"#,
        r#"{"name":7}"#,
        r#"{"title":"a"}"#,
        r#"["a"]"#,
        "null",
    ] {
        let filtered = filter(&format!(r#"{{"tools":[{tool},{{"name":"b"}}]}}"#), OLD, &["a", "b"]).unwrap();
        assert_eq!((filtered.kept, filtered.unreadable), (1, 1), "{tool}");
        assert!(body(&filtered).contains(r#""tools":[{"name":"b"}]"#));
    }
    let folded = filter(r#"{"tools":[],"Tools":[{"name":"hidden"}]}"#, OLD, &[]);
    assert_eq!(folded, Err(Hostile::Malformed(Fault::CaseVariant)));
    let folded = filter("{\"tools\":[],\"tool\u{17f}\":[{\"name\":\"hidden\"}]}", OLD, &[]);
    assert_eq!(folded, Err(Hostile::Malformed(Fault::CaseVariant)));
}

#[test]
fn results_that_are_no_list_are_refused() {
    for result in ["{}", r#"{"tools":{}}"#, r#"{"tools":null}"#] {
        assert_eq!(filter(result, OLD, &[]), Err(Hostile::BadResult), "{result}");
    }
    assert_eq!(filter(r#"{"tools":[],"resultType":"input_required"}"#, NEW, &[]), Err(Hostile::ResultType));
    let error = Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}"#);
    let error = Envelope::parse_server(error, &Limits::SERVER).unwrap();
    assert_eq!(filter_tools(&error, OLD, 0, |_| true, str::to_owned), Err(Hostile::NoResult));
}

#[test]
fn duty_37_annotations_of_schemas_stay_intact() {
    let tool = r#"{"name":"a","inputSchema":{"properties":{"r":{"type":"string","x-mcp-header":"Region"}}}}"#;
    let filtered = filter(&format!(r#"{{"tools":[{tool}]}}"#), NEW, &["a"]).unwrap();
    assert!(body(&filtered).contains(tool));
}

#[test]
fn duty_60_schemas_are_bounded_in_depth_and_references_are_only_text() {
    let deep = format!("{}1{}", "{\"not\":".repeat(70), "}".repeat(70));
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{{"name":"a","inputSchema":{deep}}}]}}}}"#);
    let refused = Envelope::parse_server(Bytes::from(text), &Limits::SERVER).unwrap_err();
    assert_eq!(refused.fault, Fault::TooDeep);
    let tool = r#"{"name":"a","inputSchema":{"$ref":"http://169.254.169.254/latest"}}"#;
    assert!(body(&filter(&format!(r#"{{"tools":[{tool}]}}"#), OLD, &["a"]).unwrap()).contains(tool));
}

#[test]
fn duty_30_names_outside_the_safe_set() {
    for safe in ["a", "get_x", "A.b-9", &"x".repeat(128)] {
        assert!(is_safe_name(safe), "{safe}");
    }
    for unsafe_name in ["", "a b", "é", "a/b", "a*", "a\u{200b}", &"x".repeat(129)] {
        assert!(!is_safe_name(unsafe_name), "{unsafe_name}");
    }
}

#[test]
fn duty_30_look_alikes_are_reported_together() {
    let names = ["get_file", "Get-File", "GET.FILE", "get_fi1e", "get_flle", "put_file", "getfile", "gét_file"];
    assert_eq!(look_alikes(names), [["GET.FILE", "Get-File", "get_fi1e", "get_file", "get_flle"].to_vec()]);
    assert!(look_alikes(["a", "a", "b"]).is_empty());
}

#[test]
fn the_parts_of_a_definition_are_read() {
    let list = response(
        r#"{"tools":[{"name":"a","title":"T","description":"D","inputSchema":{"type":"object"},
        "outputSchema":{},"annotations":{"readOnlyHint":true}},{"nope":1}]}"#,
    );
    let tools = tools(&list).unwrap();
    assert_eq!(tools.len(), 1);
    let tool = &tools[0];
    assert_eq!((tool.title, tool.description), (Some(r#""T""#), Some(r#""D""#)));
    assert_eq!((tool.input_schema, tool.output_schema), (Some(r#"{"type":"object"}"#), Some("{}")));
    assert_eq!(tool.annotations, Some(r#"{"readOnlyHint":true}"#));
}

proptest! {
    #[test]
    fn duty_50_filtering_equals_filtering_the_parsed_list(names in proptest::collection::vec("[abc]{1,2}|é", 0..12), kept in "[abc]{1,2}") {
        let tools: Vec<Value> = names.iter().enumerate().map(|(n, name)| json!({"name": name, "n": n})).collect();
        let filtered = filter_tools(
            &response(&json!({"tools": tools, "z": {}}).to_string()), OLD, 0, |tool| *tool.name >= *kept, str::to_owned,
        ).unwrap();
        let expected: Vec<&Value> = tools.iter()
            .filter(|tool| tools.iter().filter(|other| other["name"] == tool["name"]).count() == 1)
            .filter(|tool| tool["name"].as_str().unwrap() >= &*kept)
            .collect();
        let value: Value = serde_json::from_slice(&filtered.body).unwrap();
        prop_assert_eq!(&value["result"], &json!({"tools": expected, "z": {}}));
    }
}
