"""Provider processes as a host starts them, and what a test needs of the lattice around them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lattice import subjects, wire
from lattice.antiforgery import Signer
from lattice.chunks import Chunks
from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import Unreachable
from lattice.hostdata import HostData
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.rpc import RpcClient, store_answer
from lattice.transport import Headers, Reply

ROOT = Path(__file__).resolve().parents[2]

ActorHandler = Callable[[Invocation], bytes | str | None]
"""Bytes are the answer, a text is an error, None means no answer at all."""


class HostSide:
    """The host's side of a lattice, with real keys on a real server, for one provider at a time."""

    def __init__(self, connection: Connection, lattice: str, url: str) -> None:
        self.connection = connection
        self.name = lattice
        self.url = url
        self.host = KeyPair.generate(Role.HOST)
        self.cluster = KeyPair.generate(Role.CLUSTER)
        self.provider_issuer = KeyPair.generate(Role.CLUSTER)
        self.signer = Signer(self.cluster, self.host.public)
        self.processes: list[ProviderProcess] = []
        self.chunks = Chunks(connection, lattice)
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, url: str, lattice: str) -> HostSide:
        return cls(await connect(ConnectOptions(url=url, name="test host")), lattice, url)

    async def close(self) -> None:
        for process in self.processes:
            await process.kill()
        await self.chunks.close()
        await self.connection.drain()

    def link(self, actor: str, provider: str, contract: str, /, **values: str) -> LinkDefinition:
        return LinkDefinition(
            actor_id=actor, provider_id=provider, link_name="default", contract_id=contract, values=values
        )

    def host_data(self, provider: str, *links: LinkDefinition, **more: Any) -> HostData:
        return HostData(
            **{
                "host_id": self.host.public,
                "lattice_rpc_prefix": self.name,
                "link_name": "default",
                "lattice_rpc_url": self.url,
                "provider_key": provider,
                "invocation_seed": self.provider_issuer.seed,
                "cluster_issuers": (self.cluster.public,),
                "link_definitions": links,
                "default_rpc_timeout_ms": 2000,
                "exit_on_stdin_close": True,
                **more,
            }
        )

    async def start(self, module: str | Path, host_data: HostData) -> ProviderProcess:
        """Start a provider (a module name or the path of a script) and await its first health reply."""
        process = ProviderProcess(self, host_data)
        self.processes.append(process)
        await process.start(module)
        await process.until_healthy_reply()
        return process

    async def actor(self, handler: ActorHandler, actor: str | None = None) -> str:
        """Serve calls of a stand-in actor; its public key."""
        key = actor or KeyPair.generate(Role.MODULE).public

        def on_message(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(handler, Invocation.decode(payload), reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        subject = subjects.actor_rpc(self.name, key)
        await self.connection.subscribe(subject, on_message, queue=subject)
        return key

    async def _serve(self, handler: ActorHandler, invocation: Invocation, reply: str) -> None:
        if invocation.chunked:
            end = asyncio.get_running_loop().time() + 10
            size = invocation.content_length or 0
            msg = await self.chunks.receive(invocation.id, size, what="it", deadline=end)
            invocation = replace(invocation, msg=msg)
        answer = handler(invocation)
        if answer is None:
            return
        response = (
            InvocationResponse(invocation_id=invocation.id, error=answer)
            if isinstance(answer, str)
            else InvocationResponse(invocation_id=invocation.id, msg=answer)
        )
        if self.chunks.is_large(len(response.msg)):
            response = await store_answer(self.chunks, response, invocation.operation)
        self.connection.publish(reply, response.encode())

    async def in_store(self) -> int:
        """Messages in the object store of the lattice; 0 without one."""
        reply = await self.connection.request(f"$JS.API.STREAM.INFO.OBJ_{self.name}", b"", timeout=5)
        return int(json.loads(reply.payload).get("state", {}).get("messages", 0))

    async def held(self, actor: str | None = None) -> HeldActor:
        """Serve calls of an actor that answers when the test says so."""
        held = HeldActor(self.connection, actor or KeyPair.generate(Role.MODULE).public)
        subject = subjects.actor_rpc(self.name, held.key)
        await self.connection.subscribe(subject, held.on_message, queue=subject)
        return held


class HeldActor:
    """A stand-in actor whose calls wait."""

    def __init__(self, connection: Connection, key: str) -> None:
        self._connection = connection
        self._calls: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.key = key

    def on_message(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        self._calls.put_nowait((reply, Invocation.decode(payload).id))

    async def next(self) -> Callable[[bytes], None]:
        """Await a call; the function that answers it."""
        async with asyncio.timeout(5):
            reply, invocation = await self._calls.get()
        return lambda msg: self._connection.publish(
            reply, InvocationResponse(invocation_id=invocation, msg=msg).encode()
        )


def document(reply: Reply) -> dict[str, Any]:
    """The MessagePack map in a reply."""
    value = wire.unpack_value(reply.payload)
    assert isinstance(value, dict)
    return value


class ProviderProcess:
    """One running provider."""

    def __init__(self, lattice: HostSide, host_data: HostData) -> None:
        self._lattice = lattice
        self._host_data = host_data
        self._key = host_data.provider_key
        self._link_name = host_data.link_name
        self._readers: list[asyncio.Task[None]] = []
        self.lines: list[str] = []
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, module: str | Path) -> None:
        arguments = ["-m", module] if isinstance(module, str) else [str(module)]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        for stream in (self.process.stdout, self.process.stderr):
            self._readers.append(asyncio.create_task(self._read(stream)))
        self.process.stdin.write(self._host_data.encode())
        await self.process.stdin.drain()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self.lines.append(line.decode(errors="replace").rstrip())

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Log lines as documents; fails on a line that is none."""
        return [json.loads(line) for line in self.lines]

    async def until_healthy_reply(self, timeout: float = 30) -> dict[str, Any]:
        """Poll until it answers health checks."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                return await self.health()
            except Unreachable:
                ended = self.process is not None and self.process.returncode is not None
                assert not ended, f"ended:\n{self.output}"
                assert asyncio.get_running_loop().time() < deadline, f"no health reply:\n{self.output}"
                await asyncio.sleep(0.05)

    async def health(self) -> dict[str, Any]:
        subject = subjects.health(self._lattice.name, self._key, self._link_name)
        return document(await self._lattice.connection.request(subject, b"", timeout=2))

    async def until_link(self, actor: str, state: str, timeout: float = 10) -> dict[str, Any]:
        """Poll health until the link of ``actor`` is in ``state``."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            health = await self.health()
            link = health["links"].get(actor, {"state": "removed"})
            if link["state"] == state:
                return dict(link)
            assert asyncio.get_running_loop().time() < deadline, f"{health}\n{self.output}"
            await asyncio.sleep(0.05)

    async def put(self, link: LinkDefinition) -> dict[str, str]:
        return await self._ask(subjects.linkdef_put(self._lattice.name, self._key, self._link_name), link)

    async def delete(self, link: LinkDefinition) -> dict[str, str]:
        return await self._ask(subjects.linkdef_del(self._lattice.name, self._key, self._link_name), link)

    async def _ask(self, subject: str, link: LinkDefinition) -> dict[str, str]:
        return document(await self._lattice.connection.request(subject, link.encode(), timeout=8))

    async def call(
        self, actor: str, operation: str, msg: bytes, *, contract: str, timeout: float = 5, signer: Signer | None = None
    ) -> bytes:
        """Call it as the host of ``actor`` would."""
        lattice = self._lattice
        return await RpcClient(lattice.connection, lattice.name, signer or lattice.signer, lattice.chunks).call(
            origin=Entity.actor(actor),
            target=Entity.provider(self._key, contract, self._link_name),
            operation=operation,
            msg=msg,
            timeout=timeout,
        )

    async def shut_down(self, body: Mapping[str, Any] | None = None) -> bytes:
        """Send the shutdown request of a host; the reply."""
        document = {"host_id": self._host_data.host_id} if body is None else body
        subject = subjects.shutdown(self._lattice.name, self._key, self._link_name)
        return (await self._lattice.connection.request(subject, json.dumps(document).encode(), timeout=2)).payload

    async def ended(self, timeout: float = 10) -> int:
        """Its exit code."""
        assert self.process is not None
        async with asyncio.timeout(timeout):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code

    def hang_up(self) -> None:
        """Close all pipes to it, as the kernel does where its host is killed."""
        assert self.process is not None
        transport = self.process._transport  # type: ignore[attr-defined]
        for number in range(3):
            transport.get_pipe_transport(number).close()

    async def kill(self) -> None:
        if self.process is not None:
            if self.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
            await self.ended()
