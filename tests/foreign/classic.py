"""A provider that behaves as the classic Rust library does: a NATS client, msgpack, Ed25519, and no code of ours.

The start configuration is a JSON object of habits:
  health    "never": listens and says nothing; "absent": does not even listen; "sick": says that it is unhealthy
  shutdown  "ignore": does not go
  slow      seconds that it takes to handle a link message, each kind in a task of its own
  late      seconds before it connects
  issuer    "cluster": refuses to work with a seed that is not of a cluster issuer
  call      operation that it calls every linked actor with, as soon as it is linked
Operations: Values (the link's values), Slow (the same, half a second later), Environment, Id (its process id).
"""

import asyncio
import base64
import hashlib
import json
import os
import sys
import time
import uuid

import msgpack
import nacl.signing
import nats


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def key_bytes(text: str, prefix: int) -> bytes:
    return base64.b32decode(text + "=" * (-len(text) % 8))[prefix:-2]


def public_key(seed: str) -> str:
    raw = base64.b32decode(seed + "======")
    public = bytes(nacl.signing.SigningKey(raw[2:-2]).verify_key)
    body = bytes([(raw[0] & 7) << 5 | raw[1] >> 3]) + public
    crc = 0
    for byte in body:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return base64.b32encode(body + crc.to_bytes(2, "little")).decode().rstrip("=")


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unsegment(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def url(entity: dict) -> str:
    if entity["public_key"].startswith("M"):
        return f"wasmbus://{entity['public_key']}"
    contract = entity["contract_id"].replace(":", "/").replace(" ", "_").lower()
    return f"wasmbus://{contract}/{entity['link_name'].replace(' ', '_').lower()}/{entity['public_key']}"


def digest(inv: dict) -> str:
    target = f"{url(inv['target'])}/{inv['operation']}"
    return hashlib.sha256((url(inv["origin"]) + target + inv["operation"]).encode() + inv["msg"]).hexdigest().upper()


class Refused(Exception):
    pass


class Provider:
    def __init__(self, data: dict) -> None:
        # what the two generations of libraries fail without
        for member in ("env_values", "link_definitions", "cluster_issuers", "otel_config", "invocation_seed"):
            if member not in data:
                raise SystemExit(f"missing field `{member}`")
        self.data = data
        self.habits = json.loads(data.get("config_json") or "{}")
        self.links = {link["actor_id"]: link for link in data["link_definitions"]}
        self.subject = f"wasmbus.rpc.{data['lattice_rpc_prefix']}.{data['provider_key']}.{data['link_name']}"
        self.done = asyncio.Event()
        self.tasks: set = set()

    async def run(self) -> None:
        if self.habits.get("issuer") == "cluster":
            own = public_key(self.data["invocation_seed"])
            if own not in self.data["cluster_issuers"]:
                raise SystemExit(f"the invocation seed is that of {own}, which is no cluster issuer")
        await asyncio.sleep(self.habits.get("late", 0))
        self.nc = await nats.connect(self.data["lattice_rpc_url"], max_reconnect_attempts=-1)
        await self.nc.subscribe(self.subject, "rpc", cb=self.on_call)
        # a task for each kind of message, as in the Rust library: the kinds may overtake each other
        self.begin(self.follow("linkdefs.put", self.put_link))
        self.begin(self.follow("linkdefs.del", self.delete_link))
        await self.nc.subscribe(f"{self.subject}.shutdown", cb=self.on_shutdown)
        await self.nc.flush()
        for actor in self.links:
            self.begin(self.call_actor(actor))
        if self.habits.get("health") != "absent":
            await self.nc.subscribe(f"{self.subject}.health", cb=self.on_health)
        say(f"ready with {len(self.links)} links")
        await self.done.wait()
        await self.nc.flush()

    def begin(self, work) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def follow(self, topic: str, handle) -> None:
        messages = await self.nc.subscribe(f"{self.subject}.{topic}")
        async for message in messages.messages:
            await asyncio.sleep(self.habits.get("slow", 0))
            handle(msgpack.unpackb(message.data))

    def put_link(self, link: dict) -> None:
        if link["actor_id"] in self.links:
            say(f"Ignoring duplicate link put {link['values']}")
            return
        say(f"put {link['values']}")
        self.links[link["actor_id"]] = link
        self.begin(self.call_actor(link["actor_id"]))

    def delete_link(self, link: dict) -> None:
        say("del")
        self.links.pop(link["actor_id"], None)

    async def on_health(self, message) -> None:
        if self.habits.get("health") != "never":
            sick = self.habits.get("health") == "sick"
            await message.respond(
                msgpack.packb({"healthy": False, "message": "no backend"} if sick else {"healthy": True})
            )

    async def on_shutdown(self, message) -> None:
        if self.habits.get("shutdown") == "ignore":
            say("not now")
        elif message.reply and json.loads(message.data)["host_id"] == self.data["host_id"]:
            await message.respond(b"shutting down")
            self.done.set()

    async def on_call(self, message) -> None:
        self.begin(self.answer(message))

    async def answer(self, message) -> None:
        inv = msgpack.unpackb(message.data)
        try:
            self.check(inv)
            reply = msgpack.packb(await self.work(inv))
            response = {"msg": reply, "invocation_id": inv["id"], "content_length": len(reply)}
        except Refused as error:
            response = {"msg": b"", "invocation_id": inv["id"], "error": str(error)}
        await message.respond(msgpack.packb(response))

    def check(self, inv: dict) -> None:
        signed, _, signature = inv["encoded_claims"].rpartition(".")
        claims = json.loads(unsegment(signed.split(".")[1]))
        nacl.signing.VerifyKey(key_bytes(claims["iss"], 1)).verify(signed.encode(), unsegment(signature))
        if claims["iss"] not in self.data["cluster_issuers"]:
            raise Refused("Issuer of this invocation is not in list of cluster issuers")
        if claims["wascap"]["hash"] != digest(inv):
            raise Refused("Invocation hash does not match")
        if inv["target"]["public_key"] != self.data["provider_key"]:
            raise Refused("target key mismatch")
        if inv["origin"]["public_key"] not in self.links:
            raise Refused(f"unlinked actor: '{inv['origin']['public_key']}'")

    async def work(self, inv: dict):
        values = self.links[inv["origin"]["public_key"]]["values"]
        match inv["operation"].rpartition(".")[2]:
            case "Slow":
                await asyncio.sleep(0.5)
                return values
            case "Environment":
                return dict(os.environ)
            case "Id":
                return os.getpid()
        return values

    async def call_actor(self, actor: str) -> None:
        if not self.habits.get("call"):
            return
        data = self.data
        origin = {
            "public_key": data["provider_key"],
            "link_name": data["link_name"],
            "contract_id": self.links[actor]["contract_id"],
        }
        target = {"public_key": actor, "link_name": "", "contract_id": ""}
        inv = {"origin": origin, "target": target, "operation": self.habits["call"], "msg": b"hello"}
        target_url = f"{url(target)}/{inv['operation']}"
        inv |= {"id": uuid.uuid4().hex, "host_id": data["host_id"], "content_length": 5}
        body = {
            "jti": "x" * 22,
            "iat": int(time.time()),
            "iss": public_key(data["invocation_seed"]),
            "sub": inv["id"],
            "wascap": {
                "target_url": target_url,
                "origin_url": url(origin),
                "hash": digest(inv),
            },
            "wascap_revision": 3,
        }
        signed = segment(b'{"typ":"jwt","alg":"Ed25519"}') + "." + segment(json.dumps(body).encode())
        key = nacl.signing.SigningKey(base64.b32decode(data["invocation_seed"] + "======")[2:-2])
        inv["encoded_claims"] = f"{signed}.{segment(key.sign(signed.encode()).signature)}"
        subject = f"wasmbus.rpc.{data['lattice_rpc_prefix']}.{actor}"
        reply = msgpack.unpackb((await self.nc.request(subject, msgpack.packb(inv), timeout=5)).data)
        say(f"called: {reply.get('error') or reply['msg']!r}")


async def main() -> None:
    data = json.loads(base64.b64decode(sys.stdin.buffer.readline().strip()))
    await Provider(data).run()


asyncio.run(main())
