//! Accepts connections and speaks HTTP on them.
//!
//! Invariant: no connection is served past the limit on open ones, none is kept on which nothing is under way, no head is
//! awaited for ever, and after a drain begins no new connection is taken while requests under way, or on their way, may end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::gateway::Gateway;
use super::idle::{Activity, Answers, Look, Noticed};
use super::stack;
use super::unread::Arriving;
use crate::process::{Drain, Seats};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long after a drain began a connection on which nothing is under way is kept. Whoever calls again meanwhile is told
/// in the answer that it is the last (RFC 9112 section 9.6), and calls another replica next; a connection closed under a
/// request that is on its way would be a failed call, which clients do not repeat.
const LINGER: Duration = Duration::from_secs(3);

/// A caller who is gone without a word (a machine that sleeps, a network that is left) is found out although nothing is
/// written to it: a stream that only listens would hold its places for ever (RFC 9293 section 3.8.4).
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

/// How connections are served.
pub struct Listener {
    /// Bound, listening.
    pub socket: TcpListener,
    /// `None`: clear text (loopback, or TLS ended before the gateway).
    pub tls: Option<TlsAcceptor>,
}

/// Serves until the drain starts; connections under way are the drain's to wait for. Each is served by one of the
/// workers, from its first byte to its last.
pub async fn serve(listener: Listener, gateway: Arc<Gateway>, seats: Seats, drain: Drain) {
    let slots = Arc::new(Semaphore::new(gateway.config().limits.connections));
    let server = Arc::new(builder(&gateway));
    loop {
        let accepted = tokio::select! {
            () = drain.draining().cancelled() => return,
            accepted = accept(&listener.socket, &slots) => accepted,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or a connection reset before it was accepted: neither may end the listener.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let (tls, gateway, server) = (listener.tls.clone(), gateway.clone(), server.clone());
        let stop = drain.draining().child_token();
        let seat = seats.take();
        let runtime = seat.runtime().clone();
        let served = async move {
            // Registers the socket with the worker's own reactor.
            let stream = match TcpStream::from_std(stream) {
                Ok(stream) => stream,
                Err(error) => return tracing::warn!(%peer, %error, "could not take over a connection"),
            };
            match tls {
                None => connection(stream, peer, gateway, &server, stop).await,
                Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection(stream, peer, gateway, &server, stop).await,
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                },
            }
            drop((slot, seat));
        };
        drain.spawn_on(served, &runtime);
    }
}

type Slot = tokio::sync::OwnedSemaphorePermit;

/// Waits for a free slot before accepting, so that what is over the limit waits in the kernel's queue.
async fn accept(socket: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<(std::net::TcpStream, SocketAddr, Slot)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = socket.accept().await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
    Ok((stream.into_std()?, peer, slot))
}

fn builder(gateway: &Gateway) -> auto::Builder<Answers> {
    let limits = &gateway.config().limits;
    let mut server = auto::Builder::new(Answers { patience: limits.write_timeout });
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.headers);
    let head_bytes = u32::try_from(limits.head_bytes).unwrap_or(u32::MAX);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(head_bytes)
        .max_concurrent_streams(256)
        // The kernel answers for a program that hangs; a PING it does not answer (RFC 9113 section 6.7).
        .keep_alive_interval(limits.silence)
        .keep_alive_timeout(limits.silence);
    server
}

async fn connection<S>(
    stream: S,
    peer: SocketAddr,
    gateway: Arc<Gateway>,
    server: &auto::Builder<Answers>,
    drain: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::begin();
    let stream = TokioIo::new(Noticed::new(stream, activity.clone()));
    // The time for a head also bounds what comes before the first, since hyper waits for ever for the version of HTTP, and
    // what comes between two requests, since HTTP/2 has no timer for that.
    let limits = &gateway.config().limits;
    let (patience, write_timeout) = (limits.head_timeout, limits.write_timeout);
    let service = service_fn({
        let (activity, drain) = (activity.clone(), drain.clone());
        move |request: Request<Incoming>| {
            let (gateway, underway, drain) = (gateway.clone(), activity.request(), drain.clone());
            async move {
                let (head, body) = request.into_parts();
                let (version, mut body) = (head.version, Arriving::new(&head, body));
                let mut response = stack::handle(gateway, peer, head, &mut body).await;
                if version < Version::HTTP_2 && (!body.is_over().await || drain.is_cancelled()) {
                    // Clients of HTTP/1.0 would be promised the contrary besides.
                    *response.version_mut() = version;
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<Response<Body>, Infallible>(response.map(|body| body.with_underway(underway)))
            }
        }
    });
    let mut connection = pin!(server.serve_connection(stream, service));
    let mut look = pin!(tokio::time::sleep(patience));
    let mut ending = false;
    let mut last_call = pin!(async {
        drain.cancelled().await;
        tokio::time::sleep(LINGER).await;
    });
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
            () = look.as_mut() => {
                look.as_mut().reset(tokio::time::Instant::now() + patience);
                if !activity.was_asked() {
                    return tracing::debug!(%peer, "nothing was asked: connection closed");
                }
                match activity.look(write_timeout) {
                    Look::Busy => {}
                    Look::Stalled => return tracing::debug!(%peer, "nothing of an answer is read: connection closed"),
                    Look::Idle if ending => return tracing::debug!(%peer, "nothing moves: connection closed"),
                    Look::Idle => {
                        connection.as_mut().graceful_shutdown();
                        ending = true;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_is_accepted_is_asked_for_a_sign_of_life() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test client on loopback")]
        let _caller = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
        let (stream, _, _) = accept(&socket, &Arc::new(Semaphore::new(1))).await.unwrap();
        let stream = SockRef::from(&stream);
        assert!(stream.keepalive().unwrap());
        assert_eq!(stream.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
    }
}
