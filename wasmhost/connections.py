"""The connections of a host to NATS: opened, watched, and what NATS does not permit told to the lattice."""

from __future__ import annotations

from contextlib import AsyncExitStack

import structlog

from lattice import events
from lattice.connection import Connection, connect
from lattice.server_errors import Violation
from lattice.transport import State
from wasmhost.configuration.config import HostConfig
from wasmhost.configuration.endpoint import NatsEndpoint

log = structlog.get_logger(__name__)


class HostConnections:
    """One for control and one for calls."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self.publish: events.Publish = lambda _name, _data: None
        """Publishes an event, as soon as the host can."""
        self.lost: dict[str, None] = {}
        """What each is for that is cut off."""

    async def open(self, parts: AsyncExitStack, name: str) -> tuple[Connection, Connection]:
        """Those for control and for calls; that of providers is tried, where it is another one.

        Raises Unreachable and NotAuthorized.
        """
        config = self._config
        control = await self._connect(parts, config.control, "control", name)
        rpc = await self._connect(parts, config.rpc, "rpc", name)
        if not config.providers.names_provider and config.providers not in (config.control, config.rpc):
            options = config.providers.options("wasmhost provider check", allow_anonymous=config.allow_anonymous_nats)
            await (await connect(options)).close()
        return control, rpc

    async def _connect(self, parts: AsyncExitStack, endpoint: NatsEndpoint, purpose: str, name: str) -> Connection:
        connection = await connect(
            endpoint.options(f"wasmhost {purpose} {name}", allow_anonymous=self._config.allow_anonymous_nats)
        )
        parts.push_async_callback(connection.drain)
        if purpose == "control" and not connection.auth_required:  # said once
            who = "any local user" if connection.local else "whoever reaches it"
            log.warning("nats.anonymous", server=connection.server, hint=f"{who} may control this host")
        connection.on_state(lambda state: self._note_state(purpose, state))
        connection.on_violation(lambda violation: self._tell_violation(purpose, violation))
        return connection

    def _tell_violation(self, purpose: str, violation: Violation) -> None:
        """Publish an event, unless events are what is not permitted."""
        if not violation.subject.startswith("wasmbus.evt."):
            told = events.permission_violation(
                connection=purpose, operation=violation.operation, subject=violation.subject, queue=violation.queue
            )
            self.publish(*told)

    def _note_state(self, purpose: str, state: State) -> None:
        event = log.warning if state is State.RECONNECTING else log.info
        event("nats.state", connection=purpose, state=state.value)
        if state is State.CONNECTED:
            self.lost.pop(purpose, None)
        else:
            self.lost[purpose] = None
