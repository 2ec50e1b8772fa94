//! The admin listener: liveness, readiness, metrics.
//!
//! Invariant: no secret and no content of any call is served here, nothing can be changed through it, and a web page
//! cannot read it: only `Host`s that name this process pass, and requests with an `Origin` never do.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::metrics::Metrics;
use super::{Drain, Readiness};

/// Connections served at once; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the admin listener shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The checks behind `/readyz`.
    pub readiness: Readiness,
    /// What `/metrics` prints.
    pub metrics: Metrics,
    /// Host names accepted besides loopback and the listener's own addresses, lower-case, without port.
    pub hosts: Vec<String>,
}

/// Serves until `drain` ends patience: a draining process is still alive, and says that it is not ready.
pub async fn serve(listener: TcpListener, admin: Admin, drain: Drain) {
    let admin = Arc::new(admin);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        let accepted = tokio::select! {
            () = drain.aborted().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Typically out of file descriptors: trying again at once would spin.
                tracing::warn!(%error, "admin listener could not accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (admin, drain) = (admin.clone(), drain.clone());
        tokio::spawn(async move {
            let served = connection(stream, admin, &drain);
            tokio::select! {
                () = served => {}
                () = drain.aborted().cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, admin: Arc<Admin>, drain: &Drain) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let draining = drain.draining().is_cancelled();
        let response = respond(&admin, request.method(), request.uri().path(), request.headers(), local.ip(), draining);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_headers(32)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "admin connection broke off");
    }
}

fn respond(
    admin: &Admin,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    local: IpAddr,
    draining: bool,
) -> Response<Full<Bytes>> {
    if headers.contains_key(ORIGIN) {
        return text(StatusCode::FORBIDDEN, "requests from web pages are not answered\n");
    }
    if !host_is_ours(headers, local, &admin.hosts) {
        return text(StatusCode::MISDIRECTED_REQUEST, "this Host is not served here; see --admin-host\n");
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readyz(admin, draining),
        "/metrics" => with_type(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            admin.metrics.render().into(),
        ),
        _ => text(StatusCode::NOT_FOUND, "/livez /readyz /metrics\n"),
    }
}

fn readyz(admin: &Admin, draining: bool) -> Response<Full<Bytes>> {
    let mut report = admin.readiness.report();
    if draining {
        let status = super::readiness::Status {
            ok: false,
            required: true,
            reason: "Draining",
            message: "shutting down".to_owned(),
        };
        report.ready = false;
        report.checks.insert("drain", status);
    }
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_vec(&report) {
        Ok(body) => with_type(status, "application/json", body.into()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the report cannot be written\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Exactly one `Host`, naming loopback, the address that the connection came to, or a configured name. A page that
/// rebinds its own name to this address sends that name (DNS rebinding).
fn host_is_ours(headers: &HeaderMap, local: IpAddr, names: &[String]) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<http::uri::Authority>().ok()) else {
        return false;
    };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host().to_ascii_lowercase();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.to_canonical() == local.to_canonical(),
        Err(_) => bare == "localhost" || names.iter().any(|ours| *ours == bare),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin() -> Admin {
        Admin {
            readiness: Readiness::default(),
            metrics: Metrics::new(super::super::metrics::registry()),
            hosts: vec!["gateway.example".to_owned()],
        }
    }

    fn ask(admin: &Admin, method: Method, path: &str, headers: &[(&'static str, &'static str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        respond(admin, &method, path, &map, "10.0.0.7".parse().unwrap(), false).status().as_u16()
    }

    #[test]
    fn only_hosts_that_name_this_process_are_answered() {
        let admin = admin();
        for host in [
            "localhost",
            "localhost:9901",
            "127.0.0.1:9901",
            "127.8.8.8",
            "[::1]:1",
            "10.0.0.7:9901",
            "Gateway.Example",
        ] {
            assert_eq!(ask(&admin, Method::GET, "/livez", &[("host", host)]), 200, "{host}");
        }
        for host in [
            "evil.example",
            "10.0.0.8",
            "localhost.evil.example",
            "gateway.example.",
            "a@localhost",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert_eq!(ask(&admin, Method::GET, "/livez", &[("host", host)]), 421, "{host}");
        }
        assert_eq!(ask(&admin, Method::GET, "/livez", &[]), 421);
        assert_eq!(ask(&admin, Method::GET, "/livez", &[("host", "localhost"), ("host", "localhost")]), 421);
    }

    #[test]
    fn web_pages_writers_and_strangers_paths_are_refused() {
        let admin = admin();
        const HOST: (&str, &str) = ("host", "localhost");
        assert_eq!(ask(&admin, Method::GET, "/metrics", &[HOST, ("origin", "http://localhost")]), 403);
        assert_eq!(ask(&admin, Method::POST, "/livez", &[HOST]), 405);
        assert_eq!(ask(&admin, Method::HEAD, "/metrics", &[HOST]), 200);
        assert_eq!(ask(&admin, Method::GET, "/debug/pprof", &[HOST]), 404);
    }

    #[tokio::test]
    async fn readyz_names_what_is_missing_over_the_wire_and_says_when_it_drains() {
        let admin = admin();
        let check = admin.readiness.check("journal");
        let (status, body) = over_the_wire(&admin, false).await;
        assert_eq!(status, 503);
        assert_eq!(body["checks"]["journal"]["reason"], "Starting");
        check.ready();
        assert_eq!(over_the_wire(&admin, false).await.0, 200);
        let (status, body) = over_the_wire(&admin, true).await;
        assert_eq!((status, &body["checks"]["drain"]["reason"]), (503, &"Draining".into()));
    }

    async fn over_the_wire(admin: &Admin, draining: bool) -> (u16, serde_json::Value) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new();
        if draining {
            drain.start();
        }
        let serving = tokio::spawn(serve(listener, admin.clone(), drain.clone()));
        #[expect(clippy::disallowed_methods, reason = "a test client on loopback")]
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        drain.abort();
        serving.await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}
