use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn digest_of(definition: &str) -> Option<Digest> {
    tool_digest(&ToolView::read(definition).unwrap())
}

#[test]
fn the_numbers_of_rfc_8785_appendix_b() {
    for (bits, expected) in [
        (0x0000_0000_0000_0000, "0"),
        (0x8000_0000_0000_0000, "0"),
        (0x0000_0000_0000_0001, "5e-324"),
        (0x8000_0000_0000_0001, "-5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "9007199254740992"),
        (0xc340_0000_0000_0000, "-9007199254740992"),
        (0x4430_0000_0000_0000, "295147905179352830000"),
        (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
        (0x44b5_2d02_c7e1_4af6, "1e+23"),
        (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
        (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x41b3_de43_5555_5553, "333333333.3333332"),
        (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
    ] {
        let mut text = String::new();
        push_number(&mut text, f64::from_bits(bits)).unwrap();
        assert_eq!(text, expected);
    }
}

#[test]
fn the_example_of_rfc_8785_section_3_2() {
    let source = r#"{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"#;
    assert_eq!(
        canonical(source.as_bytes()).unwrap(),
        "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
         \"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
    );
}

#[test]
fn members_are_sorted_by_utf_16_code_units() {
    let source = json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7});
    let canonical = canonical(source.to_string().as_bytes()).unwrap();
    let order: Vec<usize> = [2, 4, 6, 7, 1, 5, 3].iter().map(|n| canonical.find(&format!(":{n}")).unwrap()).collect();
    assert!(order.is_sorted(), "{canonical}");
}

#[test]
fn the_digest_is_a_sha_256_in_hex() {
    assert_eq!(sha256(b"abc").to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    let definition = r#"{"name":"a","inputSchema":{"type":"object"}}"#;
    assert_eq!(digest_of(definition).unwrap(), sha256(br#"{"inputSchema":{"type":"object"},"name":"a"}"#));
}

#[test]
fn duty_59_how_a_definition_is_written_does_not_count() {
    let digest = digest_of(r#"{"name":"a","description":"é","inputSchema":{"x":1,"y":[2.50]}}"#);
    for same in [
        r#"{ "inputSchema":{"y":[25e-1],"x":1.0}, "description":"\u00e9", "name":"\u0061" }"#,
        r#"{"name":"a","description":"é","inputSchema":{"x":1,"y":[2.50]},"_meta":{"v":2},"icons":[]}"#,
    ] {
        assert_eq!(digest_of(same), digest, "{same}");
    }
}

#[test]
fn duty_59_what_a_definition_says_does() {
    let definitions = [
        r#"{"name":"a"}"#,
        r#"{"name":"b"}"#,
        r#"{"name":"a","description":""}"#,
        r#"{"name":"a","description":null}"#,
        r#"{"name":"a","description":"x"}"#,
        r#"{"name":"a","inputSchema":{}}"#,
        r#"{"name":"a","title":"x"}"#,
        r#"{"name":"a","outputSchema":{}}"#,
        r#"{"name":"a","annotations":{}}"#,
        r#"{"name":"a","annotations":{"readOnlyHint":true}}"#,
        r#"{"name":"a","inputSchema":{"required":["x","y"]}}"#,
        r#"{"name":"a","inputSchema":{"required":["y","x"]}}"#,
    ];
    let digests: std::collections::HashSet<_> = definitions.iter().map(|d| digest_of(d).unwrap()).collect();
    assert_eq!(digests.len(), definitions.len());
}

#[test]
fn a_number_beyond_a_double_has_no_digest() {
    assert!(ToolView::read(r#"{"name":"a","inputSchema":{"maximum":1e999}}"#).is_none(), "nor is it read");
    assert_eq!(canonical(b"1e999"), None);
}

proptest! {
    #[test]
    fn numbers_read_back_exactly(bits: u64) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        let mut text = String::new();
        push_number(&mut text, number).unwrap();
        prop_assert_eq!(text.parse::<f64>().unwrap(), number);
        prop_assert!(serde_json::from_str::<Value>(&text).is_ok(), "{}", text);
    }

    #[test]
    fn canonical_text_is_its_own_canonical_form(string: String, name: String, number: f64) {
        let value = json!({"a": [string, number, null], format!("b{name}"): {"é": true}});
        let once = canonical(value.to_string().as_bytes()).unwrap();
        prop_assert_eq!(canonical(once.as_bytes()).unwrap(), once.clone());
        let read: Value = serde_json::from_str(&once).unwrap();
        prop_assert_eq!(&read["a"][0], &value["a"][0]);
    }
}
