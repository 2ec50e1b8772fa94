//! What both sides declare of themselves, and the lists that follow: nothing that is not policed, nobody else's pages.

use portcullis::audit::query::{Filter, query};
use serde_json::{Value, json};

use super::listening::Stage;
use crate::support::by_hand::{ByHand, EVENTS, json_answer, say_all};
use crate::support::gateway::{Gateway, TRUST, policy, server};
use crate::support::http::{self, Connection};
use crate::support::wait::until;

/// Everything that a client of any revision could declare, and more.
fn client_capabilities() -> Value {
    json!({
        "roots": {"listChanged": true}, "sampling": {"tools": {}, "context": {}}, "elicitation": {"form": {}, "url": {}},
        "tasks": {"list": {}, "cancel": {}, "requests": {"sampling": {"createMessage": {}}}},
        "experimental": {"x": {}}, "extensions": {"io.modelcontextprotocol/ui": {}}, "later": {},
    })
}

/// Everything that a server of any revision could declare, and more.
fn server_capabilities() -> Value {
    json!({
        "tools": {"listChanged": true}, "resources": {"subscribe": true, "listChanged": true},
        "prompts": {"listChanged": true}, "completions": {}, "logging": {},
        "tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}},
        "experimental": {"x": {}}, "extensions": {"io.modelcontextprotocol/tasks": {}}, "later": {},
    })
}

fn body(request: &str) -> Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|e| panic!("{e} in {request}"))
}

/// One answer in both forms that a server may choose.
fn forms(message: &Value) -> [String; 2] {
    [json_answer("", &message.to_string()), format!("{EVENTS}data: {message}\n\n")]
}

#[test]
fn duty_48_initialize_declares_only_what_is_policed_in_every_revision_and_form() {
    let stage = Stage::set();
    for (revision, form) in
        ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"].into_iter().flat_map(|r| [(r, 0), (r, 1)])
    {
        let params = json!({"protocolVersion": revision, "capabilities": client_capabilities(),
            "clientInfo": {"name": "declaring", "version": "1"}});
        let hello = json!({"jsonrpc": "2.0", "id": "h", "method": "initialize", "params": params});
        let mut caller = stage.caller(&stage.ana, &[], &hello.to_string());
        let (server, request) = stage.scripted.take("declaring");
        let asked = body(&request);
        assert_eq!(asked["params"]["capabilities"], json!({}), "{revision}: {asked}");
        assert_eq!(
            (&asked["params"]["protocolVersion"], &asked["params"]["clientInfo"]["name"]),
            (&json!(revision), &json!("declaring"))
        );
        let result = json!({"protocolVersion": revision, "capabilities": server_capabilities(),
            "serverInfo": {"name": "s", "version": "1"}, "instructions": "use the hidden tool"});
        say_all(server, &forms(&json!({"jsonrpc": "2.0", "id": "h", "result": result}))[form]);
        let told = caller.read();
        let expected = json!({"protocolVersion": revision, "capabilities": {"tools": {"listChanged": true}},
            "serverInfo": {"name": "s", "version": "1"}});
        assert_eq!(told.json(), json!({"jsonrpc": "2.0", "id": "h", "result": expected}), "{revision}");
        assert!(told.header("mcp-session-id").is_some());
    }
}

/// Sends a request of the 2026 line whose client declares everything.
fn declare(stage: &Stage, method: &str, params: &Value) -> Connection {
    let mut params = params.clone();
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "marker": "declaring",
        "io.modelcontextprotocol/clientCapabilities": client_capabilities()});
    let mut headers = vec![("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", method)];
    headers.extend(params["name"].as_str().map(|name| ("Mcp-Name", name)));
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    stage.caller(&stage.ana, &headers, &message.to_string())
}

