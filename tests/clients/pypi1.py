"""PyPI mcp 1.x: the 2025 line, with sessions."""

from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata

from common import Person, dump, headers, main, say, steps


def provider(url, login):
    if login is None:
        return None
    person = Person(login, OAuthClientMetadata, OAuthClientInformationFull)

    async def callback():
        return person.back["code"], person.back.get("state")

    return OAuthClientProvider(
        url, person.metadata, person, person.redirect, callback, client_metadata_url=login.get("document")
    )


async def session(first):
    auth = provider(first["url"], first.get("login"))
    async with (
        create_mcp_http_client(headers=headers(first.get("token")), auth=auth) as http,
        streamable_http_client(first["url"], http_client=http) as (read, write, session_id),
        ClientSession(read, write) as client,
    ):
        about = dump(await client.initialize())
        say(
            {
                "ok": {
                    "protocolVersion": about["protocolVersion"],
                    "serverInfo": about["serverInfo"],
                    "capabilities": about["capabilities"],
                    "sessionId": session_id(),
                }
            }
        )

        async def call(name, arguments, on_progress):
            return await client.call_tool(name, arguments, progress_callback=on_progress)

        await steps(lambda cursor: client.list_tools(cursor), call, client.send_ping)


main(session)
