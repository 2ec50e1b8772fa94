//! HTTPS for the API server: one path for what is made and changed, one for what goes.
//!
//! Invariant: nothing is read or said of what is sent to any other path, so only those who were told a path can ask; whatever
//! is sent is answered in HTTP, within a time that is shorter than the API server's own; connections, heads and handshakes are
//! bounded; and after a drain begins, reviews under way are answered before their connection ends.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::door::Door;
use crate::cluster::secret_path::Asked;
use crate::process::Drain;

/// How long an answer may take at most: less than `timeoutSeconds` of the webhook, which is 10; for deletions 5, since a webhook
/// that is away must not hold them up.
const fn patience(asked: Asked) -> Duration {
    match asked {
        Asked::Changes => Duration::from_secs(8),
        Asked::Deletions => Duration::from_secs(4),
    }
}

/// Connections at once; more wait in the kernel's queue. API servers keep a few each.
const MOST_CONNECTIONS: usize = 1024;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a head may take, and a connection be idle: longer than the API server keeps one that it does not use (90 s), so
/// that none is closed under a review that is on its way.
const IDLE: Duration = Duration::from_secs(120);
/// The most bytes of a head.
const HEAD_BYTES: usize = 64 * 1024;
/// How long after a drain began a connection is kept. Whoever asks meanwhile is told that it is the last time (RFC 9112
/// section 9.6), and asks another replica next.
const LINGER: Duration = Duration::from_secs(3);
/// A caller that is gone without a word is found out.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);

/// Serves until the drain starts; connections under way are the drain's to wait for.
pub async fn serve(socket: TcpListener, tls: TlsAcceptor, door: Door, desk: Arc<Desk>, drain: Drain) {
    serve_lingering(socket, tls, door, desk, drain, LINGER).await;
}

async fn serve_lingering(
    socket: TcpListener,
    tls: TlsAcceptor,
    door: Door,
    desk: Arc<Desk>,
    drain: Drain,
    linger: Duration,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let server = Arc::new(builder());
    loop {
        let accepted = tokio::select! {
            () = drain.draining().cancelled() => return,
            accepted = accept(&socket, &places) => accepted,
        };
        let (stream, peer, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or reset before it was accepted: neither may end the listener, or have it spin.
                tracing::warn!(%error, "could not accept a connection");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let (tls, door, desk) = (tls.clone(), door.clone(), desk.clone());
        let (server, stop) = (server.clone(), drain.draining().child_token());
        drain.spawn(async move {
            connection(stream, peer, &tls, (door, desk), &server, (stop, linger)).await;
            drop(place);
        });
    }
}

async fn accept(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = socket.accept().await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
    Ok((stream, peer, place))
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_BYTES).max_headers(64);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(64)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    server
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: &TlsAcceptor,
    (door, desk): (Door, Arc<Desk>),
    server: &auto::Builder<TokioExecutor>,
    (stop, linger): (CancellationToken, Duration),
) {
    let stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    let draining = stop.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (door, desk, draining) = (door.clone(), desk.clone(), draining.clone());
        async move {
            let one_by_one = request.version() < Version::HTTP_2;
            let mut response = respond(&door, &desk, request).await;
            if one_by_one && draining.is_cancelled() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let mut last_call = pin!(async {
        stop.cancelled().await;
        sleep(linger).await;
    });
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended early");
                }
                return;
            }
            () = last_call.as_mut(), if !ending => {
                connection.as_mut().graceful_shutdown();
                ending = true;
            }
        }
    }
}

async fn respond(door: &Door, desk: &Desk, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(asked) = door.asked(request.uri().path()) else {
        return text(StatusCode::NOT_FOUND, "not found\n".to_owned());
    };
    if request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    if !is_json(request.headers().get(CONTENT_TYPE)) {
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "only application/json\n".to_owned());
    }
    match desk.answer(request.into_body(), patience(asked)).await {
        Ok(body) => with_type(StatusCode::OK, "application/json", body.into()),
        Err(error) => {
            let mut response = text(error.status(), format!("{error}\n"));
            if error.status() == StatusCode::TOO_MANY_REQUESTS {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            response
        }
    }
}

fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let text = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body.into())
}

fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
