"""Payloads that are too large for one message: they wait in the lattice's object store for whoever the call is for.

The bucket is named like the lattice and made by whoever needs it first; a request is stored under the id of its
invocation, an answer under the same with ``-r``. The envelope follows with an empty ``msg`` and the whole length as
``content_length``. The reader deletes what it has read. What nobody reads, since a process died in between, the server
forgets after :data:`MAX_AGE` seconds; in a bucket that somebody else made without such a limit, its users do.
Sources: WRPC ``chunkify.rs``, wasmCloud ``crates/core/src/chunking.rs``, OTP ``objstore.rs``.
"""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Final, Protocol

import structlog

from lattice import subjects
from lattice.background import Background
from lattice.connection import Connection
from lattice.errors import Code, LatticeError, MalformedMessage, TooLarge, Unreachable
from lattice.feed import Feed, Stale, seconds
from lattice.jetstream import StoreUnavailable
from lattice.objects import ObjectBucket, ObjectInfo, WrongObject

log = structlog.get_logger(__name__)

MAX_MSG: Final = 921_600
"""Largest ``msg`` in one message, in bytes: the classic threshold, which leaves room below NATS' 1 MiB for the rest."""
MAX_AGE: Final = 600.0
"""Seconds after which nobody comes for an object any more: calls and their tokens are over by then."""
EXTRA_TIME: Final = 13.0
"""Seconds that a call may take longer when its payload is stored first; those of the classic libraries."""
LARGEST: Final = 128 * 1024 * 1024
"""Bytes that are read where the caller has no limit of its own."""

_ENVELOPE: Final = 8 * 1024
"""Bytes kept free beside ``msg`` where a server takes only small messages."""
_READING: Final = 8
"""Objects that are read at a time; what they hold waits in memory."""
_CLOSE_TIMEOUT: Final = 2.0
_MOST_SWEPT: Final = 1000
_INVOCATION: Final = re.compile(r"([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(-r)?")
"""Names under which any generation stores payloads: the ids are UUIDs or other 128 bits in hex."""


class Digest(Protocol):
    """Knows whether the pieces that it was handed are what it expects."""

    def update(self, piece: bytes) -> None: ...

    def check(self) -> None:
        """Raise NotAuthorized when they are not."""


