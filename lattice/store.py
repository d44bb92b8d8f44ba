"""Buckets of keys and values in JetStream, compatible with every NATS client's key-value store.

A bucket ``B`` is the stream ``KV_B`` on the subjects ``$KV.B.>``; a key's last message is its value, and its sequence
number in the stream its revision. Source of the format: NATS ADR-8; ``tests/lattice/test_store.py`` checks it against
nats-py's implementation.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from lattice.connection import Connection
from lattice.errors import Code, LatticeError, MalformedMessage, NotAuthorized
from lattice.feed import DELETED, Feed, Stale, is_deletion
from lattice.jetstream import TIMEOUT, WRITE_TIMEOUT, Conflict, JetStream, StoreUnavailable
from lattice.transport import Headers

__all__ = ["TIMEOUT", "Bucket", "Change", "Conflict", "Entry", "StoreUnavailable", "check_key", "open_bucket"]

log = structlog.get_logger(__name__)

_KEY = re.compile(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*")
_NAME = re.compile(r"[a-zA-Z0-9_-]+")

_FIRST_RETRY: Final = 1.0
_LONGEST_RETRY: Final = 30.0
"""Seconds between attempts to read a bucket; what is not permitted is reported by the server each time."""
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value and the revision at which it was written."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """A key was written, or (``value`` None) deleted, at ``revision``."""

    key: str
    value: bytes | None
    revision: int


async def open_bucket(
    connection: Connection,
    name: str,
    *,
    history: int = 1,
    storage: str = "file",
    create: bool = True,
    domain: str = "",
) -> Bucket:
    """The bucket ``name``; one that exists is taken as it is, a missing one is made unless ``create`` is False.

    ``history`` is how many values per key the server keeps (1 to 64), ``storage`` ``file`` or ``memory``, ``domain``
    the JetStream domain. Raises StoreUnavailable when JetStream is off or refuses, LatticeError with code NOT_FOUND
    when the bucket is missing, Unreachable and NotAuthorized.
    """
    if not _NAME.fullmatch(name):
        raise MalformedMessage(f"bucket {name[:80]!r}: only letters, digits, '_' and '-'")
    config = {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "retention": "limits",
        "max_msgs_per_subject": history,
        "storage": storage,
        "discard": "new",
        "num_replicas": 1,
        "duplicate_window": 120_000_000_000,
        "deny_delete": True,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
    }
    bucket = Bucket(connection, name, config=config if create else None, domain=domain)
    await bucket.ensure()
    return bucket


class Bucket:
    """One bucket. Operations are not repeated: after a time-out or a lost connection a change may be stored or not."""

    def __init__(self, connection: Connection, name: str, *, config: Mapping[str, Any] | None, domain: str) -> None:
        self.name = name
        self._connection = connection
        self._config = config
        self._stream = f"KV_{name}"
        self._jetstream = JetStream(connection, f"bucket {name}", domain)
        self._prefix = f"$KV.{name}."
        self._put_prefix = f"{self._jetstream.api}.{self._prefix}" if domain else self._prefix
        self._direct = True

    async def get(self, key: str) -> Entry | None:
        """The value of ``key``; None when it was never written or is deleted."""
        headers, value, revision = await self._last(key)
        return None if revision == 0 or is_deletion(headers) else Entry(key, value, revision)

    async def put(self, key: str, value: bytes) -> int:
        """Write and return the revision."""
        return await self._write(key, value, None)

    async def create(self, key: str, value: bytes) -> int:
        """Write if the key has no value, and return the revision. Raises Conflict."""
        try:
            return await self.update(key, value, 0)
        except Conflict:
            headers, _, revision = await self._last(key)
            if not is_deletion(headers):
                raise
            return await self.update(key, value, revision)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Write if the key is still at ``revision``, and return the new one. Raises Conflict."""
        return await self._write(key, value, {_EXPECTED: str(revision)})

    async def delete(self, key: str, *, revision: int | None = None) -> int:
        """Mark as deleted and return the revision of the mark. Raises Conflict when not at ``revision``, if given."""
        headers = dict(DELETED)
        if revision is not None:
            headers[_EXPECTED] = str(revision)
        return await self._write(key, b"", headers)

    async def purge(self, key: str) -> int:
        """As :meth:`delete`, and forget the key's earlier values."""
        return await self._write(key, b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"})

    async def keys(self, prefix: str = "") -> list[str]:
        """The keys that have a value and begin with ``prefix``, in the order of their last change."""
        found: dict[str, bool] = {}
        async with self._feed(headers_only=True) as feed:
            async for item in feed.initial():
                found[item.key] = not item.deleted
        for key in await self._subjects():
            if key not in found:  # overwritten while the others were read
                found[key] = await self.get(key) is not None
        return [key for key, present in found.items() if present and key.startswith(prefix)]

    async def _subjects(self) -> list[str]:
        """The keys that have a value or a mark of deletion."""
        found: list[str] = []
        while True:
            question = {"subjects_filter": f"{self._prefix}>", "offset": len(found)}
            info = await self._jetstream.ask(f"STREAM.INFO.{self._stream}", question)
            state = info.get("state")
            subjects = state.get("subjects") if isinstance(state, dict) else None
            if not isinstance(subjects, dict) or not subjects:
                return found
            found += [subject.removeprefix(self._prefix) for subject in subjects]
            if len(found) >= int(info.get("total", 0)):
                return found

    async def watch(
        self,
        *,
        on_lost: Callable[[], Awaitable[None]] | None = None,
        on_trouble: Callable[[LatticeError | None], None] = lambda error: None,
    ) -> AsyncIterator[Change | None]:
        """All present keys, then None once, then the changes as they happen; without end.

        A value that is overwritten before the server has sent it is left out where the bucket keeps no history; the
        last value of a key always comes. Revisions only rise, except when the bucket was lost and made anew.

        After a lost connection the bucket is read again, and what differs from what was yielded before is yielded: a
        key that changed several times meanwhile shows its last value, a key that vanished shows as deleted. Ending the
        iteration early needs no more than cancelling the task or ``aclose()``.

        ``on_lost`` is awaited when the bucket was lost, with all it held, and is there again, empty: what the caller
        puts back then does not show as deleted. ``on_trouble`` is told why the bucket cannot be read, once per reason,
        and None when it can; until then it is tried again, more and more seldom where it is not permitted.
        """
        known: dict[str, int] = {}
        told = False
        born, trouble, refused = "", "", _FIRST_RETRY
        while True:
            seen: set[str] = set()
            try:
                made = await self._made()
                if born and made != born and on_lost is not None:
                    await on_lost()
                born = made
                async with self._feed() as feed:
                    if trouble:
                        trouble, refused = "", _FIRST_RETRY
                        on_trouble(None)
                    async for item in feed.initial():
                        seen.add(item.key)
                        if known.get(item.key, 0) != item.revision:
                            was_known = item.key in known
                            _note(known, item.key, item.revision, deleted=item.deleted)
                            if was_known or not item.deleted:
                                yield Change(item.key, None if item.deleted else item.value, item.revision)
                    for key in [key for key in known if key not in seen]:
                        # Vanished without a mark, as the stream was purged or made anew; or written just now.
                        if not await self._holds(key):
                            yield Change(key, None, known.pop(key) + 1)
                    if not told:
                        told = True
                        yield None
                    async for item in feed.following():
                        _note(known, item.key, item.revision, deleted=item.deleted)
                        yield Change(item.key, None if item.deleted else item.value, item.revision)
            except Stale as error:
                log.info("store.read_again", bucket=self.name, reason=str(error))
                await self._connection.wait_connected(pause=0.05)
            except LatticeError as error:
                if str(error) != trouble:
                    trouble = str(error)
                    log.warning("store.watch_failed", bucket=self.name, reason=trouble)
                    on_trouble(error)
                if isinstance(error, NotAuthorized):
                    await self._connection.wait_connected(pause=refused)
                    refused = min(2 * refused, _LONGEST_RETRY)
                else:
                    await self._connection.wait_connected(pause=_FIRST_RETRY)
                await self._ensure_quietly()

    async def _made(self) -> str:
        """When the stream was made; another one of the same name has another time. Raises Stale as a feed does."""
        try:
            info = await self._jetstream.ask(f"STREAM.INFO.{self._stream}")
        except LatticeError as error:
            if error.code is Code.DISCONNECTED:
                raise Stale(str(error)) from error
            raise
        return str(info.get("created", ""))

    async def _holds(self, key: str) -> bool:
        """Whether the stream has anything about a key. Raises Stale as a feed does."""
        try:
            return (await self._last(key))[2] > 0
        except LatticeError as error:
            if error.code is Code.DISCONNECTED:
                raise Stale(str(error)) from error
            raise

    async def ensure(self) -> None:
        """Find the stream, or make it. Raises as :func:`open_bucket` does."""
        config = await self._jetstream.find_or_make(self._stream, self._config)
        self._direct = bool(config.get("allow_direct"))

    async def _ensure_quietly(self) -> None:
        try:
            await self.ensure()
        except LatticeError as error:
            log.debug("store.ensure_failed", bucket=self.name, reason=str(error))

    def _feed(self, *, headers_only: bool = False) -> Feed:
        jetstream = self._jetstream
        return Feed(
            self._connection, jetstream.ask, jetstream.api, self._stream, self._prefix, headers_only=headers_only
        )

    async def _last(self, key: str) -> tuple[Headers, bytes, int]:
        """Headers, value and revision of the key's last message; revision 0 when there is none."""
        subject = self._prefix + check_key(key)
        try:
            return await self._jetstream.last(self._stream, subject, direct=self._direct)
        except StoreUnavailable:
            await self.ensure()
            return await self._jetstream.last(self._stream, subject, direct=self._direct)

    async def _write(self, key: str, value: bytes, headers: Headers) -> int:
        subject = self._put_prefix + check_key(key)
        try:
            return await self._jetstream.store(subject, value, headers, what=f"key {key}", timeout=WRITE_TIMEOUT)
        except StoreUnavailable:
            # Nobody took it, so it can be sent again once the bucket is back: a server may have lost its storage.
            await self.ensure()
            return await self._jetstream.store(subject, value, headers, what=f"key {key}", timeout=WRITE_TIMEOUT)


def _note(known: dict[str, int], key: str, revision: int, *, deleted: bool) -> None:
    if deleted:
        known.pop(key, None)
    else:
        known[key] = revision


def check_key(key: str) -> str:
    """``key`` itself if a bucket can hold it. Raises MalformedMessage."""
    if not _KEY.fullmatch(key):
        raise MalformedMessage(f"key {key[:80]!r}: only letters, digits and -/_= in tokens separated by single dots")
    return key
