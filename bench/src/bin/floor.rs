//! The floor: a bare hyper forwarder that copies bodies as they come and does nothing else.
//!
//! `floor UPSTREAM` listens on a free loopback port and prints `listening on ADDR`.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Either;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

type Pool = Client<HttpConnector, Incoming>;
type Body = Either<Incoming, Empty<Bytes>>;

#[tokio::main]
async fn main() -> Result<()> {
    let upstream: Authority = std::env::args().nth(1).context("usage: floor HOST:PORT")?.parse()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let pool: Pool = Client::builder(TokioExecutor::new()).build(connector);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (pool, upstream) = (pool.clone(), upstream.clone());
        let service = hyper::service::service_fn(move |request| forward(pool.clone(), upstream.clone(), request));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn forward(pool: Pool, upstream: Authority, mut request: Request<Incoming>) -> Result<Response<Body>> {
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::builder().scheme(Scheme::HTTP).authority(upstream).path_and_query(path).build()?;
    match pool.request(request).await {
        Ok(response) => Ok(response.map(Either::Left)),
        Err(_) => {
            let mut response = Response::new(Either::Right(Empty::new()));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            Ok(response)
        }
    }
}
