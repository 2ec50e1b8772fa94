use proptest::prelude::*;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::*;

fn scan(text: &[u8]) -> Result<(), Fault> {
    check(text, &Limits::CLIENT)
}

/// The slow, obvious reference: any JSON value in which no object names a member twice.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique, D::Error> {
        struct Naive;
        impl<'de> Visitor<'de> for Naive {
            type Value = Unique;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if names.contains(&name) {
                        return Err(de::Error::custom("duplicate"));
                    }
                    names.push(name);
                    map.next_value::<Unique>()?;
                }
                Ok(Unique)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
                while seq.next_element::<Unique>()?.is_some() {}
                Ok(Unique)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_unit<E>(self) -> Result<Unique, E> {
                Ok(Unique)
            }
        }
        deserializer.deserialize_any(Naive)
    }
}

/// Holds the scanner to the reference.
fn agree(text: &[u8]) -> Result<(), TestCaseError> {
    let reference = serde_json::from_slice::<Unique>(text);
    prop_assert_eq!(scan(text).is_ok(), reference.is_ok(), "{}", String::from_utf8_lossy(text));
    Ok(())
}

/// JSON as people and attackers write it: odd spaces, escapes, repeated and near-repeated names, truncation.
fn json() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just(r#""a""#.to_owned()),
        Just(r#""\u0061""#.to_owned()),
        Just(r#""A""#.to_owned()),
        Just(r#""b""#.to_owned()),
        Just(r#""\ud83d\ude00""#.to_owned()),
        Just("\"\u{1f600}\"".to_owned()),
        "\"[a-p]{1,2}\"",
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("-0.0e+5".to_owned()),
        Just(r#""\ud800""#.to_owned()),
        Just(r#""\n\/\u00e9 é""#.to_owned()),
        "-?[0-9]{1,3}(\\.[0-9]{0,2})?(e[+-]?[0-9]{0,2})?",
        "\"[ -~]{0,12}\"",
    ];
    leaf.prop_recursive(6, 60, 24, move |inner| {
        let member = (name.clone(), inner.clone()).prop_map(|(name, value)| format!("{name} :{value}"));
        prop_oneof![
            proptest::collection::vec(inner, 0..6).prop_map(|values| format!("[{} ]", values.join(" ,"))),
            proptest::collection::vec(member, 0..24).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn duty_22_24_the_scanner_agrees_with_a_naive_reader(text in json()) {
        agree(text.as_bytes())?;
    }

    #[test]
    fn duty_24_one_changed_byte_is_judged_like_the_naive_reader(text in json(), at: usize, byte: u8) {
        let mut bytes = text.into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        agree(&bytes)?;
    }

    #[test]
    fn duty_24_every_cut_is_judged_like_the_naive_reader(text in json(), at: usize) {
        agree(&text.as_bytes()[..at % text.len()])?;
    }

    #[test]
    fn strings_decode_as_the_naive_reader_decodes_them(string: String, escape: bool) {
        let mut text = serde_json::to_string(&string).unwrap();
        if escape {
            let units: String = string.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            text = format!("\"{units}\"");
        }
        let limits = Limits::CLIENT;
        let mut scanner = Scanner::new(text.as_bytes(), &limits).unwrap();
        let read = scanner.string().unwrap();
        prop_assert_eq!(read.decode(&text), string);
    }
}

#[test]
fn duty_22_duplicate_members_at_any_depth() {
    for text in [r#"{"a":1,"a":2}"#, r#"{"a":{"b":[{"c":1,"d":2,"c":3}]}}"#, r#"[{"x":{"":1,"":1}}]"#] {
        assert_eq!(scan(text.as_bytes()), Err(Fault::DuplicateMember), "{text}");
    }
    assert_eq!(scan(br#"{"a":{"a":{"a":[{"a":1},{"a":2}]}}}"#), Ok(()));
}

#[test]
fn duty_22_duplicate_member_after_unescaping() {
    for text in [
        r#"{"a":1,"\u0061":2}"#,
        r#"{"\u0061":1,"a":2}"#,
        r#"{"\u0061":1,"\u0061":2}"#,
        r#"{"/":1,"\/":2}"#,
        "{\"\u{1f600}\":1,\"\\uD83D\\uDE00\":2}",
        r#"{"\uD83D\uDE00":1,"\ud83d\ude00":2}"#,
    ] {
        assert_eq!(scan(text.as_bytes()), Err(Fault::DuplicateMember), "{text}");
    }
    assert_eq!(scan(br#"{"a":1,"A":2,"\u0062":3,"\\u0061":4}"#), Ok(()));
}

#[test]
fn duty_22_duplicates_are_found_wherever_they_stand_in_large_objects() {
    for count in [15, 16, 17, 18, 40] {
        let members: Vec<String> = (0..count).map(|n| format!("\"m{n}\":{n}")).collect();
        assert_eq!(scan(format!("{{{}}}", members.join(",")).as_bytes()), Ok(()));
        for repeated in [0, 14, count / 2, count - 1] {
            let text = format!("{{{},\"\\u006d{repeated}\":0}}", members.join(","));
            assert_eq!(scan(text.as_bytes()), Err(Fault::DuplicateMember), "{text}");
        }
    }
}

#[test]
fn duty_24_bom_trailing_data_encodings_and_surrogates() {
    let cases: &[(&[u8], Fault)] = &[
        (b"\xef\xbb\xbf{}", Fault::ByteOrderMark),
        (b"{} {}", Fault::TrailingData),
        (b"{}\0", Fault::TrailingData),
        (b"1 ]", Fault::TrailingData),
        (b"{\"a\":\"\xff\"}", Fault::NotUtf8),
        (b"\"\xed\xa0\x80\"", Fault::NotUtf8),
        (b"\"\xc0\xaf\"", Fault::NotUtf8),
        (br#""\ud800""#, Fault::LoneSurrogate),
        (br#""\udc00""#, Fault::LoneSurrogate),
        (br#""\ud800\ud800""#, Fault::LoneSurrogate),
        (br#""\ud800x""#, Fault::LoneSurrogate),
        (br#"{"\udead":1}"#, Fault::LoneSurrogate),
        (b"", Fault::NotJson),
        (b"  ", Fault::NotJson),
        (b"{", Fault::NotJson),
        (b"{\"a\":1,}", Fault::NotJson),
        (b"{'a':1}", Fault::NotJson),
        (b"{\"a\" 1}", Fault::NotJson),
        (b"[1,]", Fault::NotJson),
        (b"[,1]", Fault::NotJson),
        (b"01", Fault::TrailingData),
        (b"1.", Fault::NotJson),
        (b".5", Fault::NotJson),
        (b"+1", Fault::NotJson),
        (b"1e", Fault::NotJson),
        (b"-", Fault::NotJson),
        (b"NaN", Fault::NotJson),
        (b"nul", Fault::NotJson),
        (b"\"a\nb\"", Fault::NotJson),
        (b"\"\\x41\"", Fault::NotJson),
        (b"\"\\u12g4\"", Fault::NotJson),
        (b"\"\\u+123\"", Fault::NotJson),
        (b"/* */ {}", Fault::NotJson),
        (b"\x0b{}", Fault::NotJson),
        ("\u{a0}{}".as_bytes(), Fault::NotJson),
    ];
    for (text, fault) in cases {
        assert_eq!(scan(text), Err(*fault), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn duty_24_depth_is_bounded() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(scan(nested(64).as_bytes()), Ok(()));
    assert_eq!(scan(nested(65).as_bytes()), Err(Fault::TooDeep));
    assert_eq!(scan("{\"a\":".repeat(100_000).as_bytes()), Err(Fault::TooDeep));
    let deeper = Limits { depth: usize::MAX, ..Limits::CLIENT };
    assert_eq!(check(nested(128).as_bytes(), &deeper), Ok(()));
    assert_eq!(check(nested(129).as_bytes(), &deeper), Err(Fault::TooDeep));
    // Siblings do not add up.
    assert_eq!(scan(format!("[{}1]", "[[]],".repeat(1000)).as_bytes()), Ok(()));
}

#[test]
fn duty_6_sizes_are_bounded() {
    let small = Limits { body: 8, members: 3, number: 4, ..Limits::CLIENT };
    assert_eq!(check(b"[1,2,3]", &small), Ok(()));
    assert_eq!(check(b"[1,2,3,4]", &small), Err(Fault::TooLarge));
    let small = Limits { body: 64, ..small };
    assert_eq!(check(b"[1,2,3,4]", &small), Err(Fault::TooManyMembers));
    assert_eq!(check(br#"{"a":{"b":[{"c":1}]}}"#, &small), Err(Fault::TooManyMembers));
    assert_eq!(check(b"12345", &small), Err(Fault::NumberTooLong));
}

#[test]
fn duty_21_numbers_that_no_double_holds_are_refused_and_long_ones_pass() {
    let zeros = |count: usize| format!("1{}", "0".repeat(count));
    for good in [
        "1.7976931348623157e308".to_owned(),
        "-1.7976931348623157E+308".to_owned(),
        "1e-400".to_owned(),
        "0e400".to_owned(),
        format!("0.{}1e400", "0".repeat(200)),
        "18446744073709551616".to_owned(),
        zeros(308),
    ] {
        assert_eq!(scan(good.as_bytes()), Ok(()), "{good}");
    }
    let over = ["1e400".to_owned(), "-1E+309".to_owned(), "1.8e308".to_owned(), zeros(309), format!("-{}", zeros(310))];
    for bad in over.into_iter().chain([format!("{}.5", zeros(309)), "1e99999999999999999999".to_owned()]) {
        assert_eq!(scan(bad.as_bytes()), Err(Fault::NumberTooLarge), "{bad}");
        let within = format!(r#"{{"a":[{bad}]}}"#);
        assert_eq!(scan(within.as_bytes()), Err(Fault::NumberTooLarge), "{within}");
    }
}

#[test]
fn duty_23_case_variants_of_known_names() {
    let judge = |text: &str| {
        let limits = Limits::CLIENT;
        let mut scanner = Scanner::new(text.as_bytes(), &limits).unwrap();
        let name = scanner.string().unwrap();
        member_of(text, name, &["method", "params", "task"]).map_err(|slip| slip.fault)
    };
    assert_eq!(judge(r#""params""#), Ok(Some("params")));
    assert_eq!(judge(r#""p\u0061rams""#), Ok(Some("params")));
    assert_eq!(judge(r#""paramz""#), Ok(None));
    assert_eq!(judge(r#""paramß""#), Ok(None));
    for text in
        [r#""Params""#, r#""METHOD""#, r#""\u0050arams""#, "\"param\u{17f}\"", "\"tas\u{212a}\"", "\"TA\u{17f}K\""]
    {
        assert_eq!(judge(text), Err(Fault::CaseVariant), "{text}");
    }
}

#[test]
fn special_bytes_are_found_at_every_offset() {
    for special in [b'"', b'\\', 0, 0x1f, b'\n'] {
        for at in 0..40 {
            for len in at + 1..44 {
                let mut bytes = vec![b'\xc3'; len];
                bytes[at] = special;
                assert_eq!(plain_run(&bytes, 0), at);
            }
        }
    }
    assert_eq!(plain_run(&[b'!'; 33], 0), 33);
    assert_eq!(plain_run(&[0x80; 33], 1), 33);
}
