"""What the hosts of a lattice agree on beyond links and claims: a snapshot in memory, kept true by a JetStream bucket.

The bucket is ``WASMHOST_{lattice}``; a key is ``kind.what…`` (``generation.V….default``, ``revoked.M…``), a value bytes
that only its kind reads. Every host watches the whole bucket. Without JetStream the entries live in this host's memory
alone, which :attr:`LatticeState.degraded` says; they move into the bucket when one can be had.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import structlog

from lattice import subjects
from lattice.background import begin
from lattice.connection import Connection
from lattice.errors import LatticeError, NotAuthorized
from lattice.store import Bucket, Change, Conflict, StoreUnavailable, check_key, open_bucket
from lattice.transport import State

log = structlog.get_logger(__name__)

OnChange = Callable[[str, bytes | None], None]
"""Called with a key and its new value, None when it was deleted. Must neither wait nor raise."""

RETRY: Final = 5.0
"""Seconds between attempts to find a JetStream that was not there."""
_FIRST_READ_TIMEOUT: Final = 10.0
_MOST_CONFLICTS: Final = 20


class LatticeState:
    """The agreed entries as this host knows them. Reads are plain look-ups and never wait."""

    def __init__(self, connection: Connection, lattice: str, *, js_domain: str | None = None) -> None:
        self._connection = connection
        self._lattice = lattice
        self._js_domain = js_domain or ""
        self._entries: dict[str, bytes] = {}
        self._bucket: Bucket | None = None
        self._reason = ""
        self._seen: dict[str, int] = {}
        """Per key, the revision that the watch told last."""
        self._written: dict[str, int] = {}
        """Per key, the revision of our own write that the watch has not told yet."""
        self._callbacks: list[tuple[str, OnChange]] = []
        self._filled = asyncio.Event()
        self._retry = asyncio.Event()
        self._following: asyncio.Task[None] | None = None
        self._forget_state: Callable[[], None] = lambda: None

    @property
    def degraded(self) -> str | None:
        """Why entries are known to this host only; None while they are shared and stored."""
        return self._reason or None

    async def open(self) -> None:
        """Open or create the bucket and read it; where that is impossible or not permitted, degrade.

        Raises Unreachable.
        """
        try:
            bucket = await self._open_bucket()
        except (StoreUnavailable, NotAuthorized) as error:
            self._reason = f"{error}; until then revocations and other agreements of the hosts stay in this host"
            log.warning("lattice_state.degraded", reason=self._reason)
            self._forget_state = self._connection.on_state(self._on_state)
            self._following = begin(self._recover(), "lattice state recovery")
            return
        self._following = begin(self._follow(bucket), "lattice state watch")
        try:
            await asyncio.wait_for(self._filled.wait(), _FIRST_READ_TIMEOUT)
        except TimeoutError:
            log.warning("lattice_state.slow", bucket=bucket.name, waited_s=_FIRST_READ_TIMEOUT)

    async def close(self) -> None:
        self._forget_state()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})

    def get(self, key: str) -> bytes | None:
        """The value of ``key`` as known here now."""
        return self._entries.get(key)

    def entries(self, prefix: str = "") -> Mapping[str, bytes]:
        """Every entry whose key begins with ``prefix``, as known here now."""
        return MappingProxyType({key: value for key, value in self._entries.items() if key.startswith(prefix)})

    def on_change(self, prefix: str, callback: OnChange) -> Callable[[], None]:
        """Call back for every entry below ``prefix`` that is known, then at each change; returns what ends that.

        A value written by this host is told when the write returns, one of another host when the watch brings it. When
        the bucket is lost the hosts put back what they know.
        """
        entry = (prefix, callback)
        self._callbacks.append(entry)
        for key, value in self.entries(prefix).items():
            callback(key, value)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(entry)

        return stop

    async def put(self, key: str, value: bytes) -> None:
        """Write; known here when this returns. Raises LatticeError when it cannot be stored; nothing changed then."""
        check_key(key)
        if self._bucket is None or self._is_next(key, await self._bucket.put(key, value)):
            self._set(key, value)

    async def delete(self, key: str) -> None:
        """Forget; a key that is not there is no error. Raises as :meth:`put` does."""
        check_key(key)
        if self._bucket is None or self._is_next(key, await self._bucket.delete(key)):
            self._set(key, None)

    async def change(self, key: str, make: Callable[[bytes | None], bytes]) -> bytes:
        """Write ``make(the stored value)`` and return it, so that of two writers at once neither is lost.

        ``make`` may be called several times. Raises as :meth:`put` does, and what ``make`` raises.
        """
        check_key(key)
        if self._bucket is None:
            value = make(self._entries.get(key))
            self._set(key, value)
            return value
        for _ in range(_MOST_CONFLICTS):
            entry = await self._bucket.get(key)
            value = make(entry.value if entry else None)
            try:
                if entry is None:
                    revision = await self._bucket.create(key, value)
                else:
                    revision = await self._bucket.update(key, value, entry.revision)
            except Conflict:
                continue
            if self._is_next(key, revision):
                self._set(key, value)
            return value
        raise Conflict(f"key {key} of bucket {self._bucket.name} is changed by others all the time; try again")

    async def _open_bucket(self) -> Bucket:
        return await open_bucket(self._connection, subjects.state_bucket(self._lattice), domain=self._js_domain)

    def _on_state(self, state: State) -> None:
        """A server that comes back may have JetStream now."""
        if state is State.CONNECTED:
            self._retry.set()

    async def _recover(self) -> None:
        """Wait for a JetStream, move into it, and follow it."""
        bucket: Bucket | None = None
        while bucket is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retry.wait(), RETRY)
            self._retry.clear()
            try:
                bucket = await self._open_bucket()
                await self._copy(bucket)
            except LatticeError as error:
                bucket = None
                log.debug("lattice_state.still_degraded", reason=str(error))
        log.info("lattice_state.recovered", bucket=bucket.name)
        await self._follow(bucket)

    async def _copy(self, bucket: Bucket) -> None:
        """Store every entry that the bucket does not have; what it holds already wins. Until nothing is left to do."""
        copied: dict[str, bytes] = {}
        while copied != self._entries:
            for key in copied.keys() - self._entries.keys():
                del copied[key]
                await bucket.delete(key)
            for key, value in list(self._entries.items()):
                if key not in copied:
                    with contextlib.suppress(Conflict):
                        await bucket.create(key, value)
                elif copied[key] != value:  # written here while the others were copied
                    await bucket.put(key, value)
                copied[key] = value

    async def _follow(self, bucket: Bucket) -> None:
        """Apply the bucket's changes, without end. Nothing is awaited before the bucket is the one that is written."""
        self._bucket, self._reason = bucket, ""
        try:
            async for change in bucket.watch(on_lost=lambda: self._put_back(bucket), on_trouble=self._note_trouble):
                if change is None:
                    self._filled.set()
                else:
                    self._apply(change)
        finally:
            self._filled.set()

    def _note_trouble(self, error: LatticeError | None) -> None:
        """Of what else keeps the bucket from being read the links and claims, in the same JetStream, tell."""
        if isinstance(error, NotAuthorized):
            self._reason = f"bucket {subjects.state_bucket(self._lattice)} cannot be watched: {error}"
            log.error("lattice_state.not_permitted", reason=self._reason)
            self._filled.set()  # not worth waiting for
        elif error is None and self._reason:
            self._reason = ""
            log.info("lattice_state.recovered", bucket=subjects.state_bucket(self._lattice))

    async def _put_back(self, bucket: Bucket) -> None:
        """The bucket was lost with all it held, and made again: what the hosts know goes back into it."""
        log.warning("lattice_state.lost", bucket=bucket.name, put_back=len(self._entries))
        self._seen.clear()  # the revisions of another stream
        self._written.clear()
        for key, value in list(self._entries.items()):
            # another host did, somebody has deleted it since, or only other hosts may write
            with contextlib.suppress(Conflict, NotAuthorized):
                await bucket.update(key, value, 0)

    def _apply(self, change: Change) -> None:
        if change.revision < self._written.get(change.key, 0):
            return  # written before our own change, which is known already
        self._written.pop(change.key, None)
        self._seen[change.key] = change.revision
        self._set(change.key, change.value)

    def _is_next(self, key: str, revision: int) -> bool:
        """Whether our own write is the latest that is known; the watch, which repeats it, may be ahead of us."""
        if revision <= self._seen.get(key, 0):
            return False
        self._written[key] = revision
        return True

    def _set(self, key: str, value: bytes | None) -> None:
        if self._entries.get(key) == value:
            return
        if value is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = value
        for prefix, callback in list(self._callbacks):
            if key.startswith(prefix):
                try:
                    callback(key, value)
                except Exception:
                    # one entry must not end the watch, on which all others depend
                    log.exception("lattice_state.callback_broke", key=key)
