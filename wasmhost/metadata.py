"""Links and claims of the lattice: an immutable snapshot in memory, kept true by a JetStream bucket.

Every host and, up to a certain age, every control client writes the bucket; each host watches it and switches its
snapshot. Without JetStream the links live in memory and other hosts learn of them from the link events; the host then
says that it is degraded. Keys and values are those of classic hosts (``docs/protocol.md``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import structlog

from lattice import subjects
from lattice.claims import normalise_alias
from lattice.connection import Connection
from lattice.errors import LatticeError, MalformedMessage, NotAuthorized
from lattice.events import Event
from lattice.links import LinkDefinition, LinkKey, LinkTable
from lattice.store import Bucket, Change, Conflict, StoreUnavailable, open_bucket
from lattice.transport import Headers, State, Subscription

log = structlog.get_logger(__name__)

LINK_PREFIX: Final = "LINKDEF_"
CLAIMS_PREFIX: Final = "CLAIMS_"
_FIRST_READ_TIMEOUT: Final = 10.0
_NEWER_NAMES: Final = {"capabilities": "caps", "issuer": "iss", "revision": "rev", "subject": "sub"}


class Metadata:
    """What this host knows of the lattice's links and claims. Reads are plain look-ups and never wait."""

    def __init__(self, connection: Connection, lattice: str, *, host_id: str, js_domain: str | None = None) -> None:
        self.links = LinkTable()
        """The snapshot of the moment; replaced as a whole, never changed."""
        self.claims: Mapping[str, Mapping[str, str]] = MappingProxyType({})
        """The string form of every known actor's and provider's claims, by public key."""
        self.degraded: str | None = None
        """Why links would not survive this host; None when they would."""
        self.on_link_set: Callable[[LinkDefinition, LinkDefinition | None], None] = lambda _link, _previous: None
        """Called after the snapshot has a new or changed link, whoever put it, with the link that it replaced."""
        self.on_link_deleted: Callable[[LinkDefinition], None] = lambda _link: None
        self._connection = connection
        self._lattice = lattice
        self._host_id = host_id
        self._bucket: Bucket | None = None
        self._js_domain = js_domain or ""
        self._seen: dict[str, int] = {}
        """Per link id, the revision that the watch told last."""
        self._written: dict[str, int] = {}
        """Per link id, the revision of our own write that the watch has not told yet."""
        self._aliases: dict[str, str] = {}
        self._filled = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._events: Subscription | None = None
        self._forget_state: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Open or create the bucket and read it; without JetStream, degrade. Raises Unreachable."""
        try:
            bucket = await self._open_bucket()
        except StoreUnavailable as error:
            self.degraded = f"{error}; until then links and claims are kept in memory and end with this host"
            log.warning("metadata.degraded", reason=self.degraded)
            self._events = await self._connection.subscribe(subjects.events(self._lattice), self._on_event)
            self._forget_state = self._connection.on_state(self._on_state)
            return
        self._begin_watch(bucket)
        try:
            await asyncio.wait_for(self._filled.wait(), _FIRST_READ_TIMEOUT)
        except TimeoutError:
            log.warning("metadata.slow", bucket=bucket.name, waited_s=_FIRST_READ_TIMEOUT)

    async def close(self) -> None:
        self._forget_state()
        for task in (self._recovering, self._watching):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if self._events is not None:
            with contextlib.suppress(LatticeError):
                await self._events.unsubscribe()

    def alias(self, name: str) -> str | None:
        """The actor whose claims carry this call alias; the first to claim it keeps it."""
        return self._aliases.get(normalise_alias(name) or "")

    async def put_link(self, link: LinkDefinition) -> None:
        """Store a link and switch to it. Raises LatticeError when it cannot be stored; nothing has changed then."""
        if self._bucket is None or self._is_next(
            link.id, await self._bucket.put(LINK_PREFIX + link.id, _encoded(link.to_json()))
        ):
            self._set_link(link)

    async def delete_link(self, key: LinkKey) -> LinkDefinition | None:
        """Remove a link and return it; None when there was none. Raises LatticeError when that cannot be stored."""
        link = self.links.resolve(*key)
        if link is None:
            return None
        if self._bucket is None or self._is_next(link.id, await self._bucket.delete(LINK_PREFIX + link.id)):
            self._drop_link(link.id)
        return link

    async def put_claims(self, claims: Mapping[str, str]) -> None:
        """Make an actor's or provider's claims known; a failure to store them is logged, they are known here."""
        self._set_claims(claims)
        if self._bucket is None:
            return
        try:
            await self._bucket.put(CLAIMS_PREFIX + claims["sub"], _encoded(claims))
        except LatticeError as error:
            log.warning("metadata.claims_not_stored", subject=claims["sub"], reason=str(error))

    async def _open_bucket(self) -> Bucket:
        return await open_bucket(self._connection, subjects.metadata_bucket(self._lattice), domain=self._js_domain)

    def _begin_watch(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._watching = asyncio.create_task(self._watch(bucket), name="metadata watch")

    def _on_state(self, state: State) -> None:
        """A server that comes back may have JetStream now."""
        if state is State.CONNECTED and self._bucket is None and self._recovering is None:
            self._recovering = asyncio.create_task(self._recover(), name="metadata recovery")

    async def _recover(self) -> None:
        """Move from memory to the bucket: what it holds already wins over what this host remembers."""
        try:
            bucket = await self._open_bucket()
            for link in self.links:
                with contextlib.suppress(Conflict):
                    await bucket.create(LINK_PREFIX + link.id, _encoded(link.to_json()))
            for subject, claims in self.claims.items():
                with contextlib.suppress(Conflict):
                    await bucket.create(CLAIMS_PREFIX + subject, _encoded(claims))
            self._begin_watch(bucket)
            self.degraded = None
            log.info("metadata.recovered", bucket=bucket.name)
        except LatticeError as error:
            log.info("metadata.still_degraded", reason=str(error))
        finally:
            self._recovering = None

    async def _watch(self, bucket: Bucket) -> None:
        try:
            await self._follow(bucket)
        except NotAuthorized as error:
            self.degraded = f"bucket {bucket.name} cannot be watched: {error}"
            log.error("metadata.not_permitted", reason=self.degraded)
        finally:
            self._filled.set()

    async def _follow(self, bucket: Bucket) -> None:
        async for change in bucket.watch():
            if change is None:
                self._filled.set()
                continue
            try:
                self._apply(change)
            except MalformedMessage as error:
                log.warning("metadata.entry_malformed", key=change.key, reason=str(error))

    def _apply(self, change: Change) -> None:
        if change.key.startswith(LINK_PREFIX):
            link_id = change.key.removeprefix(LINK_PREFIX)
            if change.revision < self._written.get(link_id, 0):
                return  # written before our own change, which the snapshot has already
            self._written.pop(link_id, None)
            self._seen[link_id] = change.revision
            if change.value is None:
                self._drop_link(link_id)
                return
            link = LinkDefinition.from_json(_document(change.value))
            if link.id != link_id:
                raise MalformedMessage("the key is not the hash of the link that it holds")
            self._set_link(link)
        elif change.key.startswith(CLAIMS_PREFIX):
            if change.value is None:
                self._drop_claims(change.key.removeprefix(CLAIMS_PREFIX))
            else:
                self._set_claims(read_claims(_document(change.value)))

    def _is_next(self, link_id: str, revision: int) -> bool:
        """Whether our own write is the latest that is known; the watch, which repeats it, may be ahead of us."""
        if revision <= self._seen.get(link_id, 0):
            return False
        self._written[link_id] = revision
        return True

    def _set_link(self, link: LinkDefinition) -> None:
        previous = self.links.resolve(*link.key)
        if previous == link:
            return
        self.links = self.links.with_link(link)
        if self._filled.is_set() or self._bucket is None:  # what was there before this host is no news
            self.on_link_set(link, previous)

    def _drop_link(self, link_id: str) -> None:
        link = next((link for link in self.links if link.id == link_id), None)
        if link is not None:
            self.links = self.links.without(link.key)
            self.on_link_deleted(link)

    def _set_claims(self, claims: Mapping[str, str]) -> None:
        subject = claims.get("sub", "")
        if not subject:
            raise MalformedMessage("claims without sub")
        self._replace_claims({**self.claims, subject: MappingProxyType(dict(claims))})

    def _drop_claims(self, subject: str) -> None:
        if subject in self.claims:
            self._replace_claims({key: value for key, value in self.claims.items() if key != subject})

    def _replace_claims(self, claims: Mapping[str, Mapping[str, str]]) -> None:
        self.claims = MappingProxyType(dict(claims))
        aliases: dict[str, str] = {}
        for subject, members in claims.items():
            alias = normalise_alias(members.get("call_alias", ""))
            if alias and subject.startswith("M") and aliases.setdefault(alias, subject) != subject:
                log.info("metadata.alias_taken", alias=alias, actor=subject, owner=aliases[alias])
        self._aliases = aliases

    def _on_event(self, _subject: str, _reply: str, _headers: Headers, payload: bytes) -> None:
        """Without JetStream: learn what other hosts were told of links."""
        try:
            event = Event.decode(payload)
            if event.source == self._host_id or event.name not in ("linkdef_set", "linkdef_deleted"):
                return
            link = LinkDefinition.from_json(event.data)
        except MalformedMessage:
            return
        if event.name == "linkdef_set":
            self._set_link(link)
        else:
            self._drop_link(link.id)


def read_claims(document: Mapping[str, Any]) -> dict[str, str]:
    """The all-string form of a claims entry, also from the typed form that later classic hosts write."""
    claims = {}
    for name, value in document.items():
        items = value if isinstance(value, list) else [] if value is None else [value]
        claims[_NEWER_NAMES.get(name, name)] = ",".join(map(str, items))
    return claims


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(document)).encode()


def _document(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage("not JSON") from error
    if not isinstance(value, dict):
        raise MalformedMessage("not a JSON object")
    return value
