"""PyPI mcp 2.x: both lines."""

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from common import dump, headers, main, say, steps

MODES = {"2025": "legacy", "2026": "2026-07-28", "auto": "auto"}


async def session(first):
    async with httpx2.AsyncClient(headers=headers(first.get("token")), timeout=30) as http:
        transport = streamable_http_client(first["url"], http_client=http)
        async with Client(transport, mode=MODES[first["line"]]) as client:
            info = client.server_info
            say(
                {
                    "ok": {
                        "protocolVersion": client.protocol_version,
                        "serverInfo": dump(info) if info else None,
                        "capabilities": dump(client.server_capabilities),
                        "sessionId": None,
                    }
                }
            )

            async def call(name, arguments, on_progress):
                return await client.call_tool(name, arguments, progress_callback=on_progress)

            await steps(lambda cursor: client.list_tools(cursor=cursor, cache_mode="bypass"), call, client.send_ping)


main(session)
