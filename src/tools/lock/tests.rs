use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn texts(definitions: &[Value]) -> Vec<String> {
    definitions.iter().map(Value::to_string).collect()
}

fn locked(definitions: &[String]) -> Written {
    let found = lockable(definitions.iter().map(String::as_str));
    let reviewed =
        found.values().map(|(tool, digest)| Reviewed { tool: tool.clone(), digest: *digest, risk: Some(Risk::Write) });
    write(reviewed).unwrap()
}

fn some_tools() -> Vec<String> {
    texts(&[
        json!({"name": "b", "title": "B", "description": "x\u{202e}y — é \u{1f600}", "inputSchema": {"type": "object",
            "properties": {"n": {"maximum": 1e21, "enum": [[], {}, "a:b,c{}\"\\", null]}}}, "outputSchema": {},
            "annotations": {"readOnlyHint": true}, "_meta": {"v": 1}}),
        json!({"name": "a"}),
        json!({"name": "ü \"\\ x", "description": null}),
    ])
}

#[test]
fn what_is_written_is_what_a_reviewer_reads_and_is_read_back() {
    let written = locked(&some_tools());
    assert!(written.definitions && written.text.ends_with("}\n"));
    let tools = read(&written.text).unwrap();
    assert_eq!(tools.keys().collect::<Vec<_>>(), ["a", "b", "ü \"\\ x"]);
    for text in some_tools() {
        let tool = ToolView::read(&text).unwrap();
        assert_eq!(drift(&tools, &tool.name, tool_digest(&tool)), None);
    }
    let lock: Value = serde_json::from_str(&written.text).unwrap();
    let original: Value = serde_json::from_str(&some_tools()[0]).unwrap();
    for member in ["title", "description", "outputSchema", "annotations"] {
        assert_eq!(lock["tools"][1][member], original[member], "{member}");
    }
    let head: Vec<&str> = written.text.lines().skip(13).take(5).map(str::trim).collect();
    assert_eq!(head[0], "\"title\": \"B\",", "{}", written.text);
    assert_eq!(head[1], "\"description\": \"x\\u202ey — é \\ud83d\\ude00\",", "{}", written.text);
    // However they are listed, and written there.
    let mut turned = some_tools();
    turned.reverse();
    turned[1] = turned[1].replacen("{\"name\"", "{ \"name\"", 1);
    assert_eq!(locked(&turned), written);
}

#[test]
fn duty_59_a_lock_in_which_anything_else_stands_is_refused_whole() {
    let text = locked(&some_tools()).text;
    for (from, to) in [
        ("\"format\": 1", "\"format\": 2"),
        ("\"format\": 1", "\"format\": 1, \"more\": 1"),
        ("\"format\": 1,", ""),
        ("\"definitions\": true", "\"definitions\": false"),
        ("\"name\": \"a\"", "\"name\": \"b\""),
        ("\"name\": \"a\"", "\"name\": \"\""),
        ("\"name\": \"a\"", "\"name\": \"c\""),
        ("\"name\": \"a\"", "\"Name\": \"a\""),
        ("\"name\": \"a\"", "\"name\": \"a\", \"description\": \"trust me\""),
        ("\"name\": \"a\"", "\"name\": \"a\", \"name\": \"a\""),
        ("\"risk\": \"Write\"", "\"risk\": \"Harmless\""),
        ("\"risk\": \"Write\"", "\"rsk\": \"Write\""),
        ("\"digest\": \"sha256:", "\"digest\": \"sha1:"),
        ("x\\u202ey", "x\\u202ez"),
        ("\"readOnlyHint\": true", "\"readOnlyHint\": false"),
        ("]\n}\n", "]\n"),
        ("{\n  \"format\"", "\u{feff}{\n  \"format\""),
    ] {
        assert!(text.contains(from), "{from} is not in {text}");
        let edited = text.replacen(from, to, 1);
        assert!(read(&edited).is_err(), "{from} -> {to}");
    }
    assert!(read(&text.replacen("\"risk\": \"Write\"", "\"risk\": null", 1)).is_ok(), "a class is the reviewer's");
    assert!(read("").is_err() && read("[]").is_err());
    let twice = text.replacen("  \"tools\": [\n", &format!("  \"tools\": [\n{},\n", entry_of_a(&text)), 1);
    assert_eq!(read(&twice), Err(LockError::Twice("a".into())));
}

fn entry_of_a(text: &str) -> String {
    let (_, entries) = text.split_once("\"tools\": [\n").unwrap();
    entries.split_once(",\n    {").unwrap().0.to_owned()
}

#[test]
fn what_is_too_large_is_locked_by_digest_and_what_is_too_much_is_not() {
    let large: Vec<String> = (0..1000)
        .map(|n| json!({"name": format!("tool-{n}"), "description": "long ".repeat(400)}).to_string())
        .collect();
    let written = locked(&large);
    assert!(!written.definitions && written.text.len() < FILLED, "{}", written.text.len());
    let tools = read(&written.text).unwrap();
    assert_eq!(tools.len(), 1000);
    let tool = ToolView::read(&large[7]).unwrap();
    assert_eq!(drift(&tools, "tool-7", tool_digest(&tool)), None);
    let many: Vec<String> = (0..MOST_TOOLS).map(|n| json!({"name": format!("{n:0>40}")}).to_string()).collect();
    let found = lockable(many.iter().map(String::as_str));
    let reviewed = found.values().map(|(tool, digest)| Reviewed { tool: tool.clone(), digest: *digest, risk: None });
    assert!(matches!(write(reviewed), Err(LockError::TooLarge { tools: MOST_TOOLS, .. })));
}

