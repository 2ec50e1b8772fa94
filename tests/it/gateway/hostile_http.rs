//! HTTP as an attacker writes it.

use serde_json::json;

use super::house::{House, house};
use crate::support::gateway::{Gateway, TRUST, server};
use crate::support::http::{self, Connection};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// Answers' statuses to `bytes`, up to the end of the connection; 0 stands for one that was closed without an answer.
fn statuses(house: &House, bytes: &str) -> Vec<u16> {
    let mut connection = Connection::open(&house.gateway.address().to_string());
    connection.write(bytes.as_bytes());
    let mut statuses = Vec::new();
    while !connection.is_closed() {
        statuses.push(connection.read().status);
    }
    statuses
}

#[test]
fn requests_that_two_servers_could_cut_differently_are_refused_or_end_their_connection() {
    let house = house();
    let (host, token) = (house.gateway.address(), &house.ana);
    let post = |lines: &str, body: &str| {
        format!(
            "POST /default/items HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\n{lines}\r\n{body}"
        )
    };
    let second =
        format!("GET /.well-known/oauth-protected-resource HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let chunked = format!("{:x}\r\n{PING}\r\n0\r\n\r\n", PING.len());
    for (lines, body) in [
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "{}   "),
        ("Content-Length: +5\r\n", "{}   "),
        ("Content-Length: 5, 5\r\n", "{}   "),
        ("Transfer-Encoding: xchunked\r\n", chunked.as_str()),
        ("Transfer-Encoding: chunked, identity\r\n", &chunked),
        ("Transfer-Encoding : chunked\r\n", &chunked),
        ("X-Fold: a\r\n b\r\nContent-Length: 5\r\n", "{}   "),
        ("X Space: a\r\nContent-Length: 5\r\n", "{}   "),
        ("X-Nul: a\0b\r\nContent-Length: 5\r\n", "{}   "),
    ] {
        let found = statuses(&house, &format!("{}{second}", post(lines, body)));
        assert!(found == [400] || found.is_empty(), "{lines:?}: {found:?}");
    }
    // Both framings: read as chunked, and nothing else is read from that connection (RFC 9112 section 6.3).
    for lines in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"]
    {
        let found = statuses(&house, &format!("{}{second}", post(lines, &chunked)));
        assert_eq!(found, [400], "no session: the message was read, and what followed was not");
    }
}

