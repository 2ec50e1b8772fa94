//! A raw HTTP/1.1 client: it sends exactly the bytes that a test wrote, and reads what comes back without judging it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use super::wait::PATIENCE;

/// An answer, with the body as it was after its transfer coding.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case, in order of appearance.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) event: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<String>,
    pub(crate) data: String,
}

impl Event {
    /// Takes the first whole event from what was read of a stream; comments are skipped.
    pub(crate) fn take(buffer: &mut String) -> Option<Self> {
        loop {
            let (block, rest) = buffer.split_once("\n\n")?;
            let event = parse_event(block);
            *buffer = rest.to_owned();
            if event.is_some() {
                return event;
            }
        }
    }
}

impl Response {
    /// The first value of the header `name` (lower case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, or the last event's data when it is a stream: what a JSON-RPC request was answered with.
    pub(crate) fn json(&self) -> Value {
        let is_stream = self.header("content-type").is_some_and(|t| t.starts_with("text/event-stream"));
        let text = if is_stream { self.events().pop().unwrap_or_default().data } else { self.text() };
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// The body as server-sent events; comments are left out.
    pub(crate) fn events(&self) -> Vec<Event> {
        let text = self.text().replace("\r\n", "\n").replace('\r', "\n");
        text.split("\n\n").filter_map(parse_event).collect()
    }
}

fn parse_event(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut data: Vec<&str> = Vec::new();
    for line in block.lines().filter(|line| !line.starts_with(':')) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => data.push(value),
            "event" => event.event = Some(value.to_owned()),
            "id" => event.id = Some(value.to_owned()),
            "retry" => event.retry = Some(value.to_owned()),
            _ => {}
        }
    }
    event.data = data.join("\n");
    (event != Event::default()).then_some(event)
}

/// One connection, kept open between requests.
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
    body: Framing,
}

/// How the rest of the body that is being read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Done,
    Bytes(usize),
    Chunked,
    UntilClose,
}

impl Connection {
    /// Connects to `address` (`host:port`).
    pub(crate) fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new(), body: Framing::Done }
    }

    /// Sends `bytes` as they are.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Says that nothing more will be sent.
    pub(crate) fn end(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Whether the other side closed the connection without sending anything more.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && !self.fill()
    }

    /// Everything that comes until the other side closes the connection.
    pub(crate) fn read_to_close(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.unread)
    }

    /// Whether something has come that is not read yet. Does not wait.
    pub(crate) fn has_bytes(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        !self.unread.is_empty() || peeked.is_ok()
    }

    /// Reads status and headers of the next final response (1xx are skipped); its body is still to be read.
    pub(crate) fn read_head(&mut self) -> Response {
        loop {
            let mut head = self.take_through(b"\r\n\r\n");
            head.truncate(head.len() - 2);
            let head = String::from_utf8_lossy(&head).into_owned();
            let mut lines = head.split_terminator("\r\n");
            let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
            let status = status.unwrap_or_else(|| panic!("no HTTP response: {head:?}"));
            let headers = lines
                .map(|l| l.split_once(':').unwrap_or_else(|| panic!("no header: {l:?}")))
                .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
                .collect();
            let response = Response { status, headers, body: Vec::new() };
            self.body = framing(&response);
            if status >= 200 {
                return response;
            }
        }
    }

    /// Reads the next head, be it interim or final.
    pub(crate) fn read_interim(&mut self) -> String {
        String::from_utf8_lossy(&self.take_through(b"\r\n\r\n")).into_owned()
    }

    /// Reads the `100 Continue` that asks for the body, and nothing behind it.
    pub(crate) fn read_continue(&mut self) {
        let head = self.read_interim();
        assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    }

    /// Reads a whole response.
    pub(crate) fn read(&mut self) -> Response {
        let mut response = self.read_head();
        while let Some(piece) = self.read_some() {
            response.body.extend(piece);
        }
        response
    }

    /// Reads the next piece of the current body as it arrives; nothing when the body has ended.
    pub(crate) fn read_some(&mut self) -> Option<Vec<u8>> {
        match self.body {
            Framing::Done => None,
            Framing::Bytes(left) => {
                if self.unread.is_empty() {
                    assert!(self.fill(), "the body was cut {left} bytes before its end");
                }
                let piece: Vec<u8> = self.unread.drain(..left.min(self.unread.len())).collect();
                self.body = if piece.len() == left { Framing::Done } else { Framing::Bytes(left - piece.len()) };
                Some(piece)
            }
            Framing::Chunked => self.read_chunk(),
            Framing::UntilClose => {
                if self.unread.is_empty() && !self.fill() {
                    self.body = Framing::Done;
                    return None;
                }
                Some(std::mem::take(&mut self.unread))
            }
        }
    }

    fn read_chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.take_through(b"\r\n");
        let line = String::from_utf8_lossy(&line).into_owned();
        let size = line.trim().split(';').next().unwrap();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|e| panic!("chunk size {size:?}: {e}"));
        if size == 0 {
            while self.take_through(b"\r\n") != b"\r\n" {}
            self.body = Framing::Done;
            return None;
        }
        while self.unread.len() < size + 2 {
            assert!(self.fill(), "the stream was cut within a chunk");
        }
        let chunk = self.unread.drain(..size).collect();
        self.unread.drain(..2);
        Some(chunk)
    }

    /// Reads the next event of a stream whose head was read; nothing at its end. Comments are skipped.
    pub(crate) fn read_event(&mut self, buffer: &mut String) -> Option<Event> {
        loop {
            if let Some(event) = Event::take(buffer) {
                return Some(event);
            }
            let piece = self.read_some()?;
            buffer.push_str(&String::from_utf8_lossy(&piece).replace("\r\n", "\n"));
        }
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(n) => {
                self.unread.extend_from_slice(&piece[..n]);
                true
            }
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(e) => panic!("reading failed: {e}; so far: {:?}", String::from_utf8_lossy(&self.unread)),
        }
    }

    fn take_through(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|w| w == end) {
                return self.unread.drain(..at + end.len()).collect();
            }
            assert!(self.fill(), "closed early; so far: {:?}", String::from_utf8_lossy(&self.unread));
        }
    }
}