#[test]
fn duty_48_the_new_era_declares_only_what_is_policed_on_each_request() {
    let stage = Stage::set();
    let declared = "io.modelcontextprotocol/clientCapabilities";
    for form in [0, 1] {
        let mut caller = declare(&stage, "server/discover", &json!({}));
        let (server, request) = stage.scripted.take("declaring");
        assert_eq!(body(&request)["params"]["_meta"][declared], json!({}), "{request}");
        let result = json!({"resultType": "complete", "supportedVersions": ["2030-01-01", "2026-07-28", "2025-11-25"],
            "capabilities": server_capabilities(), "serverInfo": {"name": "s", "version": "1"},
            "instructions": "use the hidden tool", "ttlMs": 3_600_000, "cacheScope": "public"});
        say_all(server, &forms(&json!({"jsonrpc": "2.0", "id": 1, "result": result}))[form]);
        let told = caller.read().json();
        let found = &told["result"];
        // Changes would come on `subscriptions/listen`, which is denied, so they are not promised.
        assert_eq!(found["capabilities"], json!({"tools": {}}), "{told}");
        assert_eq!(found["supportedVersions"], json!(["2026-07-28", "2025-11-25"]), "{told}");
        assert_eq!((&found["cacheScope"], found.get("instructions")), (&json!("private"), None), "{told}");
        assert!(found["ttlMs"].as_u64().unwrap() <= 1000, "{told}");
    }
    for (method, params) in
        [("tools/call", json!({"name": "t", "arguments": {"sampling": 1}})), ("tools/list", json!({}))]
    {
        let _caller = declare(&stage, method, &params);
        let (_server, request) = stage.scripted.take("declaring");
        let asked = body(&request);
        assert_eq!(asked["params"]["_meta"][declared], json!({}), "{request}");
        assert_eq!(asked["params"]["arguments"], params["arguments"], "{request}");
    }
}

#[test]
fn duty_55_a_cursor_is_its_persons_and_servers_alone() {
    let scripted = ByHand::start();
    let rules = "  - {name: all, effect: Allow, principals: [{any: true}], tools: [{names: [t]}]}\n";
    let gateway = Gateway::start(&[
        ("trust.yaml", TRUST),
        ("server.yaml", &server("s", scripted.url())),
        ("other.yaml", &server("other", scripted.url())),
        ("policy.yaml", &policy("p", "s, other", rules)),
    ]);
    let [ana, again, ben] = ["ana", "ana", "ben"].map(|person| gateway.token(person, "s"));
    let ana_there = gateway.token("ana", "other");
    let ask = |url: &str, token: &str, cursor: Option<&str>| {
        let mut params = json!({"_meta": {"marker": "paging", "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}});
        if let Some(cursor) = cursor {
            params["cursor"] = cursor.into();
        }
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}).to_string();
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/list")];
        let mut caller = Connection::open(&gateway.address().to_string());
        caller.write(&http::mcp_request(url, Some(token), &headers, message.as_bytes()));
        caller
    };
    let page = |tools: Value, next: &str| {
        let result =
            json!({"resultType": "complete", "tools": tools, "nextCursor": next, "ttlMs": 9, "cacheScope": "public"});
        json_answer("", &json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string())
    };
    let (here, there) = (gateway.url("s"), gateway.url("other"));
    let mut caller = ask(&here, &ana, None);
    let (server, request) = scripted.take("paging");
    assert_eq!(body(&request)["params"].get("cursor"), None);
    // All of this page is hidden from her: an empty page that goes on is no end.
    say_all(server, &page(json!([{"name": "hidden", "inputSchema": {"type": "object"}}]), "up-2"));
    let first = caller.read().json();
    assert_eq!((&first["result"]["tools"], &first["result"]["cacheScope"]), (&json!([]), &json!("private")), "{first}");
    let cursor = first["result"]["nextCursor"].as_str().unwrap().to_owned();
    assert!(!cursor.contains("up-2"), "{cursor}");

    for (what, url, token, cursor) in [
        ("another person", &here, &ben, cursor.as_str()),
        ("another server", &there, &ana_there, cursor.as_str()),
        ("the server's own", &here, &ana, "up-2"),
        ("none", &here, &ana, ""),
        ("cut", &here, &ana, &cursor[1..]),
    ] {
        let refused = ask(url, token, Some(cursor)).read();
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (200, &json!(-32602)), "{what}: {refused:?}");
    }
    assert!(!scripted.has_seen("paging"), "a refused cursor reached the server");

    // Her own, with another token of hers, as often as she likes; the empty cursor of a server is one as well.
    for _ in 0..2 {
        let mut caller = ask(&here, &again, Some(&cursor));
        let (server, request) = scripted.take("paging");
        assert_eq!(body(&request)["params"]["cursor"], "up-2", "{request}");
        say_all(server, &page(json!([{"name": "t", "inputSchema": {"type": "object"}}]), ""));
        let second = caller.read().json();
        assert_eq!(super::house::names(&second), ["t"]);
        let last = second["result"]["nextCursor"].as_str().unwrap().to_owned();
        let mut caller = ask(&here, &ana, Some(&last));
        let (server, request) = scripted.take("paging");
        assert_eq!(body(&request)["params"]["cursor"], "", "{request}");
        say_all(server, &page(json!([]), "up-4"));
        assert_eq!(caller.read().status, 200);
    }
}

