//! The `rmcp` crate as a client, in this process.

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientConfig, ClientRequest, PingRequest, ProtocolVersion, ServerResult,
};
use rmcp::service::{RoleClient, RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientLifecycleMode, ClientServiceExt};
use serde_json::Value;

use super::client::{Failure, Line};
use super::runtime;

/// A connected client.
pub(crate) struct RmcpClient(Option<RunningService<RoleClient, ClientConfig>>);

fn failure(error: &ServiceError) -> Failure {
    let (code, message) = match error {
        ServiceError::McpError(e) => (Some(i64::from(e.code.0)), e.message.to_string()),
        other => (None, format!("{other:?}")),
    };
    Failure { code, message }
}

impl RmcpClient {
    pub(crate) fn connect(url: &str, token: Option<&str>, line: Line) -> Result<(Self, Value), Failure> {
        let mut config = StreamableHttpClientTransportConfig::with_uri(url);
        if let Some(token) = token {
            config = config.auth_header(token);
        }
        let lifecycle = match line {
            Line::Y2025 => ClientLifecycleMode::Initialize,
            Line::Y2026 => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
        };
        let connecting = async {
            let transport = StreamableHttpClientTransport::from_config(config);
            ClientConfig::default().serve_with_lifecycle(transport, lifecycle).await
        };
        match runtime().block_on(connecting) {
            Ok(service) => {
                let about = service.peer().peer_info().map_or(Value::Null, |info| serde_json::to_value(info).unwrap());
                Ok((Self(Some(service)), about))
            }
            Err(e) => Err(Failure { code: None, message: format!("{e:?}") }),
        }
    }

    fn service(&self) -> &RunningService<RoleClient, ClientConfig> {
        self.0.as_ref().unwrap()
    }

    pub(crate) fn list(&self) -> Result<Value, Failure> {
        let tools = runtime().block_on(self.service().list_all_tools()).map_err(|e| failure(&e))?;
        Ok(serde_json::to_value(tools).unwrap())
    }

    pub(crate) fn call(&self, name: &str, arguments: &Value) -> Result<Value, Failure> {
        let mut params = CallToolRequestParams::new(name.to_owned());
        params.arguments = arguments.as_object().cloned();
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        match runtime().block_on(self.service().send_request(request)).map_err(|e| failure(&e))? {
            ServerResult::CallToolResult(result) => Ok(serde_json::to_value(result).unwrap()),
            other => Err(Failure { code: None, message: format!("unexpected {other:?}") }),
        }
    }

    pub(crate) fn ping(&self) -> Result<(), Failure> {
        let request = ClientRequest::PingRequest(PingRequest::default());
        runtime().block_on(self.service().send_request(request)).map(drop).map_err(|e| failure(&e))
    }
}

impl Drop for RmcpClient {
    fn drop(&mut self) {
        if let Some(service) = self.0.take() {
            drop(runtime().block_on(service.cancel()));
        }
    }
}