#[test]
fn a_token_or_a_host_counts_only_where_it_belongs() {
    let house = house();
    let (host, token) = (house.gateway.address(), &house.ana);
    let chunk = format!("{:x}\r\n{PING}\r\n0\r\n", PING.len());
    let head = format!(
        "POST /default/items HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    );
    let trailer = format!(
        "{head}Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n{chunk}Authorization: Bearer {token}\r\n\r\n"
    );
    assert_eq!(statuses(&house, &trailer), [401], "a trailer is no header");
    let end = "Connection: close\r\n\r\n";
    for (target, lines, status) in [
        (format!("http://{host}/default/items"), format!("Host: {host}\r\n"), 401),
        (format!("http://{host}/default/items"), "Host: evil.example\r\n".to_owned(), 421),
        ("http://evil.example/default/items".to_owned(), format!("Host: {host}\r\n"), 421),
        ("/default/items".to_owned(), format!("Host: user@{host}\r\n"), 421),
        ("/default/items".to_owned(), format!("Host: {host},{host}\r\n"), 421),
        ("*".to_owned(), format!("Host: {host}\r\n"), 404),
    ] {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        assert_eq!(
            statuses(&house, &format!("{method} {target} HTTP/1.1\r\n{lines}{end}")),
            [status],
            "{target} {lines}"
        );
    }
    assert_eq!(statuses(&house, &format!("GET /default/items HTTP/1.0\r\n{end}")), [400]);
    let tunnel = statuses(&house, &format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    assert_eq!(tunnel, [404], "no tunnel is opened");
    let upgrade = format!(
        "GET /default/items HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket, h2c\r\nConnection: upgrade, close\r\n\r\n"
    );
    assert_eq!(statuses(&house, &upgrade), [401], "no other protocol is spoken");
}

#[test]
fn a_caller_who_is_not_let_in_is_not_asked_for_the_body() {
    let house = house();
    let headers = [("Expect", "100-continue"), ("Content-Length", "4000000"), ("Content-Type", "application/json")];
    let mut connection = Connection::open(&house.gateway.address().to_string());
    connection.write(&http::request("POST", &house.url(), &headers, b""));
    let interim = connection.read_interim();
    assert!(interim.starts_with("HTTP/1.1 401"), "{interim}");
}

#[test]
fn headers_that_a_hop_must_hold_back_are_not_judged_and_then_passed_on() {
    let house = house();
    let params = json!({"name": "echo", "arguments": {}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let call = |connection: &str| {
        let headers = [
            ("MCP-Protocol-Version", "2026-07-28"),
            ("Mcp-Method", "tools/call"),
            ("Mcp-Name", "echo"),
            ("Connection", connection),
        ];
        http::post(&house.url(), Some(&house.ana), &headers, body.as_bytes()).status
    };
    assert_eq!(call("close, Mcp-Name"), 400);
    assert_eq!(call("close, X-Other"), 200);
}

#[test]
fn pages_of_listed_origins_may_call_and_no_others() {
    let files = [("trust.yaml", TRUST), ("a.yaml", &server("a", "http://127.0.0.1:9/a"))];
    let gateway = Gateway::start_with(&files, &["--allowed-origin=https://inspector.example"]);
    let url = gateway.url("a");
    let ask = |method: &str, url: &str, origin: &str| {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "POST"), ("Connection", "close")];
        let mut connection = Connection::open(http::split(url).0);
        connection.write(&http::request(method, url, &headers, b""));
        // The answer to HEAD has no body, whatever its head says.
        if method == "HEAD" { connection.read_head() } else { connection.read() }
    };
    let allowed = ask("OPTIONS", &url, "https://inspector.example");
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://inspector.example"));
    assert_eq!(allowed.header("access-control-allow-credentials"), None, "cookies are nobody's business");
    assert!(allowed.header("vary").unwrap().contains("Origin"));
    // A page can read why it is refused, and where to get a token.
    let refused = ask("POST", &url, "https://inspector.example");
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin")),
        (401, Some("https://inspector.example"))
    );
    assert!(refused.header("access-control-expose-headers").unwrap().contains("www-authenticate"));
    for origin in ["https://evil.example", "null", "https://inspector.example.evil.example"] {
        for method in ["OPTIONS", "POST", "GET"] {
            let refused = ask(method, &url, origin);
            assert_eq!(
                (refused.status, refused.header("access-control-allow-origin")),
                (403, None),
                "{method} {origin}"
            );
        }
    }
    // What is public is public for every page, and only to be read.
    let document = format!("http://{}/.well-known/oauth-protected-resource/default/a", gateway.address());
    for method in ["GET", "HEAD"] {
        let read = ask(method, &document, "https://evil.example");
        assert_eq!((read.status, read.header("access-control-allow-origin")), (200, Some("*")), "{method}");
    }
    assert_eq!(ask("OPTIONS", &document, "https://evil.example").status, 204);
    assert_eq!(ask("POST", &document, "https://evil.example").status, 405);
}

/// Requests on one HTTP/2 connection, as clients with prior knowledge open it.
mod http2 {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use hyper::client::conn::http2::{SendRequest, handshake};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use serde_json::json;

    use super::super::house::House;
    use crate::support::runtime;

    async fn connect(house: &House) -> SendRequest<Full<Bytes>> {
        let stream = std::net::TcpStream::connect(house.gateway.address()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn call(authority: &str, token: &str, tool: &str) -> http::Request<Full<Bytes>> {
        let params = json!({"name": tool, "arguments": {"ms": 60_000}, "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
        http::Request::post(format!("http://{authority}/default/items"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", tool)
            .body(Full::from(body))
            .unwrap()
    }

    #[test]
    fn duty_1_every_stream_of_a_connection_stands_for_itself() {
        let house = House::build();
        let ours = house.gateway.address().to_string();
        runtime().block_on(async {
            let sender = connect(&house).await;
            let ask = |request| {
                let mut sender = sender.clone();
                async move { sender.send_request(request).await.unwrap() }
            };
            let (allowed, nobody, elsewhere) = tokio::join!(
                ask(call(&ours, &house.ana, "echo")),
                ask(call(&ours, "not.a.token", "echo")),
                ask(call("evil.example", &house.ana, "echo"))
            );
            assert_eq!(allowed.status(), 200);
            let body = allowed.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&body).contains("echo"), "{body:?}");
            assert_eq!((nobody.status().as_u16(), elsewhere.status().as_u16()), (401, 421));
            let mut twice = call(&ours, &house.ana, "echo");
            twice.headers_mut().append("authorization", format!("Bearer {}", house.ben).parse().unwrap());
            assert_eq!(ask(twice).await.status(), 400);
            let mut host = call(&ours, &house.ana, "echo");
            host.headers_mut().insert("host", "evil.example".parse().unwrap());
            assert_eq!(ask(host).await.status(), 421);
        });
    }

    #[test]
    fn duty_65_a_stream_that_its_caller_resets_aborts_the_call_and_no_other() {
        let house = House::build();
        let ours = house.gateway.address().to_string();
        let mut sender = runtime().block_on(connect(&house));
        let waiting = runtime().spawn(sender.send_request(call(&ours, &house.ana, "wait")));
        house.upstream.seen().wait_calls(1);
        waiting.abort();
        house.upstream.seen().wait_cancelled("wait", 1);
        let answer = runtime().block_on(sender.send_request(call(&ours, &house.ana, "echo"))).unwrap();
        assert_eq!(answer.status(), 200, "the connection goes on");
    }
}
