"""What both Python servers share: see README.md for the reports and the tools."""

import json
import pathlib
import socket
import sys

import anyio
import uvicorn

OPTIONS = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
TOOLS = json.loads(pathlib.Path(__file__).with_name("tools.json").read_text())


def report(what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def answer(name, arguments, notify):
    """The text and the error flag that the tool answers with. `notify(n, total)` sends progress."""
    report({"call": {"tool": name, "arguments": arguments}})
    given = arguments or {}
    try:
        if name == "progress":
            steps = int(given.get("steps", 3))
            for n in range(1, steps + 1):
                await notify(n, steps)
        if name == "wait":
            await anyio.sleep(float(given.get("ms", 0)) / 1000)
    except anyio.get_cancelled_exc_class():
        report({"cancelled": {"tool": name}})
        raise
    return json.dumps({"tool": name, "arguments": arguments}), name == "fail"


def serve(app):
    """Serves the ASGI app on a free loopback port, reporting each request before the app sees it."""

    async def reporting(scope, receive, send):
        if scope["type"] == "http":
            headers = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]]
            target = scope["raw_path"].decode("latin-1")
            if scope["query_string"]:
                target += "?" + scope["query_string"].decode("latin-1")
            report({"http": {"method": scope["method"], "target": target, "headers": headers}})
        await app(scope, receive, send)

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    # The kernel queues connections from here on, so the port is ready before uvicorn's loop is.
    report({"ready": listener.getsockname()[1]})
    uvicorn.Server(uvicorn.Config(reporting, log_level="warning", lifespan="on")).run(sockets=[listener])
