//! The demo server of `quickstart`, spoken to by every stock client and by hand.

use std::net::TcpListener;

use portcullis::roles::demo;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::client::{Client, Line, Stock};
use crate::support::process::{Process, portcullis};
use crate::support::wait::until;
use crate::support::{http, runtime};

struct Demo {
    url: String,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

fn start() -> Demo {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}{}", listener.local_addr().unwrap(), demo::PATH);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let serve = async move { demo::serve(tokio::net::TcpListener::from_std(listener)?, stop).await };
    Demo { url, shutdown, server: runtime().spawn(serve) }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[test]
fn every_stock_client_uses_it() {
    let demo = start();
    for stock in Stock::ALL {
        let mut client = Client::connect(stock, &demo.url, None).unwrap_or_else(|e| panic!("{stock:?}: {e:?}"));
        assert_eq!(client.tool_names().unwrap(), ["list_notes", "get_note", "create_note", "delete_note"], "{stock:?}");
        let made = client.call("create_note", &json!({"title": "t", "text": "hello"})).unwrap();
        let id = made["structuredContent"]["id"].clone();
        let read = client.call("get_note", &json!({"id": id})).unwrap();
        assert_eq!(read["structuredContent"], json!({"id": id, "title": "t", "text": "hello"}), "{stock:?}");
        assert_eq!(client.call("delete_note", &json!({"id": id})).unwrap()["isError"], false, "{stock:?}");
        assert_eq!(client.call("get_note", &json!({"id": id})).unwrap()["isError"], true, "{stock:?}");
        let failure = client.call("no_such_tool", &json!({})).unwrap_err();
        assert!(failure.message.contains("Unknown tool"), "{stock:?}: {failure:?}");
        if stock.line() == Line::Y2025 {
            client.ping().unwrap();
        }
        client.close();
    }
}

/// As people run it behind a gateway in a Pod.
#[test]
fn it_runs_by_itself_and_ends_cleanly() {
    let mut command = portcullis();
    command.args(["demo", "--listen", "127.0.0.1:0"]);
    let mut process = Process::start(command);
    let url = until("the demo to serve", || {
        let said = process.stderr();
        let line =
            said.lines().find_map(|line| serde_json::from_str::<Value>(line).ok().filter(|l| l["url"].is_string()))?;
        Some(line["url"].as_str().unwrap().to_owned())
    });
    let mut client = Client::connect(Stock::ALL[0], &url, None).unwrap();
    assert_eq!(client.tool_names().unwrap().len(), 4);
    client.close();
    process.signal("TERM");
    assert!(process.wait_exit().success());
}

fn post_2025(demo: &Demo, message: &Value) -> http::Response {
    http::post(&demo.url, None, &[], message.to_string().as_bytes())
}

#[test]
fn every_handshake_revision_is_spoken() {
    let demo = start();
    for (asked, given) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2031-01-01", "2025-11-25"),
    ] {
        let hello = json!({"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": {
            "protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "wire", "version": "1"}}});
        let answer = post_2025(&demo, &hello).json();
        assert_eq!((&answer["id"], &answer["result"]["protocolVersion"]), (&json!("a"), &json!(given)));
    }
    let done = post_2025(&demo, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    assert_eq!((done.status, done.body.len()), (202, 0));
}

#[test]
fn discovery_and_mirrored_headers_hold() {
    let demo = start();
    let found = http::post_2026(&demo.url, None, "server/discover", &json!({})).json();
    assert_eq!(found["result"]["supportedVersions"], json!(["2026-07-28"]));
    let list = http::post_2026(&demo.url, None, "tools/list", &json!({})).json();
    assert_eq!((&list["result"]["resultType"], &list["result"]["cacheScope"]), (&json!("complete"), &json!("public")));
    assert_eq!(http::post_2026(&demo.url, None, "prompts/list", &json!({})).status, 404);

    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}});
    let call =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_notes", "_meta": meta}});
    let version = ("MCP-Protocol-Version", "2026-07-28");
    let method = ("Mcp-Method", "tools/call");
    for (headers, expected) in [
        (vec![version, method, ("Mcp-Name", "list_notes")], 200),
        (vec![version, method, ("Mcp-Name", "=?base64?bGlzdF9ub3Rlcw==?=")], 200),
        (vec![version, method, ("Mcp-Name", "get_note")], 400),
        (vec![version, method], 400),
        (vec![method, ("Mcp-Name", "list_notes")], 400),
        (vec![("MCP-Protocol-Version", "2025-11-25"), method, ("Mcp-Name", "list_notes")], 400),
    ] {
        let answer = http::post(&demo.url, None, &headers, call.to_string().as_bytes());
        assert_eq!(answer.status, expected, "{headers:?}: {answer:?}");
        if expected == 400 {
            assert_eq!(answer.json()["error"]["code"], -32020, "{headers:?}");
        }
    }
    let future = call.to_string().replace("2026-07-28", "2031-01-01");
    let headers = [("MCP-Protocol-Version", "2031-01-01"), method, ("Mcp-Name", "list_notes")];
    let answer = http::post(&demo.url, None, &headers, future.as_bytes()).json();
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["data"]["requested"]),
        (&json!(-32022), &json!("2031-01-01"))
    );
}

#[test]
fn what_it_cannot_read_is_refused() {
    let demo = start();
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    assert_eq!(http::get(&demo.url, &[]).status, 405);
    assert_eq!(http::get(&demo.url.replace("/mcp", "/other"), &[]).status, 404);
    assert_eq!(http::post(&demo.url, None, &[("Origin", "https://evil.example")], ping.as_bytes()).status, 403);
    let plain = http::request("POST", &demo.url, &[("Content-Type", "text/plain")], ping.as_bytes());
    assert_eq!(http::send(http::split(&demo.url).0, &plain).status, 415);
    let batch = http::post(&demo.url, None, &[], format!("[{ping}]").as_bytes());
    assert_eq!((batch.status, &batch.json()["error"]["code"]), (400, &json!(-32600)));
    let broken = http::post(&demo.url, None, &[], b"{");
    assert_eq!((broken.status, &broken.json()["error"]["code"]), (400, &json!(-32700)));
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(2 * 1024 * 1024));
    let head = format!(
        "POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        huge.len()
    );
    let mut connection = http::Connection::open(http::split(&demo.url).0);
    connection.write(head.as_bytes());
    connection.write(&huge.as_bytes()[..1024 * 1024 + 1]);
    assert_eq!(connection.read().status, 413);
    let null_id = post_2025(&demo, &json!({"jsonrpc": "2.0", "id": null, "method": "ping"}));
    assert_eq!(null_id.status, 400);
    let version = [("MCP-Protocol-Version", "1999-01-01")];
    assert_eq!(http::post(&demo.url, None, &version, ping.as_bytes()).status, 400);
    for arguments in [json!({"id": 7}), json!({}), json!({"id": "x".repeat(300)})] {
        let answer =
            http::post_2026(&demo.url, None, "tools/call", &json!({"name": "get_note", "arguments": arguments}));
        assert_eq!(answer.json()["result"]["isError"], true, "{arguments}");
    }
}

#[test]
fn it_ends_when_told_to() {
    let demo = start();
    assert_eq!(http::get(&demo.url, &[]).status, 405);
    demo.shutdown.cancel();
    until("the demo server to end", || demo.server.is_finished().then_some(()));
    let connect = || std::net::TcpStream::connect(http::split(&demo.url).0);
    // A process that another test starts just now has the listener until it becomes its program.
    until("nobody to listen", || connect().err());
}
