//! The data of server-sent events, from a stream cut anywhere (WHATWG HTML, "Server-sent events").
//!
//! Invariant: never holds more than its limit; comments, ids and retry times are skipped: an inventory resumes nothing.

/// The stream holds an event longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Reads a stream in pieces.
#[derive(Debug)]
pub(super) struct Events {
    limit: usize,
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    after_cr: bool,
}

impl Events {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, line: Vec::new(), data: None, after_cr: false }
    }

    /// The data of the events that end in `chunk`.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Vec<u8>>, TooLarge> {
        let mut events = Vec::new();
        for &byte in chunk {
            let second_of_crlf = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
            match byte {
                b'\n' if second_of_crlf => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.as_ref().map_or(0, Vec::len) > self.limit {
                return Err(TooLarge);
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        if line == b"data" {
            self.add(b"");
        } else if let Some(value) = line.strip_prefix(b"data:") {
            self.add(value.strip_prefix(b" ").unwrap_or(value));
        }
        None
    }

    fn add(&mut self, value: &[u8]) {
        match &mut self.data {
            None => self.data = Some(value.to_vec()),
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_a_stream_is_cut_the_same_events_come_out() {
        let stream = b": hi\r\nevent: message\r\ndata: {\"a\":\r\ndata:1}\r\n\r\nid: 1\n\ndata: x\rdata\r\rdata: cut";
        let expected = vec![b"{\"a\":\n1}".to_vec(), b"x\n".to_vec()];
        for size in 1..=stream.len() {
            let mut events = Events::new(1000);
            let found: Vec<_> = stream.chunks(size).flat_map(|chunk| events.feed(chunk).unwrap()).collect();
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::new(10);
        assert_eq!(events.feed(b"data: 12\ndata: 34\ndata: 56\n"), Err(TooLarge));
        assert_eq!(Events::new(10).feed(&[b':'; 11]), Err(TooLarge));
    }
}
