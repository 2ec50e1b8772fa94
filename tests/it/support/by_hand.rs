//! An upstream that says exactly what a test hands it, and shows what reached it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::wait::PATIENCE;

/// The head of a stream of events that ends with its connection.
pub(crate) const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

/// A server that hands every connection's first request to the test.
pub(crate) struct ByHand {
    url: String,
    connections: Receiver<(TcpStream, String)>,
}

impl ByHand {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let (found, connections) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let found = found.clone();
                thread::spawn(move || serve(stream, &found));
            }
        });
        Self { url, connections }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The next connection whose request contains `needle`, and that request; all before it are closed.
    pub(crate) fn take(&self, needle: &str) -> (TcpStream, String) {
        loop {
            let (stream, request) =
                self.connections.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no request with {needle:?} came"));
            if request.contains(needle) {
                return (stream, request);
            }
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// A connection whose request contains `needle`, if one has come; all before it are closed.
    pub(crate) fn try_take(&self, needle: &str) -> Option<TcpStream> {
        self.connections.try_iter().find(|(_, request)| request.contains(needle)).map(|(stream, _)| stream)
    }

    /// Whether anything has come that was not taken, but for the gateway's own look at what tools there are; forgets it.
    pub(crate) fn was_asked(&self) -> bool {
        self.connections.try_iter().any(|(_, request)| !request.contains("server/discover"))
    }

    /// Whether a request that contains `needle` has come that was not taken; forgets what else came.
    pub(crate) fn has_seen(&self, needle: &str) -> bool {
        self.connections.try_iter().any(|(_, request)| request.contains(needle))
    }
}

fn serve(mut stream: TcpStream, found: &Sender<(TcpStream, String)>) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !complete(&request) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&buffer[..n]),
        }
    }
    found.send((stream, String::from_utf8_lossy(&request).into_owned())).ok();
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    body.len() >= length
}

/// A JSON answer with further header lines, each ended by CR LF.
pub(crate) fn json_answer(headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Sends `bytes` and keeps the connection open.
pub(crate) fn say(stream: &mut TcpStream, bytes: &str) {
    stream.write_all(bytes.as_bytes()).unwrap();
}

/// Sends `bytes`, then says that nothing more will come.
pub(crate) fn say_all(mut stream: TcpStream, bytes: &str) {
    say(&mut stream, bytes);
    stream.shutdown(Shutdown::Write).unwrap();
}
