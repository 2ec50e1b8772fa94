use super::super::{Answer, UpstreamError};
use super::*;
use crate::egress::Policy;
use crate::egress::testing::{Server, json, open_egress, response, serve, stuck};
use crate::generated::server::{CredentialHeader, Credentials, UpstreamTls};
use crate::sensitive::Sensitive;
use http_body_util::BodyExt;

fn patient(config: &server::Upstream, timeouts: Timeouts) -> Upstream {
    Upstream::by(config, &Means { egress: &open_egress(), timeouts, tokens: &TokenCounters::default() }).unwrap()
}

fn config(url: String) -> server::Upstream {
    let key = CredentialHeader { name: "authorization".to_owned(), value: Sensitive::new("Bearer ours") };
    server::Upstream { url, tls: UpstreamTls::default(), credentials: Credentials::Headers(vec![key]) }
}

fn upstream(server: &Server, timeouts: Timeouts) -> Upstream {
    patient(&config(server.url("/mcp")), timeouts)
}

#[tokio::test]
async fn an_upstream_sees_our_credentials_its_own_host_and_nothing_of_the_callers() {
    let server = serve(|_| json("{}")).await;
    let upstream = upstream(&server, Timeouts::default());
    let mut caller = HeaderMap::new();
    for (name, value) in [
        ("host", "gateway.example"),
        ("authorization", "Bearer canary"),
        ("cookie", "canary"),
        ("x-forwarded-for", "canary"),
        ("user-agent", "canary"),
        ("accept-encoding", "canary"),
        ("mcp-name", "add"),
    ] {
        caller.insert(name, value.parse().unwrap());
    }
    let response = upstream.send(upstream.request(Method::POST, &caller, Bytes::from_static(b"{1}"))).await.unwrap();
    assert_eq!(Answer::judge(response.status(), response.headers()).unwrap(), Answer::Json);
    let asked = &server.seen()[0];
    assert_eq!((asked.path.as_str(), asked.body.as_ref()), ("/mcp", &b"{1}"[..]));
    assert_eq!(asked.headers["host"], server.address.to_string());
    assert_eq!(asked.headers["authorization"], "Bearer ours");
    assert_eq!(asked.headers["mcp-name"], "add");
    assert!(!format!("{:?}", asked.headers).contains("canary"));
}

#[tokio::test]
async fn connections_are_kept_and_bodies_stream() {
    let server = serve(|asked| match asked.path.as_str() {
        "/mcp" if asked.body.is_empty() => response(200, "text/event-stream", stuck("data: first\n\n")),
        _ => json("{}"),
    })
    .await;
    let upstream = upstream(&server, Timeouts::default());
    for _ in 0..3 {
        let request = upstream.request(Method::POST, &HeaderMap::new(), Bytes::from_static(b"{}"));
        let mut response = upstream.send(request).await.unwrap();
        while response.body_mut().frame().await.is_some() {}
    }
    assert_eq!(server.connections(), 1);
    // The first event arrives although the body never ends.
    let request = upstream.request(Method::GET, &HeaderMap::new(), Bytes::new());
    let mut response = upstream.send(request).await.unwrap();
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "data: first\n\n");
}

#[tokio::test]
async fn what_is_asked_apart_leaves_no_connection_behind() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(format!("http://{}/mcp", listener.local_addr().unwrap()));
    let apart = Upstream::new(&config, &open_egress()).unwrap().apart();
    let server = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut read = [0; 4096];
        assert!(connection.read(&mut read).await.unwrap() > 0);
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
        // Reads to the end: it comes only if the other side closes.
        connection.read_to_end(&mut Vec::new()).await.unwrap();
    });
    let request = apart.request(Method::POST, &HeaderMap::new(), Bytes::from_static(b"{}"));
    let mut response = apart.send(request).await.unwrap();
    while response.body_mut().frame().await.is_some() {}
    drop(response);
    assert!(!server.is_finished(), "it is kept while it is in use");
    drop(apart);
    server.await.unwrap();
}

#[tokio::test]
async fn a_caller_who_leaves_aborts_the_exchange() {
    // Held by the upstream's response; it ends when the upstream learns that nobody reads on.
    let (held, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    let held = std::sync::Mutex::new(Some(held));
    let server = serve(move |_| {
        let held = held.lock().unwrap().take();
        let body = stuck("data: 1\n\n").map_frame(move |frame| {
            assert!(held.is_some());
            frame
        });
        response(200, "text/event-stream", body.boxed())
    })
    .await;
    let upstream = upstream(&server, Timeouts::default());
    let request = upstream.request(Method::POST, &HeaderMap::new(), Bytes::from_static(b"{}"));
    let mut response = upstream.send(request).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    assert!(ended.try_recv().is_err_and(|e| e == tokio::sync::mpsc::error::TryRecvError::Empty));
    drop(response);
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), ended.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn failures_to_answer_are_named() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", silent.local_addr().unwrap());
    let timeouts = Timeouts { headers: Duration::from_millis(100), ..Timeouts::default() };
    let upstream = patient(&config(url), timeouts);
    assert_eq!(reason(&upstream).await, "UpstreamTimeout");
    drop(silent);
    assert_eq!(reason(&upstream).await, "ConnectFailed");

    let server = serve(|_| json("{}")).await;
    let closed = Upstream::new(&config(server.url("/")), &Egress::new(Policy::default()).unwrap()).unwrap();
    assert_eq!(reason(&closed).await, "AddressNotAllowed");
    assert_eq!(server.connections(), 0);
}

async fn reason(upstream: &Upstream) -> &'static str {
    let request = upstream.request(Method::POST, &HeaderMap::new(), Bytes::new());
    upstream.send(request).await.unwrap_err().reason()
}

#[tokio::test]
async fn an_endpoint_is_an_absolute_http_url_without_user() {
    for url in ["", "/mcp", "ftp://a.example/", "https://user:pass@a.example/", "file:///etc/passwd"] {
        let error = Upstream::new(&config(url.to_owned()), &open_egress()).unwrap_err();
        assert!(matches!(error, UpstreamError::Url), "{url}");
    }
    let upstream = Upstream::new(&config("https://A.example/mcp?x=1#f".to_owned()), &open_egress()).unwrap();
    assert_eq!(upstream.uri(), "https://a.example/mcp?x=1");
    assert!(!format!("{upstream:?}").contains("ours"));
}
