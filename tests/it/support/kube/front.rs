//! A plain listener before the API server, for one ServiceAccount: it passes requests on, counts PATCHes, can put them off,
//! can cut every connection, and calls a test in the middle of a request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Cluster;
use crate::support::runtime;

/// Dropping it cuts every connection.
pub(crate) struct Front {
    shared: Arc<Shared>,
    kubeconfig: PathBuf,
}

struct Shared {
    client: Client,
    patches: AtomicUsize,
    puts_off: AtomicBool,
    put_off: Mutex<Vec<String>>,
    interruption: Mutex<Option<Interruption>>,
    writes: Mutex<Vec<(String, String)>>,
    open: Mutex<CancellationToken>,
}

/// What a test does in the middle of one request.
pub(crate) struct Interruption {
    /// Whether a request counts: its method, and its path with the query.
    pub(crate) counts: fn(&str, &str) -> bool,
    /// The how manieth of those, counted from 1.
    pub(crate) nth: usize,
    /// Once the API server has answered, before the client hears of it; otherwise before the API server hears of it, which it
    /// then does not.
    pub(crate) is_after: bool,
    /// What is done.
    pub(crate) call: Arc<dyn Fn() + Send + Sync>,
}

impl Front {
    /// Begins to listen. Whoever comes is the ServiceAccount `account`, with its rights.
    pub(crate) fn start(cluster: &Cluster, namespace: &str, account: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let of_namespace = format!("system:serviceaccounts:{namespace}");
        let groups = ["system:serviceaccounts", &of_namespace, "system:authenticated"];
        let shared = Arc::new(Shared {
            client: cluster.as_user(&user, &groups),
            patches: AtomicUsize::default(),
            puts_off: AtomicBool::default(),
            put_off: Mutex::default(),
            interruption: Mutex::default(),
            writes: Mutex::default(),
            open: Mutex::default(),
        });
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime().spawn(serve(listener, Arc::downgrade(&shared)));
        let kubeconfig = cluster.kubeconfig().with_file_name(format!("{namespace}.{account}.front.kubeconfig"));
        std::fs::write(&kubeconfig, config(address, namespace)).unwrap();
        Self { shared, kubeconfig }
    }

    /// A kubeconfig that leads here.
    pub(crate) fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// From now on every PATCH is answered with 429, to be repeated after three seconds.
    pub(crate) fn put_off_patches(&self) {
        self.shared.puts_off.store(true, Ordering::SeqCst);
    }

    /// How many PATCHes were put off of paths that end in this.
    pub(crate) fn put_off(&self, end: &str) -> usize {
        self.shared.put_off.lock().unwrap().iter().filter(|path| path.ends_with(end)).count()
    }

    /// How many PATCHes came.
    pub(crate) fn patches(&self) -> usize {
        self.shared.patches.load(Ordering::SeqCst)
    }

    /// From now on, this happens to one request.
    pub(crate) fn interrupt(&self, interruption: Interruption) {
        *self.shared.interruption.lock().unwrap() = Some(interruption);
    }

    /// How many requests came that are no mere reading, of those that count.
    pub(crate) fn count(&self, counts: fn(&str, &str) -> bool) -> usize {
        self.shared.writes.lock().unwrap().iter().filter(|(method, path)| counts(method, path)).count()
    }

    /// Whether it has happened.
    pub(crate) fn has_interrupted(&self) -> bool {
        self.shared.interruption.lock().unwrap().is_none()
    }

    /// It is not to happen any more. Whether it had not happened yet.
    pub(crate) fn call_off(&self) -> bool {
        self.shared.interruption.lock().unwrap().take().is_some()
    }

    /// Cuts every connection. Whoever comes again is served.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.shared.open.lock().unwrap()).cancel();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.cut();
    }
}

fn config(address: SocketAddr, namespace: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "front",
        "clusters": [{"name": "front", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "front", "user": {}}],
        "contexts": [{"name": "front", "context": {"cluster": "front", "user": "front", "namespace": namespace}}]})
    .to_string()
}

/// Until the front is dropped.
async fn serve(listener: tokio::net::TcpListener, shared: std::sync::Weak<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let Some(shared) = shared.upgrade() else { return };
        let open = shared.open.lock().unwrap().clone();
        let answer = hyper::service::service_fn(move |request| pass_on(shared.clone(), request));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(async move {
            tokio::select! {
                () = open.cancelled() => {}
                _ = connection => {}
            }
        });
    }
}

async fn pass_on(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if request.method() == Method::PATCH {
        shared.patches.fetch_add(1, Ordering::SeqCst);
        if shared.puts_off.load(Ordering::SeqCst) {
            shared.put_off.lock().unwrap().push(request.uri().path().to_owned());
            let refused = Response::builder().status(StatusCode::TOO_MANY_REQUESTS).header(header::RETRY_AFTER, "3");
            return Ok(refused.body(Body::empty()).unwrap());
        }
    }
    if request.method() != Method::GET {
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        shared.writes.lock().unwrap().push((request.method().to_string(), path.to_owned()));
    }
    let interruption = shared.interruption_of(&request);
    if let Some(interruption) = interruption.as_ref().filter(|one| !one.is_after) {
        (interruption.call)();
        return Ok(bad_gateway());
    }
    let (mut parts, body) = request.into_parts();
    // They are about this connection.
    parts.headers.remove(header::HOST);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::TRANSFER_ENCODING);
    let Ok(body) = body.collect().await else { return Ok(bad_gateway()) };
    let request = Request::from_parts(parts, Body::from(body.to_bytes()));
    let answer = shared.client.send(request).await.unwrap_or_else(|_| bad_gateway());
    if let Some(interruption) = interruption {
        (interruption.call)();
    }
    Ok(answer)
}

impl Shared {
    /// What is to happen to this request: it is forgotten by that.
    fn interruption_of(&self, request: &Request<Incoming>) -> Option<Interruption> {
        let mut held = self.interruption.lock().unwrap();
        let interruption = held.as_mut()?;
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        if (interruption.counts)(request.method().as_str(), path) {
            interruption.nth -= 1;
            if interruption.nth == 0 {
                return held.take();
            }
        }
        None
    }
}

fn bad_gateway() -> Response<Body> {
    Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).unwrap()
}