#[test]
fn duty_36_mirrored_arguments_are_held_to_the_arguments() {
    let stage = Stage::set();
    let mirrored = json!({"type": "object", "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"}, "n": {"type": "integer", "x-mcp-header": "N"}}});
    let call = |tool: &str, arguments: Value, more: &[(&str, &str)]| {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"marker": "mirroring",
            "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", tool)];
        stage.caller(&stage.ben, &[&headers[..], more].concat(), &message)
    };
    // The gateway knows a schema from the lists that it passes on, annotations and all (37).
    let mut caller = declare(&stage, "tools/list", &json!({}));
    let (server, _) = stage.scripted.take("declaring");
    let tools = json!([{"name": "t", "inputSchema": mirrored}, {"name": "u", "inputSchema": mirrored}]);
    let result = json!({"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"});
    say_all(server, &json_answer("", &json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string()));
    assert_eq!(caller.read().json()["result"]["tools"], tools);

    let both = json!({"region": "eu \u{e9}", "n": 7});
    let (region, n) = (("Mcp-Param-Region", "=?base64?ZXUgw6k=?="), ("Mcp-Param-N", "7"));
    for (what, arguments, headers) in [
        ("another value", both.clone(), vec![("Mcp-Param-Region", "us"), n]),
        ("another number", both.clone(), vec![region, ("Mcp-Param-N", "8")]),
        ("a missing header", both.clone(), vec![region]),
        ("a missing argument", json!({"n": 7}), vec![region, n]),
        ("bad Base64", both.clone(), vec![("Mcp-Param-Region", "=?base64?!?="), n]),
    ] {
        let refused = call("t", arguments.clone(), &headers).read();
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!(-32020)), "{what}: {refused:?}");
        // Whoever may not see a tool does not learn what its headers are.
        let hidden = call("u", arguments, &headers).read();
        assert_eq!((hidden.status, &hidden.json()["error"]["message"]), (200, &json!("Unknown tool: u")), "{what}");
    }
    assert!(!stage.scripted.has_seen("mirroring"), "a refused call reached the server");
    let _caller = call("t", both, &[region, n, ("Mcp-Param-Other", "x")]);
    let request = stage.scripted.take("mirroring").1.to_lowercase();
    for line in ["mcp-param-region: =?base64?zxugw6k=?=\r\n", "mcp-param-n: 7\r\n", "mcp-param-other: x\r\n"] {
        assert!(request.contains(line), "{line} in {request}");
    }
    let record = until("the record of a refusal", || {
        let filter = Filter { target: Some("t".to_owned()), decision: Some("deny".to_owned()), ..Filter::default() };
        query(&stage.gateway.journal(), &filter, 10).unwrap().calls.pop()
    });
    assert!(record.entry.fields.reason.is_some_and(|reason| reason.starts_with("Header")), "{}", record.entry.json);
}

