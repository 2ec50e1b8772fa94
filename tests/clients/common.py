"""The line protocol that both Python clients speak: see README.md."""

import json
import sys

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
    """Runs steps until stdin ends."""
    while (message := await read()) is not None:
        try:
            answer = await step(message, list_page, call, ping)
        except Exception as error:
            answer = failure(error)
        say(answer)


def main(session):
    """Runs `session(first)`, which connects, answers the first line and calls `steps`."""

    async def run():
        first = await read()
        try:
            await session(first)
        except Exception as error:
            say(failure(error))

    anyio.run(run)


def headers(token):
    return {"Authorization": f"Bearer {token}"} if token else {}
