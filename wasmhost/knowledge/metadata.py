"""Links and claims of the lattice: an immutable snapshot in memory, kept true by a JetStream bucket.

Every host and, up to a certain age, every control client writes the bucket; each host watches it and switches its
snapshot. Without JetStream the hosts tell each other (:mod:`wasmhost.knowledge.hearsay`); each then says that it is
degraded. Keys and values are those of classic hosts (``docs/protocol.md``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import structlog

from lattice import document, events, subjects
from lattice.background import begin
from lattice.claims import normalise_alias
from lattice.connection import Connection
from lattice.errors import LatticeError, MalformedMessage, NotAuthorized
from lattice.events import Publish
from lattice.jetstream import WRITE_TIMEOUT
from lattice.links import LinkDefinition, LinkKey, LinkTable, link_id
from lattice.store import Bucket, Change, Conflict, StoreUnavailable, open_bucket
from lattice.transport import State
from wasmhost.knowledge.entries import (
    CLAIMS_PREFIX,
    LINK_PREFIX,
    REFERENCE_PREFIX,
    encode,
    read_claims,
    read_link,
    reference_key,
)
from wasmhost.knowledge.hearsay import FROM_BEFORE, Hearsay
from wasmhost.knowledge.late_entries import LateEntries

log = structlog.get_logger(__name__)

RETRY: Final = 5.0
"""Seconds between attempts to find a JetStream that was not there."""
_LONGEST_REFERENCE: Final = 1000
"""Characters of a reference that becomes a key; longer ones would not fit into a subject."""
_FIRST_READ_TIMEOUT: Final = 10.0
_NOTHING_CLAIMED: Final = {"rev": "0", "caps": "", "tags": "", "call_alias": ""}


class Metadata:
    """What this host knows of the lattice's links and claims. Reads are plain look-ups and never wait."""

    def __init__(
        self,
        connection: Connection,
        lattice: str,
        *,
        host_id: str,
        js_domain: str | None = None,
        ctl_prefix: str = subjects.DEFAULT_CONTROL_PREFIX,
        publish_event: Publish = lambda _name, _data: None,
    ) -> None:
        """``publish_event`` is given the events about links and references that this host has to publish."""
        self.links = LinkTable()
        """The snapshot of the moment; replaced as a whole, never changed."""
        self.claims: Mapping[str, Mapping[str, str]] = MappingProxyType({})
        """The string form of every known actor's and provider's claims, by public key."""
        self.references: Mapping[str, str] = MappingProxyType({})
        """The public key that each image reference was last known to hold."""
        self.on_link_set: Callable[[LinkDefinition, LinkDefinition | None], None] = lambda _link, _previous: None
        """Called after the snapshot has a new or changed link, whoever put it, with the link that it replaced."""
        self.on_link_deleted: Callable[[LinkDefinition], None] = lambda _link: None
        self._no_storage: str | None = None
        self._corrupt: dict[str, str] = {}
        """Per key of the bucket, why its value cannot be used."""
        self._connection = connection
        self._lattice = lattice
        self._host_id = host_id
        self._ctl_prefix = ctl_prefix
        self._publish = publish_event
        self._bucket: Bucket | None = None
        self._js_domain = js_domain or ""
        self._seen: dict[str, int] = {}
        """Per link id, the revision that the watch told last."""
        self._written: dict[str, int] = {}
        """Per link id, the revision of our own write that the watch has not told yet."""
        self._aliases: dict[str, str] = {}
        self._moving = False
        """From memory into a bucket whose content has not been read yet."""
        self._filled = asyncio.Event()
        self._retry = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._hearsay: Hearsay | None = None
        self._late = LateEntries(self._store_late)
        self._forget_state: Callable[[], None] = lambda: None

    @property
    def degraded(self) -> str | None:
        """What is wrong: links that would not survive this host, entries that cannot be read. None if nothing is."""
        problems = [self._no_storage] if self._no_storage else []
        if self._corrupt:
            key, reason = next(iter(self._corrupt.items()))
            more = f" and {len(self._corrupt) - 1} more" if len(self._corrupt) > 1 else ""
            problems.append(
                f"entry {key}{more} of bucket {subjects.metadata_bucket(self._lattice)} is left out: {reason}; "
                "write it again or delete it"
            )
        return "; ".join(problems) or None

    async def open(self) -> None:
        """Open or create the bucket and read it; without JetStream, degrade. Raises Unreachable."""
        try:
            bucket = await self._open_bucket()
        except StoreUnavailable as error:
            self._no_storage = f"{error}; until then links and claims are kept in memory and end with this host"
            log.warning("metadata.degraded", reason=self._no_storage)
            await self._listen()
            self._forget_state = self._connection.on_state(self._on_state)
            self._recovering = begin(self._recover(), "metadata recovery")
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
        await self._late.close()
        if self._hearsay is not None:
            await self._hearsay.close()

    def alias(self, name: str) -> str | None:
        """The actor whose claims carry this call alias; the first to claim it keeps it."""
        return self._aliases.get(normalise_alias(name) or "")

    def claims_of(self, key: str) -> Mapping[str, str] | None:
        """What is known now of an actor or a provider, by its public key."""
        return self.claims.get(key)

    async def put_link(self, link: LinkDefinition) -> None:
        """Store a link and switch to it. Raises LatticeError when it cannot be stored; nothing has changed then."""
        if self._bucket is None:
            self._set_link(link, self._changed(link.id))
        elif self._is_next(link.id, await self._bucket.put(LINK_PREFIX + link.id, encode(link.to_json()))):
            self._set_link(link)

    async def stored_link(self, key: LinkKey) -> LinkDefinition | None:
        """A link as it is now: another host may have changed it without the watch having told of it yet.

        Where the bucket cannot be read, as it is known here.
        """
        known = self.links.resolve(*key)
        if self._bucket is None:
            return known
        entry_key = LINK_PREFIX + link_id(*key)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                entry = await self._bucket.get(entry_key)
            return None if entry is None else read_link(entry_key, entry.value)
        except (LatticeError, TimeoutError) as error:
            log.debug("metadata.link_not_read", key=entry_key, reason=str(error))
            return known

    async def delete_link(self, key: LinkKey) -> LinkDefinition | None:
        """Remove a link and return it; None when there was none. Raises LatticeError when that cannot be stored."""
        link = await self.stored_link(key) or self.links.resolve(*key)
        if link is None:
            return None
        if self._bucket is None:
            self._drop_link(link.id, self._changed(link.id))
        elif self._is_next(link.id, await self._bucket.delete(LINK_PREFIX + link.id)):
            if key in self.links:
                self._drop_link(link.id)
            else:
                self._tell_deleted(link)
        return link

    async def put_claims(self, claims: Mapping[str, str]) -> None:
        """Make an actor's or provider's claims known; what cannot be stored now is stored later, and known here."""
        self._set_claims(claims)
        await self._store(CLAIMS_PREFIX + claims["sub"], encode(claims))

    async def put_reference(self, reference: str, key: str) -> None:
        """Make it known that an image reference holds this key; stored later if it cannot be now."""
        if self.references.get(reference) == key or len(reference) > _LONGEST_REFERENCE:
            return
        self._set_reference(reference, key)
        await self._store(reference_key(reference), encode({"oci_url": reference, "public_key": key}))
        self._publish(*events.refmap_set(oci_url=reference, public_key=key))

    async def _store(self, key: str, value: bytes) -> None:
        if self._bucket is None:
            return
        self._late.drop(key)
        try:
            # written again it would stand behind what came later, and who reads it then would take that for older
            if not await self._holds(key, value):
                await self._bucket.put(key, value)
        except LatticeError as error:
            log.warning("metadata.not_stored", key=key, reason=str(error))
            self._late.add(key, value)

    async def _holds(self, key: str, value: bytes) -> bool:
        assert self._bucket is not None
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                entry = await self._bucket.get(key)
        except TimeoutError:
            return False
        return entry is not None and entry.value == value

    async def _store_late(self, key: str, value: bytes) -> None:
        assert self._bucket is not None
        await self._bucket.put(key, value)

    async def _open_bucket(self) -> Bucket:
        return await open_bucket(self._connection, subjects.metadata_bucket(self._lattice), domain=self._js_domain)

    def _begin_watch(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._watching = begin(self._follow(bucket), "metadata watch")

    def _on_state(self, state: State) -> None:
        """A server that comes back may have JetStream now."""
        if state is State.CONNECTED:
            self._retry.set()

    async def _recover(self) -> None:
        """Wait for a JetStream and move into it; one may appear without any connection being lost."""
        while self._bucket is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retry.wait(), RETRY)
            self._retry.clear()
            try:
                await self._move()
            except LatticeError as error:
                log.debug("metadata.still_degraded", reason=str(error))

    async def _move(self) -> None:
        """From memory into the bucket: what it holds already wins, unless it was changed since it could be read."""
        bucket = await self._open_bucket()
        await self._store_changes(bucket)
        copied = await self._copy(bucket, set())
        self._filled.set()  # what the bucket adds is news: providers run here that have not heard of it
        self._moving = True
        self._begin_watch(bucket)
        self._no_storage = None
        log.info("metadata.recovered", bucket=bucket.name)
        if self._hearsay is not None:
            hearsay, self._hearsay = self._hearsay, None
            await hearsay.close()
        # what came and went while the rest was copied
        for key in copied - set(self._entries()):
            await bucket.delete(key)
        await self._copy(bucket, copied)

    async def _store_changes(self, bucket: Bucket) -> None:
        """Store the links that were put and removed while there was no bucket: that was acknowledged."""
        unstored = self._hearsay.unstored if self._hearsay is not None else set()
        while unstored:
            changed = unstored.pop()
            try:
                link = self._link(changed)
                if link is None:
                    await bucket.delete(LINK_PREFIX + changed)
                else:
                    await bucket.put(LINK_PREFIX + changed, encode(link.to_json()))
            except LatticeError:
                unstored.add(changed)
                raise

    async def _copy(self, bucket: Bucket, known: set[str]) -> set[str]:
        """Store every entry but the ``known`` ones, unless the bucket has it; the keys of all of them."""
        entries = self._entries()
        for key, value in entries.items():
            if key not in known:
                with contextlib.suppress(Conflict):
                    await bucket.create(key, value)
        return set(entries)

    def _entries(self) -> dict[str, bytes]:
        """Everything that is known, as the bucket holds it."""
        entries = {LINK_PREFIX + link.id: encode(link.to_json()) for link in self.links}
        entries |= {CLAIMS_PREFIX + subject: encode(claims) for subject, claims in self.claims.items()}
        return entries | {
            reference_key(reference): encode({"oci_url": reference, "public_key": key})
            for reference, key in self.references.items()
        }

    async def _follow(self, bucket: Bucket) -> None:
        try:
            async for change in bucket.watch(on_lost=self._put_back, on_trouble=self._note_trouble):
                if change is None:
                    self._filled.set()
                    self._moving = False
                else:
                    self._note(change)
        finally:
            self._filled.set()

    def _note(self, change: Change) -> None:
        """Apply a change; one entry must not end the watch, on which all others depend."""
        self._late.drop(change.key)
        try:
            self._apply(change)
            self._corrupt.pop(change.key, None)
        except MalformedMessage as error:
            self._corrupt[change.key] = str(error)
            log.warning("metadata.entry_malformed", key=change.key, reason=str(error))
        except Exception:
            log.exception("metadata.entry_broke", key=change.key)

    async def _put_back(self) -> None:
        """The bucket was lost with all it held, and made again: what the hosts know goes back into it."""
        assert self._bucket is not None
        entries = self._entries()
        log.warning("metadata.lost", bucket=self._bucket.name, put_back=len(entries))
        self._seen.clear()  # the revisions of another stream
        self._written.clear()
        for key, value in entries.items():
            # another host did, somebody has deleted it since, or only other hosts may write
            with contextlib.suppress(Conflict, NotAuthorized):
                await self._bucket.update(key, value, 0)

    def _note_trouble(self, error: LatticeError | None) -> None:
        """Reading fails, or (None) works again; until then the snapshot is what was known last."""
        if isinstance(error, NotAuthorized):
            self._no_storage = f"bucket {subjects.metadata_bucket(self._lattice)} cannot be watched: {error}"
            log.error("metadata.not_permitted", reason=self._no_storage)
            self._filled.set()  # not worth waiting for
        elif error is not None:
            self._no_storage = f"{error}; links and claims are those that were known before, and cannot be changed"
            log.warning("metadata.degraded", reason=self._no_storage)
        elif self._no_storage is not None and self._bucket is not None:
            self._no_storage = None
            log.info("metadata.recovered", bucket=self._bucket.name)
            self._late.try_soon()

    def _apply(self, change: Change) -> None:
        if change.key.startswith(LINK_PREFIX):
            changed = change.key.removeprefix(LINK_PREFIX)
            if change.revision < self._written.get(changed, 0):
                return  # written before our own change, which the snapshot has already
            self._written.pop(changed, None)
            self._seen[changed] = change.revision
            if change.value is None:
                self._drop_link(changed)
                return
            self._set_link(read_link(change.key, change.value), FROM_BEFORE if self._moving else None)
        elif change.key.startswith(CLAIMS_PREFIX):
            if change.value is None:
                self._drop_claims(change.key.removeprefix(CLAIMS_PREFIX))
            else:
                self._set_claims(read_claims(change.key, change.value))
        elif change.key.startswith(REFERENCE_PREFIX) and change.value is not None:
            entry = document.Document.parse("reference", change.value)
            self._set_reference(entry.required_text("oci_url"), entry.required_text("public_key"))

    def _is_next(self, link_id: str, revision: int) -> bool:
        """Whether our own write is the latest that is known; the watch, which repeats it, may be ahead of us."""
        if revision <= self._seen.get(link_id, 0):
            return False
        self._written[link_id] = revision
        return True

    async def _listen(self) -> None:
        """Learn from other hosts what no bucket holds; what they have told is not told on."""
        self._hearsay = Hearsay(
            self._connection,
            subjects.Control(self._lattice, self._ctl_prefix),
            self._host_id,
            on_link=lambda link: self._set_link(link, heard=True),
            on_link_gone=lambda link: self._drop_link(link.id, heard=True),
            on_claims=self._hear_claims,
        )
        await self._hearsay.open()

    def _hear_claims(self, claims: Mapping[str, str]) -> None:
        """What was heard may be less than what is known."""
        known = self.claims.get(claims["sub"], _NOTHING_CLAIMED)
        self._set_claims({**known, **claims})

    def _changed(self, link_id: str) -> int | None:
        """When this host changes a link that is in no bucket: now."""
        return self._hearsay.change(link_id) if self._hearsay is not None else None

    def _set_link(self, link: LinkDefinition, changed_us: int | None = None, *, heard: bool = False) -> None:
        previous = self.links.resolve(*link.key)
        if previous == link:
            return
        self.links = self.links.with_link(link)
        if self._filled.is_set() or self._bucket is None:  # what was there before this host is no news
            if not heard:
                self._publish(*events.linkdef_set(link, changed_us))
            self.on_link_set(link, previous)

    def _link(self, link_id: str) -> LinkDefinition | None:
        return next((link for link in self.links if link.id == link_id), None)

    def _drop_link(self, link_id: str, changed_us: int | None = None, *, heard: bool = False) -> None:
        link = self._link(link_id)
        if link is not None:
            self.links = self.links.without(link.key)
            self._tell_deleted(link, changed_us, heard=heard)

    def _tell_deleted(self, link: LinkDefinition, changed_us: int | None = None, *, heard: bool = False) -> None:
        if not heard:
            self._publish(*events.linkdef_deleted(link, changed_us))
        self.on_link_deleted(link)

    def _set_claims(self, claims: Mapping[str, str]) -> None:
        subject = claims.get("sub", "")
        if not subject:
            raise MalformedMessage("claims without sub")
        self._replace_claims({**self.claims, subject: MappingProxyType(dict(claims))})

    def _set_reference(self, reference: str, key: str) -> None:
        if self.references.get(reference) != key:
            self.references = MappingProxyType({**self.references, reference: key})

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