#[test]
fn duty_30_names_that_look_alike_are_told_to_operators() {
    let stage = Stage::set();
    let mut caller = declare(&stage, "tools/list", &json!({}));
    let (server, _) = stage.scripted.take("declaring");
    let named = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
    let tools = json!([named("read_all"), named("read-a11"), named("\u{202e}other"), named("other")]);
    let result = json!({"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"});
    say_all(server, &json_answer("", &json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string()));
    assert_eq!(caller.read().status, 200);
    let log = until("the warning", || Some(stage.gateway.log()).filter(|log| log.contains("look alike")));
    let warning = log.lines().find(|line| line.contains("look alike")).unwrap();
    assert!(warning.contains("read_all") && warning.contains("read-a11") && !warning.contains("other"), "{warning}");
}

#[test]
fn a_server_without_sessions_is_governed_as_one_with_them() {
    let stage = Stage::set();
    let (ana, ben) = (stage.session(&stage.ana, None), stage.session(&stage.ben, None));
    assert_ne!(ana.id, ben.id);
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {}}});
    let result = json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}).to_string();
    let (mut caller, server, request) = stage.exchange(&ana, &call);
    assert!(!request.to_lowercase().contains("mcp-session-id"), "{request}");
    say_all(server, &json_answer("", &result));
    assert_eq!(caller.read().text(), result);
    // Its ids are as personal as those with a session behind them.
    let stolen = stage
        .caller(&stage.ben, &[("Mcp-Session-Id", &ana.id), ("MCP-Protocol-Version", "2025-11-25")], &call.to_string())
        .read();
    assert_eq!((stolen.status, &stolen.json()["error"]["code"]), (404, &json!(-31007)));
    // A 404 is about the request: there is no session that could be over.
    let error = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "no such thing"}}).to_string();
    let (mut caller, server, _) = stage.exchange(&ana, &call);
    say_all(server, &json_answer("", &error).replace("200 OK", "404 Not Found"));
    let passed = caller.read();
    assert_eq!((passed.status, passed.text()), (404, error.clone()));
    // With one, it says that.
    let with = stage.session(&stage.ana, Some("up-session"));
    let (mut caller, server, request) = stage.exchange(&with, &call);
    assert!(request.to_lowercase().contains("mcp-session-id: up-session\r\n"), "{request}");
    say_all(server, &json_answer("", &error).replace("200 OK", "404 Not Found"));
    let over = caller.read();
    assert_eq!((over.status, &over.json()["error"]["code"]), (404, &json!(-31007)));
    // What it says by itself reaches listeners, and resumption works by its event ids alone.
    let id = stage.broken_list(&ana);
    let mut caller = stage.get(&ana, Some(&id));
    let (server, request) = stage.scripted.take("GET ");
    let request = request.to_lowercase();
    assert!(request.contains("last-event-id: up-1\r\n") && !request.contains("mcp-session-id"), "{request}");
    say_all(
        server,
        &format!("{EVENTS}data: {}\n\n", result.replace(":1,", ":\"five\",").replace("\"content\"", "\"tools\"")),
    );
    assert_eq!(caller.read().json()["result"]["tools"], json!([]));
    assert_eq!(stage.get(&ben, Some(&id)).read().status, 400);
}

#[test]
fn duty_70_95_notifications_are_202_and_on_record_as_delivered() {
    let stage = Stage::set();
    let session = stage.session(&stage.ana, Some("up-session"));
    let told = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let (mut caller, server, _) = stage.exchange(&session, &told);
    say_all(server, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let accepted = caller.read();
    assert_eq!((accepted.status, accepted.body.len()), (202, 0));
    // One that the gateway keeps back, since nobody behind it could tell whose it is.
    let sessionless = stage.session(&stage.ben, None);
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(stage.send(&sessionless, &cancel).read().status, 202);
    for (method, reason) in
        [("notifications/initialized", None), ("notifications/cancelled", Some("NoUpstreamSession"))]
    {
        let end = until("the end of a notification", || {
            let calls = query(&stage.gateway.journal(), &Default::default(), 100).unwrap().calls;
            let found = calls.into_iter().find(|call| call.entry.fields.method.as_deref() == Some(method))?;
            Some(found.completion?.fields)
        });
        assert_eq!((end.outcome.as_deref(), end.error.as_deref()), (Some("result"), reason), "{method}");
    }
}
