"""The references that serve in processes of their own: an echo on nats-py, an echo on aiohttp.

``python -m benchmarks.bare nats URL SUBJECT`` and ``python -m benchmarks.bare http PORT`` print ``ready`` when they
serve. The first answers a message with itself, the second an HTTP request with its body.
"""

from __future__ import annotations

import asyncio
import sys

import nats
from aiohttp import web
from nats.aio.msg import Msg


async def serve_nats(url: str, subject: str) -> None:
    client = await nats.connect(url)

    async def echo(message: Msg) -> None:
        await message.respond(message.data)

    await client.subscribe(subject, cb=echo)
    # Once is not enough: the PING overtakes what nats-py has still queued.
    await client.flush()
    await client.flush()


async def serve_http(port: str) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(port)).start()


async def main(kind: str, *arguments: str) -> None:
    await (serve_nats if kind == "nats" else serve_http)(*arguments)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
