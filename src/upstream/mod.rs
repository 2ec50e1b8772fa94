//! Governed MCP servers as the gateway reaches them.