class Chunks:
    """The large payloads of one lattice, on one connection."""

    def __init__(self, connection: Connection, lattice: str, *, domain: str = "", unclaimed: float = MAX_AGE) -> None:
        """``domain``: the JetStream domain; ``unclaimed``: seconds after which nobody comes for a payload any more."""
        self._connection = connection
        self._bucket = ObjectBucket(connection, subjects.validate_lattice(lattice), domain=domain, max_age=MAX_AGE)
        self._unclaimed = unclaimed
        self._reading = asyncio.Semaphore(_READING)
        self._work = Background()
        self._next_sweep = 0.0

    def is_large(self, size: int) -> bool:
        """Whether a ``msg`` of so many bytes is stored, not sent."""
        return size > min(MAX_MSG, self._connection.max_payload - _ENVELOPE)

    async def send(self, name: str, payload: bytes, *, what: str) -> ObjectInfo:
        """Store ``payload`` for its reader. ``what`` names it in errors.

        Raises TooLarge when there is no JetStream to store it in, Unreachable and NotAuthorized.
        """
        try:
            info = await self._bucket.put(name, payload)
        except StoreUnavailable as error:
            limit = min(MAX_MSG, self._connection.max_payload - _ENVELOPE)
            raise TooLarge(f"{what} has {len(payload)} bytes, and more than {limit} cannot be sent: {error}") from error
        self._sweep_if_due()
        return info

    async def receive(self, name: str, size: int, *, what: str, deadline: float, digest: Digest | None = None) -> bytes:
        """The payload of ``size`` bytes that a peer has stored; it is deleted once it was read and is right.

        ``deadline`` is a ``loop.time()``. ``digest`` is handed every piece and checked at the end; without one the
        digest is compared that the writer noted. Raises NotAuthorized, MalformedMessage, Unreachable, and LatticeError
        with code NOT_FOUND. Do not ask for more than the caller may send: all of it is held in memory.
        """
        try:
            async with asyncio.timeout_at(deadline), self._reading:
                info = await self._find(name, size, what)
                payload = await self._bucket.read(info, None if digest is None else digest.update)
        except TimeoutError:
            raise Unreachable(f"{what}, {size} bytes, could not be read from the object store in time") from None
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{what}, {size} bytes, cannot be read: {error}") from error
        except WrongObject as error:
            raise MalformedMessage(f"{what}, {size} bytes, cannot be read: {error}") from error
        if digest is not None:
            digest.check()
        self.discard(info)
        self._sweep_if_due()
        return payload

    async def _find(self, name: str, size: int, what: str) -> ObjectInfo:
        info = await self._bucket.find(name)
        if info is None:
            raise LatticeError(
                f"{what}, {size} bytes, is not in the object store of lattice {self._bucket.name}: its sender has "
                "given up, or uses another JetStream domain",
                code=Code.NOT_FOUND,
            )
        if info.size != size:
            raise MalformedMessage(f"{what} was announced with {size} bytes; {info.size} are in the object store")
        return info

    def discard(self, info: ObjectInfo) -> None:
        """Delete in the background; a failure is only logged, since the age limit does it as well."""
        self._work.begin(self._discard(info), "delete an object")

    def drop(self, name: str) -> None:
        """As :meth:`discard`, for what was stored for us and is not wanted."""
        self._work.begin(self._drop(name), "delete an object")

    async def close(self) -> None:
        """Finish what is being deleted, for a moment at most."""
        await self._work.end(patience=_CLOSE_TIMEOUT)
        await self._bucket.close()

    async def _discard(self, info: ObjectInfo) -> None:
        try:
            await self._bucket.delete(info)
        except LatticeError as error:
            log.warning("chunks.not_deleted", object=info.name, bytes=info.size, reason=str(error))

    async def _drop(self, name: str) -> None:
        try:
            info = await self._bucket.find(name)
            if info is not None:
                await self._bucket.delete(info)
        except LatticeError as error:
            log.warning("chunks.not_deleted", object=name, reason=str(error))

    # --- leftovers ---

    def _sweep_if_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if 0 < self._bucket.max_age <= MAX_AGE or now < self._next_sweep:
            return  # the server forgets by itself
        self._next_sweep = now + MAX_AGE
        self._work.begin(self._sweep_quietly(), "sweep old objects")

    async def _sweep_quietly(self) -> None:
        try:
            swept = await self.sweep()
        except (LatticeError, Stale) as error:
            log.warning("chunks.not_swept", bucket=self._bucket.name, reason=str(error))
        else:
            if swept:
                log.info("chunks.swept", bucket=self._bucket.name, objects=swept)

    async def sweep(self) -> int:
        """Remove payloads that nobody came for in time; says how many. Only the server's clock counts, for both ends.

        Only what is stored under the id of an invocation, and chunks that belong to no object: a bucket of this name
        may hold other things of its user.
        """
        await self._bucket.ensure()
        known, old, now = await self._look()
        for info in old[:_MOST_SWEPT]:
            await self._bucket.delete(info)
        lost = await self._chunks_without_object(known, now) if now is not None else []
        for subject in lost[:_MOST_SWEPT]:
            await self._bucket.purge(subject)
        return len(old) + len(lost)

    async def _look(self) -> tuple[set[str], list[ObjectInfo], float | None]:
        """The chunks that belong to objects, those objects that are leftovers, and the server's time.

        No time where not every document could be read: it may be that of any chunk.
        """
        known: set[str] = set()
        old: list[ObjectInfo] = []
        certain = True
        now: float | None = None
        jetstream = self._bucket.jetstream
        prefix = f"$O.{self._bucket.name}.M."
        async with Feed(self._connection, jetstream.ask, jetstream.api, self._bucket.stream, prefix) as feed:
            now = feed.began
            async for item in feed.initial():
                try:
                    info = ObjectInfo.decode(item.value, name=_name(item.key))
                except MalformedMessage:
                    certain = False
                    continue
                known.add(info.nuid)
                if _INVOCATION.fullmatch(info.name) and self._is_old(item.stored, now):
                    old.append(info)
        return known, old, now if certain else None

    async def _chunks_without_object(self, known: set[str], now: float) -> list[str]:
        jetstream, stream = self._bucket.jetstream, self._bucket.stream
        prefix = f"$O.{self._bucket.name}.C."
        info = await jetstream.ask(f"STREAM.INFO.{stream}", {"subjects_filter": f"{prefix}>"})
        found = info.get("state", {}).get("subjects") or {}
        lost = []
        for subject in [subject for subject in found if subject.removeprefix(prefix) not in known][:_MOST_SWEPT]:
            last = await jetstream.ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
            if self._is_old(seconds(last.get("message", {}).get("time")), now):
                lost.append(subject)
        return lost

    def _is_old(self, stored: float | None, now: float | None) -> bool:
        return stored is not None and now is not None and now - stored > self._unclaimed


def _name(key: str) -> str:
    """The name of an object from the last token of its document's subject, in either spelling."""
    if _INVOCATION.fullmatch(key):
        return key
    try:
        return base64.urlsafe_b64decode(key).decode()
    except ValueError:
        return key
