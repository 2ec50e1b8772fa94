"""The line protocol that both Python clients speak: see README.md."""

import json
import sys
from urllib.parse import parse_qsl, urlsplit

import anyio


def failure(error):
    """What the SDK tells of a failure; task groups wrap it in exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    detail = getattr(error, "error", None)
    response = getattr(error, "response", None)
    return {
        "error": {
            "name": type(error).__name__,
            "code": getattr(detail, "code", None),
            "status": getattr(response, "status_code", None),
            "message": getattr(detail, "message", None) or str(error),
        }
    }


def dump(model):
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def read():
    line = await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return json.loads(line) if line else None


async def browse(url):
    """Sends the person to `url`; what comes back to the redirect URI."""
    say({"authorize": url})
    answer = await read()
    if "callback" not in answer:
        raise RuntimeError(f"the person is shown: {answer['page']}")
    return dict(parse_qsl(urlsplit(answer["callback"]).query))


class Person:
    """What the SDK's provider leaves to the application: where things are kept, and the way to the browser and back."""

    def __init__(self, login, metadata, information):
        self.login = login
        self.metadata = metadata(
            client_name="Test bed",
            redirect_uris=[login["redirect"]],
            grant_types=login["grants"],
            response_types=["code"],
            token_endpoint_auth_method="none",
        )
        given = login.get("client")
        self.client = information(**given, redirect_uris=[login["redirect"]]) if given else None
        self.tokens = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client

    async def redirect(self, url):
        self.back = await browse(url)
        if "code" not in self.back:
            raise RuntimeError(f"{self.back.get('error')}: {self.back.get('error_description')}")


async def step(message, list_page, call, ping):
    if message["op"] == "list":
        tools, cursor = [], None
        while True:
            page = dump(await list_page(cursor))
            tools += page["tools"]
            cursor = page.get("nextCursor")
            if cursor is None:
                return {"ok": {"tools": tools}}
    if message["op"] == "call":
        seen = []

        async def on_progress(progress, _total, _message):
            seen.append(progress)

        wants = message.get("progress", False)
        result = await call(message["name"], message.get("arguments"), on_progress if wants else None)
        return {"ok": dump(result), **({"progress": seen} if wants else {})}
    if message["op"] == "ping":
        return {"ok": dump(await ping())}
    raise ValueError(f"no such step: {message['op']}")


async def steps(list_page, call, ping):
    """Runs steps until the session or stdin ends."""
    while (message := await read()) is not None and message.get("op") != "end":
        try:
            answer = await step(message, list_page, call, ping)
        except Exception as error:
            answer = failure(error)
        say(answer)


def main(session):
    """Runs `session(first)`, which connects, answers the first line and calls `steps`, for one session after the other."""

    async def run():
        while (first := await read()) is not None:
            try:
                await session(first)
                say({"ok": None})
            except Exception as error:
                say(failure(error))

    anyio.run(run)


def headers(token):
    return {"Authorization": f"Bearer {token}"} if token else {}
