//! Requests and answers of HTTP/1.1 (RFC 9112) as a hop passes them on: whole, with the framing written anew.

use std::io::{self, BufRead, Read as _, Write};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// Headers that are about one connection (RFC 9110 section 7.6.1), or about framing.
const OF_THE_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "expect", "te"];

/// Members of a form that are credentials (RFC 6749 section 2.3.1, RFC 7521 section 4.2, RFC 7523 section 2.1, RFC 8693 section
/// 2.1).
const CREDENTIALS: [&str; 4] = ["client_secret", "client_assertion", "subject_token", "assertion"];

/// One request or answer.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The request line or the status line.
    first: String,
    /// Without those of the hop.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Whether it has a length to tell, be it zero.
    framed: bool,
}

impl Message {
    /// An answer that is made up.
    pub(super) fn answer(status: u16, headers: Vec<(String, String)>, body: Vec<u8>) -> Self {
        Self { first: format!("HTTP/1.1 {status} As told"), headers, body, framed: true }
    }

    /// Method and target, if it is a request.
    pub(super) fn asks_for(&self) -> Option<(&str, &str)> {
        let mut words = self.first.split(' ');
        Some((words.next()?, words.next()?))
    }

    /// The status, if it is an answer.
    pub(super) fn status(&self) -> Option<u16> {
        self.first.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
    }

    /// Reads a request, or the final answer to `request`; nothing at the end of the connection.
    pub(super) fn read(from: &mut impl BufRead, request: Option<&Self>) -> io::Result<Option<Self>> {
        loop {
            let Some(first) = line(from)? else { return Ok(None) };
            let mut headers = Vec::new();
            while let Some(header) = line(from)?.filter(|line| !line.is_empty()) {
                let (name, value) = header.split_once(':').ok_or_else(|| bad(&header))?;
                headers.push((name.to_owned(), value.trim().to_owned()));
            }
            let mut message = Self { first, headers, body: Vec::new(), framed: false };
            if message.status().is_some_and(|status| status < 200) {
                continue;
            }
            message.read_body(from, request)?;
            message.headers.retain(|(name, _)| !OF_THE_HOP.contains(&name.to_ascii_lowercase().as_str()));
            return Ok(Some(message));
        }
    }

    /// All of it, for people.
    pub(super) fn text(&self) -> String {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        format!("{}\n{}\n{}", self.first, headers.collect::<String>(), String::from_utf8_lossy(&self.body))
    }

    /// What it carries as credentials: that of its `Authorization`, as it is and as it is meant, and those of a form.
    pub(super) fn credentials(&self) -> Vec<String> {
        let (scheme, sent) = self.header("authorization").and_then(|value| value.split_once(' ')).unwrap_or_default();
        let meant = (scheme == "Basic").then(|| String::from_utf8(BASE64_STANDARD.decode(sent).unwrap()).unwrap());
        let form = url::form_urlencoded::parse(&self.body).filter(|(name, _)| CREDENTIALS.contains(&name.as_ref()));
        let mut all: Vec<String> = meant.into_iter().chain(form.map(|(_, value)| value.into_owned())).collect();
        all.extend((!sent.is_empty()).then(|| sent.to_owned()));
        all
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// RFC 9112 section 6.3.
    fn read_body(&mut self, from: &mut impl BufRead, request: Option<&Self>) -> io::Result<()> {
        let to_head = request.is_some_and(|request| request.first.starts_with("HEAD "));
        if to_head || matches!(self.status(), Some(204 | 304)) {
            return Ok(());
        }
        self.framed = true;
        if self.header("transfer-encoding").is_some() {
            return self.read_chunks(from);
        }
        match self.header("content-length").map(str::parse::<usize>) {
            Some(Ok(length)) => {
                self.body = vec![0; length];
                from.read_exact(&mut self.body)
            }
            Some(Err(_)) => Err(bad("content-length")),
            None if request.is_some() => from.read_to_end(&mut self.body).map(drop),
            None => Ok(()),
        }
    }

    fn read_chunks(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        loop {
            let size = line(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let size = size.split(';').next().unwrap_or_default().trim().to_owned();
            let size = u64::from_str_radix(&size, 16).map_err(|_| bad(&size))?;
            let read = from.by_ref().take(size).read_to_end(&mut self.body)?;
            if read as u64 != size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if size == 0 {
                while line(from)?.is_some_and(|trailer| !trailer.is_empty()) {}
                return Ok(());
            }
            line(from)?;
        }
    }

    /// Writes it with these headers besides.
    pub(super) fn write(&self, to: &mut impl Write, besides: &[(&str, &str)]) -> io::Result<()> {
        let mut head = format!("{}\r\n", self.first);
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(besides.iter().copied()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.framed {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        to.write_all(&[head.as_bytes(), b"\r\n", &self.body].concat())?;
        to.flush()
    }
}

/// A line without its end; nothing at the end of what there is to read.
fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let line = String::from_utf8_lossy(&line);
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP/1.1: {what:?}"))
}
