//! The inventory against the Rust SDK's server, as it is and as if it did not know the newest revision.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::model::{ServerCapabilities, ServerConfig};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ServerHandler, tool, tool_handler, tool_router};
use tower::ServiceExt;

use super::*;
use crate::egress::testing::{Body, full, open_egress};
use crate::generated::server::{self, Credentials, UpstreamTls};

#[derive(Clone)]
struct Tools {
    tool_router: ToolRouter<Self>,
}

#[tool_router]
impl Tools {
    #[tool(description = "Says hello")]
    fn hello(&self) -> String {
        "hello".to_owned()
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
}

/// A server of the SDK; `knows_new`: whether it gets to see `server/discover`.
async fn sdk_server(knows_new: bool) -> Upstream {
    let make = || Ok(Tools { tool_router: Tools::tool_router() });
    let sessions = Arc::new(LocalSessionManager::default());
    let sdk = StreamableHttpService::new(make, sessions, StreamableHttpServerConfig::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let sdk = sdk.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sdk = sdk.clone();
                async move {
                    if !knows_new && request.headers().contains_key("mcp-method") {
                        let refused: Response<Body> =
                            Response::builder().status(StatusCode::BAD_REQUEST).body(full("no session")).unwrap();
                        return Ok::<_, std::convert::Infallible>(refused);
                    }
                    Ok(sdk.oneshot(request).await.unwrap().map(BodyExt::boxed))
                }
            });
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                drop(builder.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    let config = server::Upstream { url, tls: UpstreamTls::default(), credentials: Credentials::None };
    Upstream::new(&config, &open_egress()).unwrap()
}

#[tokio::test]
async fn the_sdks_server_is_read_in_both_eras() {
    for (knows_new, revision) in [(true, "2026-07-28"), (false, "2025-11-25")] {
        let inventory = inventory(&sdk_server(knows_new).await, &Bounds::default()).await.unwrap();
        assert_eq!(inventory.revision, revision);
        assert_eq!(inventory.tools.len(), 1);
        let tool: serde_json::Value = serde_json::from_str(inventory.tools[0].get()).unwrap();
        assert_eq!((&tool["name"], &tool["description"]), (&"hello".into(), &"Says hello".into()));
        assert!(inventory.server_name.is_some());
    }
}
