"""The control client: asks hosts, commands them and follows their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import structlog

from lattice import subjects
from lattice.cloudevents import Event
from lattice.clustercontrol import ChangeClusterKeys, ClusterView, RevokeProviderKey
from lattice.control import (
    Ack,
    Encoding,
    HostPing,
    Inventory,
    LaunchActor,
    ProviderLaunch,
    ScaleActor,
    StartProvider,
    StopActor,
    StopHost,
    StopProvider,
    UpdateActor,
    encoding_of,
)
from lattice.document import Document
from lattice.errors import Code, LatticeError, MalformedMessage, RemoteError
from lattice.links import LinkDefinition
from lattice.revocation import Revocation
from lattice.security_report import SecurityReport
from lattice.transport import Headers, Reply, Transport

log = structlog.get_logger(__name__)

MOST_EVENTS_WAITING: Final = 10_000
"""Events kept for a reader that does not keep up; beyond it the newest are dropped and counted in the log."""

# A body, because an empty request is answered in JSON; classic hosts do not look at it.
_ASK: Final = Encoding.MSGPACK.encode({})


class _Document(Protocol):
    def to_dict(self) -> dict[str, Any]: ...


class ControlClient:
    """Speaks to the hosts of one lattice, in msgpack; answers may be in JSON.

    Every method raises Unreachable when nobody answers, MalformedMessage when an answer is not one, and each command
    RemoteError with the host's text and code when it is refused. A command is accepted before its work is done.
    """

    def __init__(
        self,
        transport: Transport,
        lattice: str,
        *,
        prefix: str = subjects.DEFAULT_CONTROL_PREFIX,
        timeout: float = 2.0,
    ) -> None:
        self._transport = transport
        self._lattice = lattice
        self._subjects = subjects.Control(lattice, prefix)
        self._timeout = timeout

    async def ping_hosts(self, timeout: float | None = None) -> list[HostPing]:
        """Every host that answers within ``timeout`` seconds; an answer that cannot be read is logged and left out."""
        wait = self._timeout if timeout is None else timeout
        hosts = []
        for reply in await self._transport.gather(self._subjects.ping_hosts(), _ASK, timeout=wait):
            try:
                hosts.append(HostPing.from_dict(_read("host ping", reply)))
            except MalformedMessage as error:
                log.warning("control.answer_malformed", reason=str(error))
        return hosts

    async def inventory(self, host: str) -> Inventory:
        return Inventory.from_dict(await self._ask("inventory", self._subjects.get_inventory(host)))

    async def claims(self) -> list[dict[str, str]]:
        """The claims of every known actor and provider, in the all-string form."""
        entries = _members("claims", await self._ask("claims", self._subjects.get_claims()), "claims")
        return [
            {str(name): "" if value is None else str(value) for name, value in entry.items()}
            for entry in entries
            if isinstance(entry, Mapping)
        ]

    async def links(self) -> list[LinkDefinition]:
        entries = _members("links", await self._ask("links", self._subjects.get_links()), "links")
        return [LinkDefinition.from_json(entry) for entry in entries]

    async def put_link(self, link: LinkDefinition) -> None:
        await self._command(self._subjects.linkdefs_put(), link.to_json())

    async def del_link(self, link: LinkDefinition) -> None:
        await self._command(self._subjects.linkdefs_del(), link.to_json())

    async def auction_actor(
        self, reference: str, constraints: Mapping[str, str], *, timeout: float | None = None
    ) -> list[str]:
        """The hosts that would run an actor: those whose labels hold all ``constraints``; bids within ``timeout`` s."""
        request = {"actor_ref": reference, "constraints": dict(constraints)}
        return await self._auction(self._subjects.auction_actor(), request, timeout)

    async def auction_provider(
        self, reference: str, link_name: str, constraints: Mapping[str, str], *, timeout: float | None = None
    ) -> list[str]:
        """The same for a provider; a host on which it runs under that link name does not bid."""
        request = {"provider_ref": reference, "link_name": link_name, "constraints": dict(constraints)}
        return await self._auction(self._subjects.auction_provider(), request, timeout)

    async def put_label(self, host: str, key: str, value: str) -> None:
        """Give a host a label, until it ends."""
        await self._command(self._subjects.labels(host, "put"), {"key": key, "value": value})

    async def delete_label(self, host: str, key: str) -> None:
        """Take a label from a host; one that it has not is no error."""
        await self._command(self._subjects.labels(host, "del"), {"key": key, "value": ""})

    async def launch_actor(
        self, host: str, reference: str, count: int = 1, annotations: Mapping[str, str] | None = None
    ) -> None:
        command = LaunchActor(actor_ref=reference, host_id=host, count=count, annotations=annotations or {})
        await self._tell(host, "la", command)

    async def stop_actor(
        self, host: str, actor: str, count: int = 0, annotations: Mapping[str, str] | None = None
    ) -> None:
        """``count`` 0 stops all instances."""
        await self._tell(
            host, "sa", StopActor(actor_ref=actor, host_id=host, count=count, annotations=annotations or {})
        )

    async def scale_actor(
        self,
        host: str,
        reference: str,
        *,
        actor_id: str = "",
        count: int | None,
        annotations: Mapping[str, str] | None = None,
        image_digest: str = "",
    ) -> None:
        """``count`` 0 stops the actor, None means as many as needed. Ours refuse an image without ``image_digest``."""
        command = ScaleActor(
            actor_ref=reference,
            actor_id=actor_id,
            host_id=host,
            count=count,
            annotations=annotations or {},
            image_digest=image_digest,
        )
        await self._tell(host, "scale", command)

    async def update_actor(
        self, host: str, actor: str, reference: str, annotations: Mapping[str, str] | None = None
    ) -> None:
        """Replace a running actor by the newer revision at ``reference``.

        Returns when claims and revision were checked; ``actor_updated`` or ``actor_update_failed`` tells the rest.
        """
        command = UpdateActor(actor_id=actor, new_actor_ref=reference, host_id=host, annotations=annotations or {})
        await self._tell(host, "upd", command)

    async def start_provider(
        self,
        host: str,
        reference: str,
        link_name: str = subjects.DEFAULT_LINK_NAME,
        configuration: str | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        command = StartProvider(
            provider_ref=reference,
            host_id=host,
            link_name=link_name,
            configuration=configuration,
            annotations=annotations or {},
        )
        await self._tell(host, "lp", command)

    async def follow_provider(self, command: StartProvider) -> None:
        """Start a provider that takes over from another host's process of it."""
        await self._tell(command.host_id, "lp", command)

    async def provider_launch(self, host: str, provider: str, link_name: str) -> ProviderLaunch:
        """How a provider was started, as far as that may be told. Raises LatticeError when the host does not say."""
        question = Encoding.MSGPACK.encode({"provider_id": provider, "link_name": link_name})
        reply = await self._transport.request(self._subjects.get_launch(host), question, timeout=self._timeout)
        return ProviderLaunch.from_dict(_read("how a provider was started", reply))

    async def cordon(self, host: str, *, closed: bool) -> None:
        """Close a host for what is new, or open it again."""
        document = {"host_id": host}
        await self._command(self._subjects.command(host, "cordon" if closed else "uncordon"), document)

    async def stop_provider(
        self,
        host: str,
        provider: str,
        *,
        link_name: str = subjects.DEFAULT_LINK_NAME,
        contract_id: str = "",
        annotations: Mapping[str, str] | None = None,
        drain: float = 0.0,
    ) -> None:
        """``drain``: seconds that what is under way may take, on our hosts; 0 for as long as usual."""
        command = StopProvider(
            provider_ref=provider,
            link_name=link_name,
            contract_id=contract_id,
            host_id=host,
            annotations=annotations or {},
            drain=drain,
        )
        await self._tell(host, "sp", command)

    async def revoke(self, host: str, entry: Revocation) -> None:
        """Ours: revoke, or lift a revocation. Known to that host when this returns, and to all others soon after."""
        await self._tell(host, "revoke", entry)

    async def revoked(self, host: str) -> list[Revocation]:
        """Ours: the revocations that are in force on a host."""
        answer = await self._ask("revocations", self._subjects.get_revoked(host))
        return [Revocation.from_dict(entry) for entry in _members("revocations", answer, "revoked")]

    async def security(self, host: str) -> SecurityReport:
        """What a host of ours knows of its own defences."""
        return SecurityReport.from_dict(await self._ask("security report", self._subjects.get_security(host)))

    async def cluster_view(self, host: str) -> ClusterView:
        """Whom a host of ours believes, and what it signs with."""
        return ClusterView.from_dict(await self._ask("cluster keys", self._subjects.get_cluster(host)))

    async def change_cluster_keys(self, host: str, action: str, key: str, *, timeout: float) -> None:
        """``add``, ``use`` or ``remove`` a cluster key, named by its public half or its file there; done on return."""
        command = ChangeClusterKeys(action=action, key=key, host_id=host)
        await self._command(self._subjects.command(host, "cluster_keys"), command.to_dict(), timeout=timeout)

    async def revoke_provider_key(self, host: str, provider: str, link_name: str, *, timeout: float) -> None:
        """Revoke the present key of a provider on all hosts; done on this one on return."""
        command = RevokeProviderKey(provider_id=provider, link_name=link_name, host_id=host)
        await self._command(self._subjects.command(host, "revoke_key"), command.to_dict(), timeout=timeout)

    async def stop_host(self, host: str, *, timeout: float | None = None) -> None:
        """End a host; ``timeout`` is what it may take to finish calls, in seconds (its own limit when None)."""
        await self._tell(host, "stop", StopHost(host_id=host, timeout=timeout))

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Event]]:
        """The lattice's events from the moment this returns: none is missed that happens inside the block."""
        arrived: asyncio.Queue[Event] = asyncio.Queue(MOST_EVENTS_WAITING)
        dropped = 0

        def on_event(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            nonlocal dropped
            try:
                arrived.put_nowait(Event.decode(payload))
            except MalformedMessage as error:
                log.warning("control.event_malformed", reason=str(error))
            except asyncio.QueueFull:
                dropped += 1

        async def stream() -> AsyncIterator[Event]:
            while True:
                yield await arrived.get()

        subscription = await self._transport.subscribe(subjects.events(self._lattice), on_event)
        try:
            yield stream()
        finally:
            if dropped:
                log.warning("control.events_dropped", events=dropped)
            try:
                await subscription.unsubscribe()
            except LatticeError as error:
                log.debug("control.unsubscribe_failed", reason=str(error))

    async def _ask(self, what: str, subject: str) -> object:
        document = _read(what, await self._transport.request(subject, _ASK, timeout=self._timeout))
        if isinstance(document, Mapping) and document.get("accepted") is False:
            raise _refusal(subject, Ack.from_dict(document))
        return document

    async def _auction(self, subject: str, request: Mapping[str, Any], timeout: float | None) -> list[str]:
        wait = self._timeout if timeout is None else timeout
        bidders = []
        for reply in await self._transport.gather(subject, Encoding.MSGPACK.encode(dict(request)), timeout=wait):
            try:
                bidders.append(Document("bid", _read("bid", reply)).required_text("host_id"))
            except MalformedMessage as error:
                log.warning("control.answer_malformed", reason=str(error))
        return bidders

    async def _tell(self, host: str, verb: str, command: _Document) -> None:
        await self._command(self._subjects.command(host, verb), command.to_dict())

    async def _command(self, subject: str, document: Mapping[str, Any], *, timeout: float | None = None) -> None:
        payload = Encoding.MSGPACK.encode(dict(document))
        reply = await self._transport.request(subject, payload, timeout=timeout or self._timeout)
        ack = Ack.from_dict(_read("acknowledgement", reply))
        if not ack.accepted:
            raise _refusal(subject, ack)


def _refusal(subject: str, ack: Ack) -> RemoteError:
    try:
        code = Code(ack.code) if ack.code else Code.PROVIDER_ERROR
    except ValueError:
        code = Code.PROVIDER_ERROR
    return RemoteError(ack.error or f"{subject} was refused without a reason", code=code)


def _read(what: str, reply: Reply) -> object:
    return encoding_of(reply.payload, reply.headers).decode(reply.payload, what)


def _members(what: str, document: object, name: str) -> list[Any]:
    entries = document.get(name) if isinstance(document, Mapping) else None
    if not isinstance(entries, list):
        raise MalformedMessage(f"{what}: member {name!r} is not a list")
    return entries
