"""PyPI mcp 1.x: the 2025 line, with sessions unless `stateless`."""

import contextlib

from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Route

from common import OPTIONS, TOOLS, answer, serve

server = Server("testbed-pypi1", version="1.0.0")


@server.list_tools()
async def list_tools() -> list[types.Tool]:
    return [types.Tool.model_validate(tool) for tool in TOOLS]


async def call_tool(request: types.CallToolRequest) -> types.ServerResult:
    context = server.request_context

    async def notify(progress, total):
        token = context.meta.progressToken if context.meta else None
        if token is not None:
            await context.session.send_progress_notification(
                token, progress, total, related_request_id=str(context.request_id)
            )

    text, failed = await answer(request.params.name, request.params.arguments, notify)
    content = [types.TextContent(type="text", text=text)]
    return types.ServerResult(types.CallToolResult(content=content, isError=failed))


# The decorator would refuse names that are not listed; the tests want to see what the SDK read.
server.request_handlers[types.CallToolRequest] = call_tool

manager = StreamableHTTPSessionManager(
    server, json_response=OPTIONS.get("json", False), stateless=OPTIONS.get("stateless", False)
)


class Endpoint:
    async def __call__(self, scope, receive, send):
        await manager.handle_request(scope, receive, send)


@contextlib.asynccontextmanager
async def lifespan(_app):
    async with manager.run():
        yield


serve(Starlette(routes=[Route("/mcp", Endpoint())], lifespan=lifespan))
