"""The reference for the counter on Redis: one aiohttp process that counts with redis-py.

``python -m benchmarks.bare_redis PORT URL`` prints ``ready`` when it serves. It does what HTTP provider, actor and
key-value provider do together: the path is the key, ``?amount=`` counts by more than 1, the answer is JSON.
"""

from __future__ import annotations

import asyncio
import sys

import redis.asyncio
from aiohttp import web


async def main(port: str, url: str) -> None:
    client = redis.asyncio.Redis.from_url(url)

    async def count(request: web.Request) -> web.Response:
        key = "counter:" + request.path.replace("/", ":")
        counter = await client.incrby(key, int(request.query.get("amount", 1)))
        return web.json_response({"counter": counter})

    application = web.Application()
    application.router.add_get("/{path:.*}", count)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(port)).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
