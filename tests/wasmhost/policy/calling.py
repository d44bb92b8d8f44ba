"""Calls of a peer that holds the cluster's key, to the actors of a host."""

from __future__ import annotations

from lattice.antiforgery import Signer
from lattice.connection import Connection
from lattice.invocation import Entity
from lattice.rpc import RpcClient
from wasmhost.host import Host

PEER = Entity("wasmhost-test")


async def call(host: Host, client: Connection, actor: str, msg: bytes = b"x", *, timeout: float = 5.0) -> bytes:
    """The answer. Raises RemoteError with the host's refusal, Unreachable where nobody listens."""
    rpc = RpcClient(client, host.config.lattice, Signer(host.identity.cluster, host.host_id))
    return await rpc.call(origin=PEER, target=Entity.actor(actor), operation="Test.Call", msg=msg, timeout=timeout)
