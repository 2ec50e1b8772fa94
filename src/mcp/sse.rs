//! The event stream grammar of the WHATWG HTML standard ("Server-sent events"), whole: however the bytes are cut into
//! chunks, the same items come out, and what is written reads back as the same item.

/// One item of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A comment line without its colon: a keep-alive to be forwarded.
    Comment(Vec<u8>),
    /// A block of fields, ended by an empty line.
    Event(Event),
}

/// A block of fields. One without `data` is no event to a client, yet may set its last event id or retry time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The event's type; `message` if absent or empty.
    pub event: Option<String>,
    /// The data lines, joined by line feeds. Bytes, since the JSON scanner is the judge of them.
    pub data: Option<Vec<u8>>,
    /// The new last event id. Ids with a NUL are ignored.
    pub id: Option<String>,
    /// The new reconnection time in milliseconds. Values that are no number are ignored.
    pub retry: Option<u64>,
}

/// Why a stream cannot be read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// One event or comment is longer than the limit.
    #[error("an event of the stream is too large")]
    TooLarge,
    /// A field name, event type or id is not UTF-8.
    #[error("a field of the stream is not UTF-8")]
    NotUtf8,
}

impl StreamFault {
    /// A stable CamelCase word.
    pub fn reason(self) -> &'static str {
        match self {
            StreamFault::TooLarge => "EventTooLarge",
            StreamFault::NotUtf8 => "EventNotUtf8",
        }
    }
}

/// The longest event that a parser accepts unless told otherwise: as long as an upstream's message may be, and then
/// some for its fields.
pub const EVENT_LIMIT: usize = 33 << 20;

/// The largest line buffer that is kept for the next line.
const KEPT: usize = 64 << 10;

/// Reads a stream in pieces.
#[derive(Debug)]
pub struct Parser {
    limit: usize,
    /// The line that has begun, without its end.
    line: Vec<u8>,
    event: Event,
    /// Whether the block has a field yet.
    open: bool,
    /// Bytes of this block, complete lines only.
    held: usize,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_cr: bool,
    /// The next line is the stream's first, which may begin with a byte order mark.
    first: bool,
}

impl Default for Parser {
    fn default() -> Parser {
        Parser::new(EVENT_LIMIT)
    }
}

impl Parser {
    /// A parser at the beginning of a stream; `limit` bounds each event and each comment, in bytes.
    pub fn new(limit: usize) -> Parser {
        Parser { limit, line: Vec::new(), event: Event::default(), open: false, held: 0, after_cr: false, first: true }
    }

    /// Bytes that are held of what has not ended yet.
    pub fn held(&self) -> usize {
        self.held + self.line.len()
    }

    /// Reads the next bytes and appends what they complete. After an error the stream is not to be read further;
    /// items before it are good.
    pub fn feed(&mut self, mut chunk: &[u8], items: &mut Vec<Item>) -> Result<(), StreamFault> {
        while let Some(&next) = chunk.first() {
            if std::mem::take(&mut self.after_cr) && next == b'\n' {
                chunk = chunk.get(1..).unwrap_or_default();
                continue;
            }
            let end = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (line, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
            if self.held() + line.len() > self.limit {
                return Err(StreamFault::TooLarge);
            }
            self.line.extend_from_slice(line);
            let Some((&ending, rest)) = rest.split_first() else { return Ok(()) };
            self.after_cr = ending == b'\r';
            chunk = rest;
            self.end_line(items)?;
        }
        Ok(())
    }

    /// Whether bytes of an unfinished block are held: at the stream's end they are lost, as the standard says.
    pub fn is_cut(&self) -> bool {
        self.open || !self.line.is_empty()
    }

    fn end_line(&mut self, items: &mut Vec<Item>) -> Result<(), StreamFault> {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.first) && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        match line.split_first() {
            None => self.end_block(items),
            Some((b':', comment)) => items.push(Item::Comment(comment.to_vec())),
            Some(_) => {
                self.held += line.len();
                self.field(&line)?;
            }
        }
        // The buffer is used again, unless it has grown: one large line is no reason to hold its space for good.
        line.clear();
        if line.capacity() <= KEPT {
            self.line = line;
        }
        Ok(())
    }

    fn end_block(&mut self, items: &mut Vec<Item>) {
        self.held = 0;
        if std::mem::take(&mut self.open) {
            items.push(Item::Event(std::mem::take(&mut self.event)));
        }
    }

    fn field(&mut self, line: &[u8]) -> Result<(), StreamFault> {
        let colon = line.iter().position(|&byte| byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let text = || std::str::from_utf8(value).map_err(|_| StreamFault::NotUtf8);
        match name {
            b"data" => match &mut self.event.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.event.data = Some(value.to_vec()),
            },
            b"event" => self.event.event = Some(text()?.to_owned()),
            b"id" if !value.contains(&0) => self.event.id = Some(text()?.to_owned()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                // Digits that no clock can hold are ignored like other values that are no number.
                let Ok(retry) = text()?.parse() else { return Ok(()) };
                self.event.retry = Some(retry);
            }
            _ => return Ok(()),
        }
        self.open = true;
        Ok(())
    }
}

impl Item {
    /// Writes the item with line feeds as line ends.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Item::Comment(comment) => write_lines(out, b":", comment),
            Item::Event(event) => event.write(out),
        }
    }
}

impl Event {
    /// A plain event with these data.
    pub fn message(data: impl Into<Vec<u8>>) -> Event {
        Event { data: Some(data.into()), ..Event::default() }
    }

    /// Whether a client dispatches it as a message: it has data, and no other type.
    pub fn is_message(&self) -> bool {
        self.data.is_some() && self.event.as_deref().is_none_or(|event| event.is_empty() || event == "message")
    }

    /// Writes the event with line feeds as line ends, its empty line included.
    pub fn write(&self, out: &mut Vec<u8>) {
        if let Some(event) = &self.event {
            write_lines(out, b"event: ", first_line(event));
        }
        if let Some(id) = &self.id {
            write_lines(out, b"id: ", first_line(id));
        }
        if let Some(retry) = self.retry {
            write_lines(out, b"retry: ", retry.to_string().as_bytes());
        }
        if let Some(data) = &self.data {
            write_lines(out, b"data: ", data);
        }
        out.push(b'\n');
    }
}

/// Event types and ids end at a line end: a second line would be a field of its own.
fn first_line(text: &str) -> &[u8] {
    text.as_bytes().split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default()
}

/// One line per line of `text`, each behind `prefix`; all three kinds of line ends end a line.
fn write_lines(out: &mut Vec<u8>, prefix: &[u8], text: &[u8]) {
    let mut rest = text;
    loop {
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let (line, tail) = rest.split_at(end.unwrap_or(rest.len()));
        out.extend_from_slice(prefix);
        out.extend_from_slice(line);
        out.push(b'\n');
        match tail.strip_prefix(b"\r\n").or_else(|| tail.get(1..)) {
            Some(next) => rest = next,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests;