fn framing(response: &Response) -> Framing {
    if response.status < 200 || matches!(response.status, 204 | 304) {
        return Framing::Done;
    }
    if response.header("transfer-encoding").is_some_and(|t| t.contains("chunked")) {
        return Framing::Chunked;
    }
    match response.header("content-length").map(|n| n.parse().unwrap()) {
        Some(0) => Framing::Done,
        Some(n) => Framing::Bytes(n),
        None => Framing::UntilClose,
    }
}

/// `host:port` and path of an `http://` URL.
pub(crate) fn split(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("{url} is not plain http"));
    rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash))
}

/// Sends `bytes` to `address` (`host:port`) on a new connection and reads one response.
pub(crate) fn send(address: &str, bytes: &[u8]) -> Response {
    let mut connection = Connection::open(address);
    connection.write(bytes);
    connection.read()
}

/// The bytes of a request with `Host`, `Content-Length` when there is a body, and `headers` as given, in order.
pub(crate) fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let (host, path) = split(url);
    let mut out = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        out.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    out.push_str("\r\n");
    [out.as_bytes(), body].concat()
}

/// GETs `url` on a new connection.
pub(crate) fn get(url: &str, headers: &[(&str, &str)]) -> Response {
    send(split(url).0, &request("GET", url, headers, b""))
}

/// POSTs `body` to an MCP endpoint on a new connection, with the content type and Accept header that clients send, the
/// bearer `token` if any, and `headers`.
pub(crate) fn post(url: &str, token: Option<&str>, headers: &[(&str, &str)], body: &[u8]) -> Response {
    send(split(url).0, &mcp_request(url, token, headers, body))
}

/// The bytes that [`post`] sends.
pub(crate) fn mcp_request(url: &str, token: Option<&str>, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let bearer = token.map(|t| format!("Bearer {t}"));
    let mut all = vec![("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
    all.extend(bearer.as_deref().map(|b| ("Authorization", b)));
    all.extend_from_slice(headers);
    request("POST", url, &all, body)
}

/// Posts a 2026-07-28 request of `method` with `params`, with its `_meta` and mirrored headers filled in.
pub(crate) fn post_2026(url: &str, token: Option<&str>, method: &str, params: &Value) -> Response {
    send(split(url).0, &request_2026(url, token, method, params))
}

/// The bytes that [`post_2026`] sends.
pub(crate) fn request_2026(url: &str, token: Option<&str>, method: &str, params: &Value) -> Vec<u8> {
    let mut params = params.clone();
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
    params["_meta"]["io.modelcontextprotocol/clientInfo"] = serde_json::json!({"name": "wire", "version": "1"});
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = serde_json::json!({});
    let name = params["name"].as_str().or(params["uri"].as_str()).map(str::to_owned);
    let body = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let mut headers = vec![("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", method)];
    headers.extend(name.as_deref().map(|n| ("Mcp-Name", n)));
    mcp_request(url, token, &headers, body.as_bytes())
}
