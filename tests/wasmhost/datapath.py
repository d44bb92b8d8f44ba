"""The data path of one host, put together on a real NATS server, and a peer that calls its actors.

The parts are the real ones; only links and aliases come from a plain object instead of the metadata bucket.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lattice import subjects
from lattice.antiforgery import Signer
from lattice.authority import Authority
from lattice.chunks import Chunks
from lattice.connection import Connection, ConnectOptions, connect
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition, LinkTable
from lattice.rpc import DEADLINE_HEADER, RpcClient
from lattice.transport import Headers
from tests.support.actors import ACCOUNT, signed, write
from wasmhost.actors.registry import ActorRegistry
from wasmhost.calls.admission import Admission
from wasmhost.calls.directory import ActorDirectory
from wasmhost.calls.outbound import Outbound
from wasmhost.configuration.config import HostConfig
from wasmhost.guest.engine import Engine
from wasmhost.state import locate

CLUSTER = KeyPair.from_raw(Role.CLUSTER, bytes([1]) * 32)
HOST = KeyPair.from_raw(Role.HOST, bytes([2]) * 32)
CLIENT = Entity("wasmhost-test")


@dataclass
class View:
    """Links and aliases of the lattice."""

    links: LinkTable = field(default_factory=LinkTable)
    aliases: dict[str, str] = field(default_factory=dict)

    def alias(self, name: str) -> str | None:
        return self.aliases.get(name)


@dataclass
class DataPath:
    lattice: str
    folder: Path
    config: HostConfig
    connection: Connection
    peer: Connection
    registry: ActorRegistry
    view: View
    events: list[tuple[str, Mapping[str, Any]]]
    signer: Signer
    chunks: Chunks
    """The peer's."""
    _files: int = 0

    async def launch(
        self, wat: str, *, count: int = 1, annotations: Mapping[str, str] | None = None, **claims: Any
    ) -> str:
        """Sign, start; the public key."""
        return await self.registry.launch(self.write(wat, **claims), count, annotations)

    def write(self, wat: str, **claims: Any) -> str:
        """Sign and store; the reference."""
        self._files += 1
        return write(self.folder, signed(wat, **claims), f"actor{self._files}.wasm")

    def link(self, actor: str, provider: str, contract: str, link_name: str = "default") -> None:
        self.view.links = self.view.links.with_link(
            LinkDefinition(actor_id=actor, provider_id=provider, contract_id=contract, link_name=link_name)
        )

    def sign(self, actor: str, msg: bytes = b"", operation: str = "Test.Call", origin: Entity = CLIENT) -> Invocation:
        return self.signer.sign(origin=origin, target=Entity.actor(actor), operation=operation, msg=msg)

    async def send(self, actor: str, payload: bytes, *, timeout: float = 5.0, allow: float | None = None) -> bytes:
        """The raw answer to raw bytes on the actor's subject; ``allow``: the deadline header, in seconds."""
        headers = None if allow is None else {DEADLINE_HEADER: str(int(allow * 1000))}
        subject = subjects.actor_rpc(self.lattice, actor)
        return (await self.peer.request(subject, payload, timeout=timeout, headers=headers)).payload

    async def invoke(self, invocation: Invocation, *, allow: float | None = None) -> InvocationResponse:
        answer = await self.send(invocation.target.public_key, invocation.encode(), allow=allow)
        return InvocationResponse.decode(answer)

    async def call(self, actor: str, msg: bytes = b"", *, allow: float | None = None) -> InvocationResponse:
        """One sound call of a peer that holds the cluster key."""
        invocation = self.sign(actor, msg)
        response = await self.invoke(invocation, allow=allow)
        assert response.invocation_id == invocation.id
        return response

    async def call_large(self, actor: str, msg: bytes, *, timeout: float = 5.0) -> bytes:
        """The result of a call as a whole client makes it, through the object store where that is due."""
        client = RpcClient(self.peer, self.lattice, self.signer, self.chunks)
        return await client.call(
            origin=CLIENT, target=Entity.actor(actor), operation="Test.Call", msg=msg, timeout=timeout
        )

    async def in_store(self) -> set[str]:
        """The last tokens of the subjects in the object store of the lattice."""
        request = b'{"subjects_filter": ">"}'
        reply = await self.peer.request(f"$JS.API.STREAM.INFO.OBJ_{self.lattice}", request, timeout=5)
        state = json.loads(reply.payload).get("state", {})
        return {subject.rpartition(".")[2] for subject in state.get("subjects") or {}}

    def named(self, name: str) -> list[Mapping[str, Any]]:
        """The data of all events of one name."""
        return [data for event, data in self.events if event == name]


@asynccontextmanager
async def data_path(url: str, lattice: str, folder: Path, **settings: Any) -> AsyncIterator[DataPath]:
    """``settings`` change the configuration of the host."""
    config = HostConfig(
        paths=locate({"WASMHOST_STATE": str(folder / "state")}),
        lattice=lattice,
        trusted_issuers=frozenset({ACCOUNT.public}),
        allow_file_load=True,
    )
    config = replace(config, **settings)
    connection = await connect(ConnectOptions(url=url, name="host"))
    peer = await connect(ConnectOptions(url=url, name="peer"))
    engine = Engine.open(folder / "cache")
    view, events, directory = View(), list[tuple[str, Mapping[str, Any]]](), ActorDirectory()
    admission = Admission(Authority.for_host(CLUSTER, [], lattice))
    chunks = Chunks(connection, lattice)
    outbound = Outbound(
        lattice=lattice,
        rpc=RpcClient(connection, lattice, Signer(CLUSTER, HOST.public), chunks),
        view=view,
        directory=directory,
        admission=admission,
        local=config.local,
        trace=True,
    )

    async def put_claims(claims: Mapping[str, str]) -> None:
        if claims["call_alias"]:
            view.aliases.setdefault(claims["call_alias"], claims["sub"])

    registry = ActorRegistry(
        config=config,
        host_id=HOST.public,
        engine=engine,
        transport=connection,
        chunks=chunks,
        directory=directory,
        admission=admission,
        outbound=outbound,
        publish_event=lambda name, data: events.append((name, data)),
        put_claims=put_claims,
        trace=True,
    )
    path = DataPath(
        lattice,
        folder,
        config,
        connection,
        peer,
        registry,
        view,
        events,
        Signer(CLUSTER, HOST.public),
        Chunks(peer, lattice),
    )
    try:
        yield path
    finally:
        await registry.drain(1.0)
        await chunks.close()
        await path.chunks.close()
        await connection.drain()
        await peer.drain()
        await asyncio.to_thread(engine.close)


@dataclass
class Provider:
    """A provider reduced to its subject: remembers what it was asked, answers with a function."""

    key: str
    received: list[Invocation] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    """Where the answers belong, for a test that answers later."""

    @classmethod
    async def serve(
        cls,
        path: DataPath,
        contract: str,
        *,
        error: str | None = None,
        answering: bool = True,
        link_name: str = "default",
    ) -> Provider:
        """Answers every call with ``error``, or with what it was sent; or not at all."""
        provider = cls(KeyPair.generate(Role.SERVICE).public)

        def on_message(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            invocation = Invocation.decode(payload)
            provider.received.append(invocation)
            provider.headers.append(headers)
            provider.replies.append(reply)
            if answering:
                response = InvocationResponse(
                    msg=b"" if error else invocation.msg, invocation_id=invocation.id, error=error
                )
                path.peer.publish(reply, response.encode())

        await path.peer.subscribe(subjects.provider_rpc(path.lattice, provider.key, link_name), on_message, queue="rpc")
        return provider