#[test]
fn parts_are_small_few_and_locks_of_their_own() {
    let tool =
        |n: usize, size: usize| json!({"name": format!("t{n:0>5}"), "description": "y".repeat(size)}).to_string();
    let mut listed: Vec<String> = (0..100).map(|n| tool(n, 40_000)).collect();
    listed.push(tool(999, FILLED));
    let found = lockable(listed.iter().map(String::as_str));
    let reviewed = || found.values().map(|(tool, digest)| Reviewed { tool: tool.clone(), digest: *digest, risk: None });
    let (parts, left_out) = write_parts(reviewed(), 10);
    assert_eq!((parts.len(), left_out), (5, 1));
    let read_back: usize = parts.iter().map(|part| read(part).unwrap().len()).sum();
    assert_eq!(read_back, 100);
    assert!(parts.iter().all(|part| part.len() <= FILLED));
    let (parts, left_out) = write_parts(reviewed(), 2);
    let kept: usize = parts.iter().map(|part| read(part).unwrap().len()).sum();
    assert_eq!((parts.len(), kept + left_out), (2, 101));
}

#[test]
fn what_cannot_be_told_apart_or_digested_is_not_locked() {
    let listed =
        ["{\"name\":\"a\"}", "{\"name\":\"a\",\"title\":\"x\"}", "{\"name\":\"b\"}", "{}", "[]", "{\"name\":\"\"}"];
    assert_eq!(lockable(listed).keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn duty_59_every_difference_has_its_name() {
    let digest = |text: &str| tool_digest(&ToolView::read(text).unwrap());
    let (a, b, other) =
        (digest("{\"name\":\"a\"}"), digest("{\"name\":\"b\"}"), digest("{\"name\":\"a\",\"title\":\"\"}"));
    let tools = Tools::from([
        ("a".to_owned(), LockedTool(a.unwrap(), None)),
        ("b".to_owned(), LockedTool(b.unwrap(), Some(Risk::Write))),
    ]);
    assert_eq!(drift(&tools, "a", a), None);
    assert_eq!(drift(&tools, "a", other), Some(Drift::Changed));
    assert_eq!(drift(&tools, "a", None), Some(Drift::Changed));
    assert_eq!(drift(&tools, "A", a), Some(Drift::New));
    let listed = BTreeMap::from([("a", other), ("c", a)]);
    let found = drifts(&tools, &listed);
    assert_eq!(found, BTreeMap::from([("a", Drift::Changed), ("b", Drift::Gone), ("c", Drift::New)]));
    assert!(drifts(&Tools::new(), &BTreeMap::new()).is_empty());
}

#[test]
fn what_misleads_a_reader_is_escaped_and_letters_are_not() {
    let visible = |text: &str| {
        let mut out = String::new();
        text.chars().for_each(|c| push_visible(&mut out, c));
        out
    };
    for plain in ["prénom", "名前、「x」。", "Größe…", "a–b “c”", "हिन्दी".get(..3).unwrap(), "~ \\"]
    {
        assert_eq!(visible(plain), plain);
    }
    for (hidden, shown) in [
        ("\u{e0041}", "\\udb40\\udc41"),
        ("\u{200b}", "\\u200b"),
        ("\u{2066}", "\\u2066"),
        ("\u{a0}", "\\u00a0"),
        ("\u{ad}", "\\u00ad"),
        ("\u{fe0f}", "\\ufe0f"),
        ("\u{3164}", "\\u3164"),
        ("\u{7f}", "\\u007f"),
        ("\u{2028}", "\\u2028"),
    ] {
        assert_eq!(visible(hidden), shown);
    }
}

/// Any JSON value with strings that hold everything.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn duty_59_any_definition_is_locked_and_any_other_is_drift(
        schema in value(), other in value(), description in any::<String>(), annotations in value()
    ) {
        let of = |schema: &Value| json!({"name": "t", "description": description, "inputSchema": schema,
            "annotations": annotations}).to_string();
        let text = of(&schema);
        let written = locked(std::slice::from_ref(&text));
        prop_assert!(written.text.chars().all(|c| c == '\n' || !c.is_control()), "{}", written.text);
        let tools = read(&written.text).unwrap();
        let digest = |text: &str| tool_digest(&ToolView::read(text).unwrap());
        prop_assert_eq!(drift(&tools, "t", digest(&text)), None);
        let same = schema == other;
        prop_assert_eq!(drift(&tools, "t", digest(&of(&other))).is_none(), same);
        let lock: Value = serde_json::from_str(&written.text).unwrap();
        prop_assert_eq!(&lock["tools"][0]["inputSchema"], &schema);
        prop_assert_eq!(&lock["tools"][0]["description"], &Value::from(description));
    }

    #[test]
    fn no_text_is_read_in_pieces(text in any::<String>(), at in any::<prop::sample::Index>()) {
        let whole = locked(&some_tools()).text;
        let Some((head, tail)) = whole.split_at_checked(at.index(whole.len())) else { return Ok(()) };
        prop_assert!(read(head).is_err() || tail == "\n");
        // Whatever is put in: it is refused, or means the same tools.
        if let Ok(tools) = read(&format!("{head}{text}{tail}")) {
            prop_assert_eq!(tools.len(), 3);
        }
    }
}
