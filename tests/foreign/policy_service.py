"""A policy service as anybody might write it: plain nats-py and JSON, nothing of this project.

``policy_service.py URL TOPIC``. It permits what no rule denies. Its owner talks to it on ``TOPIC.owner`` in JSON:
``{"mode": …}`` how it answers from now on, ``{"deny": [text, …]}`` what is denied (any question that has the text in
it), ``{"asked": true}`` what it was asked since the last time, ``{"release": true}`` that what it keeps waiting in mode
``hold`` is answered. It prints ``ready`` when it listens.
"""

import asyncio
import json
import sys

import nats


async def main(url: str, topic: str) -> None:
    connection = await nats.connect(url)
    asked: list[dict] = []
    rules = {"mode": "answer", "deny": []}
    held: list[tuple] = []

    async def decide(message) -> None:
        question = json.loads(message.data)
        asked.append(question)
        denied = next((text for text in rules["deny"] if text in message.data.decode()), None)
        answer = {
            "requestId": question["requestId"],
            "permitted": denied is None,
            "message": None if denied is None else f"the rules deny {denied}",
        }
        match rules["mode"]:
            case "answer":
                await message.respond(json.dumps(answer).encode())
            case "garbage":
                await message.respond(b"\xff not json")
            case "not a boolean":
                await message.respond(json.dumps({**answer, "permitted": "true"}).encode())
            case "other request":
                await message.respond(json.dumps({**answer, "requestId": "another"}).encode())
            case "empty":
                await message.respond(b"{}")
            case "hold":
                held.append((message, answer))
            case "late":
                asyncio.get_running_loop().call_later(
                    1.0, lambda: asyncio.ensure_future(message.respond(json.dumps(answer).encode()))
                )

    async def obey(message) -> None:
        order = json.loads(message.data)
        if "asked" in order:
            await message.respond(json.dumps(asked).encode())
            asked.clear()
            return
        if "release" in order:
            for waiting, answer in held:
                await waiting.respond(json.dumps(answer).encode())
            held.clear()
            await message.respond(b"{}")
            return
        rules.update(order)
        await message.respond(b"{}")

    await connection.subscribe(topic, cb=decide, queue="policy")
    await connection.subscribe(f"{topic}.owner", cb=obey)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
