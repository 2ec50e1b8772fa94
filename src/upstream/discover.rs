//! What tools a server has: enough of an MCP client to take an inventory.
