//! However a stream is cut, the same items come out, and what is written reads back as the same items. The first byte
//! says how long the chunks are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::mcp::sse::{Item, Parser, StreamFault};

fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Item>, Option<StreamFault>) {
    let mut parser = Parser::new(1 << 16);
    let mut items = Vec::new();
    for chunk in chunks {
        if let Err(fault) = parser.feed(chunk, &mut items) {
            return (items, Some(fault));
        }
    }
    (items, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&length, stream)) = data.split_first() else { return };
    let (items, fault) = read(std::iter::once(stream));
    assert_eq!(read(stream.chunks(usize::from(length).max(1))), (items.clone(), fault));
    let mut written = Vec::new();
    items.iter().for_each(|item| item.write(&mut written));
    assert_eq!(read(std::iter::once(written.as_slice())), (items, None));
});
