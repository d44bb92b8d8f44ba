"""Calls from a provider to actors, signed with the key that its host gave it."""

from __future__ import annotations

from lattice.hostdata import HostData
from lattice.invocation import Entity
from lattice.rpc import RpcClient


class SignedCalls:
    """The :class:`providers.provider.ActorCalls` of one process."""

    def __init__(self, client: RpcClient, host_data: HostData, contract_id: str) -> None:
        self._client = client
        self._origin = Entity.provider(host_data.provider_key, contract_id, host_data.link_name)
        self._timeout = host_data.rpc_timeout
        self._targets: dict[str, Entity] = {}

    async def call(self, actor: str, operation: str, msg: bytes, timeout: float | None = None) -> bytes:
        target = self._targets.get(actor)
        if target is None:
            target = self._targets[actor] = Entity.actor(actor)
        return await self._client.call(
            origin=self._origin,
            target=target,
            operation=operation,
            msg=msg,
            timeout=self._timeout if timeout is None else timeout,
        )
