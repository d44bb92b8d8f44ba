"""Calls from a provider to actors, signed with the key that its host gave it."""

from __future__ import annotations

import asyncio
from typing import Final

from lattice.antiforgery import Signer
from lattice.errors import RemoteError
from lattice.hostdata import HostData
from lattice.invocation import Entity
from lattice.keys import KeyPair
from lattice.rpc import RpcClient
from lattice.verify import ISSUER_REFUSED

_PATIENCE: Final = 1.0
"""Seconds that a call waits for another key once its own was refused."""
_GIVEN_UP_FOR: Final = 10.0
"""Seconds in which refused calls do not wait, after one has waited in vain."""


class SignedCalls:
    """The :class:`providers.provider.ActorCalls` of one process."""

    def __init__(self, client: RpcClient, host_data: HostData, contract_id: str, *, signer: Signer) -> None:
        """``signer`` is the one that ``client`` signs with."""
        self._client = client
        self._signer = signer
        self._renewed = asyncio.Event()
        self._impatient_until = 0.0
        self._origin = Entity.provider(host_data.provider_key, contract_id, host_data.link_name)
        self._timeout = host_data.rpc_timeout
        self._targets: dict[str, Entity] = {}

    async def call(self, actor: str, operation: str, msg: bytes, timeout: float | None = None) -> bytes:
        target = self._targets.get(actor)
        if target is None:
            target = self._targets[actor] = Entity.actor(actor)
        loop = asyncio.get_running_loop()
        end = loop.time() + (self._timeout if timeout is None else timeout)
        while True:
            issuer = self._signer.issuer
            try:
                return await self._client.call(
                    origin=self._origin, target=target, operation=operation, msg=msg, timeout=end - loop.time()
                )
            except RemoteError as refusal:
                # a call that was refused for its key did nothing, so it may be sent again with another one
                if ISSUER_REFUSED not in str(refusal) or not await self._has_other_key(issuer, end - loop.time()):
                    raise

    def renew(self, key: KeyPair) -> None:
        """Sign with ``key`` from now on."""
        self._signer.use(key)
        renewed, self._renewed = self._renewed, asyncio.Event()
        renewed.set()

    async def _has_other_key(self, issuer: str, left: float) -> bool:
        """Whether the key that was refused is the present one no more; one that was revoked is replaced in a moment."""
        loop = asyncio.get_running_loop()
        if self._signer.issuer == issuer and loop.time() >= self._impatient_until:
            try:
                await asyncio.wait_for(self._renewed.wait(), min(_PATIENCE, left / 2))
            except TimeoutError:
                self._impatient_until = loop.time() + _GIVEN_UP_FOR
        return self._signer.issuer != issuer
