"""PyPI mcp 2.x: 2026-07-28 and the 2025 line, with sessions for the latter unless `stateless`."""

import mcp_types as types
from mcp.server.lowlevel import Server

from common import OPTIONS, TOOLS, answer, serve


async def list_tools(_context, _params) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[types.Tool.model_validate(tool) for tool in TOOLS])


async def call_tool(context, params: types.CallToolRequestParams) -> types.CallToolResult:
    text, failed = await answer(params.name, params.arguments, context.session.report_progress)
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=failed)


server = Server("testbed-pypi2", version="1.0.0", on_list_tools=list_tools, on_call_tool=call_tool)
serve(
    server.streamable_http_app(
        json_response=OPTIONS.get("json", False), stateless_http=OPTIONS.get("stateless", False)
    )
)
