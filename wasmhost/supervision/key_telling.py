"""Keeping the keys of one provider process as they should be, while it runs.

Providers on our SDK take new keys from their standard input and say in their health which they use. Classic ones read
them once, at their start: where that will not do any longer they are started anew, while the calls of this host's
actors wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from lattice.health import HealthReply
from lattice.providerkeys import ProviderKeys
from wasmhost.supervision.provider_process import ProviderProcess

log = structlog.get_logger(__name__)

CONFIRM_TIMEOUT: Final = 5.0
"""Seconds that a provider of ours may take to use its new keys."""
_POLL: Final = 0.02


class KeyTeller:
    """What one provider's processes were told."""

    def __init__(
        self,
        *,
        ours: bool,
        wanted: Callable[[], ProviderKeys],
        permits: Callable[[str], bool],
        ask_health: Callable[[], Awaitable[object]],
        restart: Callable[[], Awaitable[None]],
    ) -> None:
        """``wanted``: the keys that it should have now; ``permits``: whether calls signed with a key of it are let in;

        ``ask_health``: one health check; ``restart``: replace its process, returns when the new one is up.
        """
        self._ours = ours
        self._wanted = wanted
        self._permits = permits
        self._ask_health = ask_health
        self._restart = restart
        self._told: ProviderKeys | None = None
        self._turn = asyncio.Lock()

    def begin(self) -> None:
        """A process is about to get host data with the keys of this moment."""
        self._told = self._wanted()

    async def renew(self, process: ProviderProcess) -> bool:
        """Have this process use the keys that it should have now; False when it does not say that it does."""
        async with self._turn:
            told, wanted = self._told, self._wanted()
            if told is None or told == wanted or not process.running:
                return True
            if self._ours:
                process.write(wanted.encode())
                self._told = wanted
                return await self._confirmed(process, wanted)
            if told.issuers == wanted.issuers and self._permits(told.key.public):
                return True  # it goes on with its old key until that is removed
            await self._restart()
            return True

    async def _confirmed(self, process: ProviderProcess, wanted: ProviderKeys) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_TIMEOUT):
                while process.running:
                    answer = await self._ask_health()
                    if isinstance(answer, HealthReply) and (answer.issuer, answer.cluster_issuers) == (
                        wanted.key.public,
                        wanted.issuers,
                    ):
                        return True
                    await asyncio.sleep(_POLL)
                return True  # its next process has them
        log.warning("provider.keys_unconfirmed", issuer=wanted.key.public, waited_s=CONFIRM_TIMEOUT)
        return False
