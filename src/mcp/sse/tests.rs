use proptest::prelude::*;

use super::*;

fn read(chunks: &[&[u8]]) -> Vec<Item> {
    let mut parser = Parser::default();
    let mut items = Vec::new();
    for chunk in chunks {
        parser.feed(chunk, &mut items).unwrap();
    }
    items
}

fn event(data: &str) -> Item {
    Item::Event(Event::message(data))
}

#[test]
fn duty_62_the_three_line_ends() {
    for stream in [
        "data: a\n\ndata: b\n\n",
        "data: a\r\n\r\ndata: b\r\n\r\n",
        "data: a\r\rdata: b\r\r",
        "data: a\n\r\ndata: b\r\n\r",
    ] {
        assert_eq!(read(&[stream.as_bytes()]), [event("a"), event("b")], "{stream:?}");
    }
    // A carriage return ends the line at once: the line feed of the next chunk is not an empty line.
    assert_eq!(read(&[b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n"]), [event("a\nb")]);
    // ... and a block ended by it does not wait for that line feed.
    assert_eq!(read(&[b"data: a\r\n\r"]), [event("a")]);
}

#[test]
fn duty_62_fields_as_the_standard_reads_them() {
    let items = read(&[b"event: e\nid: 7\nretry: 250\ndata:  x\ndata\ndata:y\nother: z\nretry: 1s\nid: a\0b\n\n"]);
    let expected = Event {
        event: Some("e".to_owned()),
        data: Some(b" x\n\ny".to_vec()),
        id: Some("7".to_owned()),
        retry: Some(250),
    };
    assert_eq!(items, [Item::Event(expected)]);
}

#[test]
fn duty_62_comments_and_the_byte_order_mark() {
    assert_eq!(
        read(&[b"\xef\xbb", b"\xbf: hi\n\n:\n:x\ndata: \xef\xbb\xbf\n\n"]),
        [Item::Comment(b" hi".to_vec()), Item::Comment(Vec::new()), Item::Comment(b"x".to_vec()), event("\u{feff}")]
    );
    // A mark that is not the stream's first is part of a field name, and so of an unknown field.
    assert_eq!(read(&[b"\n\xef\xbb\xbfdata: x\n\n"]), []);
}

#[test]
fn duty_67_priming_events_and_bare_fields_are_kept() {
    let items = read(&[b"id: 1\ndata:\n\nretry: 5\n\nid\n\n\n\nunknown: x\n\n"]);
    assert_eq!(
        items,
        [
            Item::Event(Event { id: Some("1".to_owned()), data: Some(Vec::new()), ..Event::default() }),
            Item::Event(Event { retry: Some(5), ..Event::default() }),
            Item::Event(Event { id: Some(String::new()), ..Event::default() }),
        ]
    );
}

#[test]
fn duty_62_an_unfinished_block_is_no_event() {
    let mut parser = Parser::default();
    let mut items = Vec::new();
    assert!(!parser.is_cut());
    parser.feed(b"data: x\n", &mut items).unwrap();
    assert!(parser.is_cut() && items.is_empty());
    parser.feed(b"\n", &mut items).unwrap();
    assert!(!parser.is_cut() && items.len() == 1);
}

#[test]
fn duty_62_events_and_comments_are_bounded() {
    let feed = |limit: usize, bytes: &[u8]| Parser::new(limit).feed(bytes, &mut Vec::new());
    assert_eq!(feed(8, b"data: xx\n\n"), Ok(()));
    assert_eq!(feed(8, b"data: xxx\n\n"), Err(StreamFault::TooLarge));
    assert_eq!(feed(8, b":xxxxxxxxxx"), Err(StreamFault::TooLarge));
    assert_eq!(feed(8, b"id:1\nid:2\nid:3\n"), Err(StreamFault::TooLarge));
    assert_eq!(feed(8, &b"id:1\n\n".repeat(100)), Ok(()));
    // Fields that mean nothing do not let a block grow without end either.
    assert_eq!(feed(64, &b"x\n".repeat(100)), Err(StreamFault::TooLarge));
    assert_eq!(feed(8, b"id: \xff\n"), Err(StreamFault::NotUtf8));
}

#[test]
fn only_plain_events_with_data_are_messages() {
    let message = |stream: &[u8]| matches!(read(&[stream]).first(), Some(Item::Event(event)) if event.is_message());
    assert!(message(b"data: x\n\n") && message(b"event: message\ndata: x\n\n") && message(b"event\ndata: x\n\n"));
    assert!(!message(b"event: endpoint\ndata: /x\n\n") && !message(b"id: 1\n\n"));
}

#[test]
fn what_is_written_cannot_become_more_than_one_event() {
    let mut out = Vec::new();
    Item::Event(Event {
        event: Some("a\ndata: forged".to_owned()),
        id: Some("1\r\rdata: forged".to_owned()),
        data: Some(b"x\r\n\n\rid: 2".to_vec()),
        retry: None,
    })
    .write(&mut out);
    Item::Comment(b"c\ndata: forged".to_vec()).write(&mut out);
    let items = read(&[&out]);
    let written = Event {
        event: Some("a".to_owned()),
        id: Some("1".to_owned()),
        data: Some(b"x\n\n\nid: 2".to_vec()),
        retry: None,
    };
    assert_eq!(items[0], Item::Event(written));
    assert!(items[1..].iter().all(|item| matches!(item, Item::Comment(_))));
}

/// The slow, obvious reference: the whole stream at once, line by line, by the words of the standard.
fn reference(stream: &[u8]) -> Vec<Item> {
    let text = String::from_utf8(stream.to_vec()).unwrap();
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n").replace('\r', "\n");
    let Some((lines, _)) = text.rsplit_once('\n') else { return Vec::new() };
    let mut items = Vec::new();
    let mut event = Event::default();
    for line in lines.split('\n') {
        if line.is_empty() {
            if event != Event::default() {
                items.push(Item::Event(std::mem::take(&mut event)));
            }
            continue;
        }
        if let Some(comment) = line.strip_prefix(':') {
            items.push(Item::Comment(comment.as_bytes().to_vec()));
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                let before = event.data.take().map(|data| [data, b"\n".to_vec()].concat()).unwrap_or_default();
                event.data = Some([before, value.as_bytes().to_vec()].concat());
            }
            "event" => event.event = Some(value.to_owned()),
            "id" if !value.contains('\0') => event.id = Some(value.to_owned()),
            "retry" if value.chars().all(|c| c.is_ascii_digit()) => event.retry = value.parse().ok().or(event.retry),
            _ => {}
        }
    }
    items
}

fn stream() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("\n"), 2 => Just("\r"), 2 => Just("\r\n"), 3 => Just("data"), 3 => Just(":"), 1 => Just(" "),
        1 => Just("id"), 1 => Just("event"), 1 => Just("retry"), 1 => Just("12"), 1 => Just("\u{feff}"), 1 => Just("é"),
        1 => Just("\0"),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn duty_62_the_parser_agrees_with_the_standard_however_the_stream_is_cut(
        stream in stream(), cuts in proptest::collection::vec(0usize..100, 0..6),
    ) {
        let bytes = stream.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(read(&chunks), reference(bytes));
    }

    #[test]
    fn duty_62_what_is_written_reads_back(stream in stream()) {
        let items = read(&[stream.as_bytes()]);
        let mut written = Vec::new();
        items.iter().for_each(|item| item.write(&mut written));
        prop_assert_eq!(read(&[&written]), items);
    }
}

#[test]
fn duty_62_a_large_line_leaves_no_large_buffer() {
    let mut parser = Parser::default();
    let mut items = Vec::new();
    parser.feed(format!("data: {}", "x".repeat(1 << 20)).as_bytes(), &mut items).unwrap();
    assert!(parser.held() > 1 << 20);
    parser.feed(b"\n\n", &mut items).unwrap();
    assert_eq!((items.len(), parser.held()), (1, 0));
    assert!(parser.line.capacity() <= KEPT, "{}", parser.line.capacity());
}
