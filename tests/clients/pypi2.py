"""PyPI mcp 2.x: both lines."""

import httpx2
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata

from common import Person, dump, headers, main, say, steps

MODES = {"2025": "legacy", "2026": "2026-07-28", "auto": "auto"}


def provider(url, login):
    if login is None:
        return None
    person = Person(login, OAuthClientMetadata, OAuthClientInformationFull)

    async def callback():
        return AuthorizationCodeResult(**{name: person.back.get(name) for name in ("code", "state", "iss")})

    return OAuthClientProvider(
        url, person.metadata, person, person.redirect, callback, client_metadata_url=login.get("document")
    )


async def session(first):
    auth = provider(first["url"], first.get("login"))
    async with httpx2.AsyncClient(headers=headers(first.get("token")), auth=auth, timeout=30) as http:
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
