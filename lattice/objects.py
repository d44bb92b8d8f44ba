"""Objects in JetStream: bytes of any length in chunks, compatible with every NATS client's object store.

A bucket ``B`` is the stream ``OBJ_B``. An object's chunks are the messages on ``$O.B.C.{nuid}``, in order; what is
known of it is the last message on ``$O.B.M.{base64url of its name}``, a JSON document. Source of the layout: NATS
ADR-20; ``tests/lattice/test_objects.py`` checks it against nats-py's implementation. The first Rust clients, which
Elixir hosts are built on, differ: they look under the bare name, demand ``modified`` and write no digest. Hence a
second document.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import structlog

from lattice import headers as header_block
from lattice.answers import Answers
from lattice.background import Background
from lattice.connection import Connection
from lattice.errors import Code, LatticeError, MalformedMessage, Unreachable
from lattice.feed import positions, seconds
from lattice.jetstream import TIMEOUT, JetStream, StoreUnavailable
from lattice.passing import Passing

log = structlog.get_logger(__name__)

CHUNK: Final = 128 * 1024
"""Bytes of one chunk: what all object stores write."""
IN_FLIGHT: Final = 8
"""Chunks of one object that are sent before the first of them is confirmed."""
ALL_IN_FLIGHT: Final = 32
"""The same for all objects of one bucket: large payloads must not fill the connection that small ones need, too."""
BATCH: Final = 16
"""Chunks that are asked for at a time. All of them come ahead of the small messages that arrive after the question, on
the one connection: 64 held those up for 0.1 s at times, and are read no faster."""
ALL_BATCHES: Final = 2
"""The batches of all objects of one bucket that may be on their way."""

_NAME: Final = re.compile(r"[-/_=a-zA-Z0-9]{1,200}")
_NUID: Final = re.compile(r"[-_=a-zA-Z0-9]{1,100}")
_ROLLUP: Final = {"Nats-Rollup": "sub"}
_HEADROOM: Final = 1024
_HEARTBEAT: Final = 2.0
_CLOSE_TIMEOUT: Final = 2.0


class WrongObject(LatticeError):
    """An object is not, or not all of, what was written."""

    code = Code.MALFORMED


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What the bucket knows of one object."""

    name: str
    nuid: str
    """Names its chunks."""
    size: int
    chunks: int
    digest: bytes | None
    """SHA-256; None where its writer left it out."""
    deleted: bool
    modified: float | None
    """Seconds since the epoch by the clock of its writer."""

    @classmethod
    def decode(cls, data: bytes, *, name: str) -> ObjectInfo:
        """What is stored about the object ``name``, whatever name it has in there: that one has no authority.

        Raise MalformedMessage, and nothing else, whatever ``data`` is. Unknown members are ignored."""
        try:
            document = json.loads(data)
            if not isinstance(document, dict):
                raise TypeError
            options = document.get("options")
            if document.get("link") or (isinstance(options, dict) and options.get("link")):
                raise MalformedMessage("object: it is a link to another one, which is not followed")
            nuid, digest = document.get("nuid", ""), document.get("digest") or ""
            # Purges and reads take it as part of a subject.
            if not isinstance(nuid, str) or not _NUID.fullmatch(nuid):
                raise MalformedMessage("object: its nuid is not one")
            return cls(
                name=name,
                nuid=nuid,
                size=_count(document.get("size")),
                chunks=_count(document.get("chunks")),
                digest=_digest(digest) if digest else None,
                deleted=bool(document.get("deleted")),
                modified=seconds(document.get("mtime") or document.get("modified")),
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedMessage("object: what is stored about it is not an object's document") from error

    def encode(self, bucket: str) -> bytes:
        """The document that all generations of readers understand."""
        written = datetime.fromtimestamp(self.modified or 0.0, UTC).isoformat().replace("+00:00", "Z")
        return json.dumps(
            {
                "name": self.name,
                "bucket": bucket,
                "nuid": self.nuid,
                "size": self.size,
                "chunks": self.chunks,
                "mtime": written,
                "modified": written,
                "digest": f"SHA-256={base64.urlsafe_b64encode(self.digest or b'').decode()}",
                "deleted": self.deleted,
                "options": {"max_chunk_size": CHUNK},
            }
        ).encode()


def _count(value: object) -> int:
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError
    return value


def _digest(value: object) -> bytes:
    kind, _, text = str(value).partition("=")
    if kind.upper() != "SHA-256":
        raise ValueError
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class ObjectBucket:
    """One bucket, found or made at its first use. Names must not be used twice."""

    def __init__(self, connection: Connection, name: str, *, domain: str = "", max_age: float = 0.0) -> None:
        """``max_age``: seconds after which a bucket that is made here forgets an object; 0 keeps it for ever."""
        self.name = name
        self.stream = f"OBJ_{name}"
        self.max_age = 0.0
        """That of the bucket as it is; known once it was used."""
        self._connection = connection
        self._jetstream = JetStream(connection, f"bucket {name}", domain)
        self._answers = Answers(connection)
        self._slots = asyncio.Semaphore(ALL_IN_FLIGHT)
        self._batches_left = asyncio.Semaphore(ALL_BATCHES)
        self._cleaning = Background()
        self._ready = False
        self._direct = False
        self._batched = True
        self._config: Mapping[str, Any] = {
            "name": self.stream,
            "subjects": [f"$O.{name}.C.>", f"$O.{name}.M.>"],
            "retention": "limits",
            "max_age": int(max_age * 1e9),
            "storage": "file",
            "discard": "new",
            "num_replicas": 1,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
        }

    @property
    def jetstream(self) -> JetStream:
        """The API that keeps it."""
        return self._jetstream

    async def ensure(self) -> None:
        """Find the bucket or make it. Raises StoreUnavailable, Unreachable and NotAuthorized, as all the others do."""
        config = await self._jetstream.find_or_make(self.stream, self._config)
        self._direct = bool(config.get("allow_direct"))
        age = config.get("max_age")
        self.max_age = age / 1e9 if isinstance(age, int) else 0.0
        await self._answers.open()
        self._ready = True

    async def close(self) -> None:
        """Give up what is being read, and finish what is being cleaned up, for a moment at most."""
        await self._cleaning.end(patience=_CLOSE_TIMEOUT)
        await self._answers.close()

    # --- writing ---

    async def put(self, name: str, data: bytes) -> ObjectInfo:
        """Store ``data`` under a new name; returns when all of it is stored. What fails leaves nothing behind."""
        if not _NAME.fullmatch(name):
            raise MalformedMessage(f"object {name[:80]!r}: only letters, digits and -/_=, at most 200")
        if not self._ready:
            await self.ensure()
        try:
            return await self._put(name, data)
        except StoreUnavailable:
            # Nobody took it: a server may have lost its storage, and with it the bucket.
            await self.ensure()
            return await self._put(name, data)

    async def _put(self, name: str, data: bytes) -> ObjectInfo:
        nuid = secrets.token_hex(11)
        flying: deque[asyncio.Task[None]] = deque()
        hashing = asyncio.ensure_future(asyncio.to_thread(lambda: sha256(data).digest()))
        try:
            chunks = await self._put_chunks(f"$O.{self.name}.C.{nuid}", data, flying)
            info = ObjectInfo(
                name=name,
                nuid=nuid,
                size=len(data),
                chunks=chunks,
                digest=await hashing,
                deleted=False,
                modified=time.time(),
            )
            document, store, what = info.encode(self.name), self._jetstream.store, f"object {name}"
            await asyncio.gather(*(store(subject, document, _ROLLUP, what=what) for subject in self._about(name)))
        except BaseException:
            hashing.cancel()
            self._cleaning.begin(self._forget(flying, name, nuid), f"forget object {name}")
            raise
        return info

    async def _put_chunks(self, subject: str, data: bytes, flying: deque[asyncio.Task[None]]) -> int:
        """Several at a time, which the server stores in the order in which they were sent; says how many."""
        length = min(CHUNK, self._connection.max_payload - _HEADROOM)
        number = 0
        for start in range(0, len(data), length):
            if len(flying) >= IN_FLIGHT:
                await asyncio.wait({flying[0]})  # unlike awaiting it, this does not cancel it
                flying.popleft().result()
            await self._slots.acquire()
            flying.append(asyncio.create_task(self._put_chunk(subject, data[start : start + length])))
            number += 1
        if flying:
            await asyncio.wait(flying)
        while flying:
            flying.popleft().result()
        return number

    async def _put_chunk(self, subject: str, chunk: bytes) -> None:
        try:
            await self._jetstream.store(subject, chunk, what="chunk")
        finally:
            self._slots.release()

    # --- reading ---

    async def find(self, name: str) -> ObjectInfo | None:
        """What is known of an object; None when it was never written or is deleted."""
        if not self._ready:
            await self.ensure()
        for subject in self._about(name):
            data = await self._last(subject)
            if data is not None:
                info = ObjectInfo.decode(data, name=name)
                return None if info.deleted else info
        return None

    async def _last(self, subject: str) -> bytes | None:
        if self._direct:
            _, data, sequence = await self._jetstream.last(self.stream, subject, direct=True)
            if sequence:
                return data
        # Replicas may lag behind, the leader does not.
        _, data, sequence = await self._jetstream.last(self.stream, subject, direct=False)
        return data if sequence else None

    async def read(self, info: ObjectInfo, take: Callable[[bytes], object] | None = None) -> bytes:
        """All bytes of an object; ``take`` is handed the chunks in order, one at a time, on worker threads.

        The digest is compared only without ``take``, which shows that the caller knows a better one. Raises
        WrongObject, beside the usual errors.
        """
        digest = None
        if take is None:
            digest = sha256()
            take = digest.update
        parts: list[bytes] = []
        missing = info.size
        passing = Passing(take)
        async with aclosing(self._chunks(info)) as chunks:
            while missing > 0:
                try:
                    part = await anext(chunks)
                except StopAsyncIteration:
                    raise WrongObject(f"object {info.name}: {missing} of its {info.size} bytes are missing") from None
                missing -= len(part)
                if missing < 0:
                    raise WrongObject(f"object {info.name}: it is longer than the {info.size} bytes it should have")
                parts.append(part)
                await passing.add(part)
        await passing.end()
        if digest is not None and info.digest is not None and digest.digest() != info.digest:
            raise WrongObject(f"object {info.name}: its bytes are not those that were written (SHA-256)")
        return await asyncio.to_thread(b"".join, parts)  # which lets others run while it copies

    async def _chunks(self, info: ObjectInfo) -> AsyncGenerator[bytes, None]:
        """Chunks in order, by whatever way the server knows."""
        sequence = 0
        if self._direct and self._batched:
            async with aclosing(self._batches(info)) as found:
                async for number, chunk in found:
                    sequence = number
                    yield chunk
        async with aclosing(self._pushed(info, sequence + 1)) as rest:
            async for chunk in rest:
                yield chunk

    async def _batches(self, info: ObjectInfo) -> AsyncGenerator[tuple[int, bytes], None]:
        """Chunks with their sequence numbers by direct get; ends early where the server does not know batches."""
        subject = f"{self._jetstream.api}.DIRECT.GET.{self.stream}"
        sequence, left = 0, info.chunks
        while self._batched:
            wanted = min(BATCH, max(left, 1))
            request = {"seq": sequence + 1, "batch": wanted, "next_by_subj": self._chunk_subject(info)}
            before = left
            async with self._batches_left:
                with self._answers.question() as question:
                    self._connection.publish(subject, json.dumps(request).encode(), reply=question.inbox)
                    for _ in range(wanted):
                        _, headers, payload = await question.next(TIMEOUT)
                        if headers is None or "Nats-Sequence" not in headers:
                            break  # 204: the end of the batch; 404: nothing left; 503: nobody answers such requests
                        sequence, left = int(headers["Nats-Sequence"]), left - 1
                        yield sequence, payload
                        if "Nats-Num-Pending" not in headers:
                            # Servers before 2.11 answer with the first message, and say nothing of what is left.
                            self._batched = False
                            break
            if left == before:
                return

    async def _pushed(self, info: ObjectInfo, sequence: int) -> AsyncGenerator[bytes, None]:
        """Chunks from ``sequence`` on by a consumer, which servers of all ages have."""
        async with self._answers.delivery() as question:
            config = {
                "deliver_subject": question.inbox,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": sequence,
                "ack_policy": "none",
                "max_deliver": 1,
                "filter_subject": self._chunk_subject(info),
                "flow_control": True,
                "idle_heartbeat": int(_HEARTBEAT * 1e9),
                "inactive_threshold": int(30e9),
                "mem_storage": True,
                "num_replicas": 1,
            }
            answer = await self._jetstream.ask(
                f"CONSUMER.CREATE.{self.stream}", {"stream_name": self.stream, "config": config}
            )
            left, last = answer.get("num_pending", 0), 0
            try:
                while left:
                    reply, headers, payload = await question.next(2.5 * _HEARTBEAT)
                    if headers is not None and header_block.STATUS in headers:
                        if stalled := reply or headers.get("Nats-Consumer-Stalled", ""):
                            self._connection.publish(stalled, b"")  # flow control: go on
                        elif headers.get("Nats-Last-Consumer", str(last)) != str(last):
                            raise Unreachable(f"chunks of object {info.name} were lost on the way")
                        elif headers[header_block.STATUS] != "100":
                            raise Unreachable(f"the NATS server stopped to send object {info.name}")
                        continue
                    _, number, left = positions(reply)
                    if number != last + 1:
                        raise Unreachable(f"chunks of object {info.name} were lost on the way")
                    last = number
                    yield payload
            except ValueError:
                raise self._jetstream.strange(f"get of object {info.name}") from None
            finally:
                with suppress(LatticeError):
                    # Nobody waits for the answer: the server drops a consumer without listener by itself as well.
                    delete = f"CONSUMER.DELETE.{self.stream}.{answer.get('name', '')}"
                    self._connection.publish(f"{self._jetstream.api}.{delete}", b"")

    # --- deleting ---

    async def delete(self, info: ObjectInfo) -> None:
        """Remove an object without a trace. Classic stores leave a document that says so, for watchers."""
        await asyncio.gather(*(self.purge(s) for s in (self._chunk_subject(info), *self._about(info.name))))

    async def purge(self, subject: str) -> None:
        """Remove all messages on one subject of the bucket."""
        await self._jetstream.ask(f"STREAM.PURGE.{self.stream}", {"filter": subject})

    async def _forget(self, flying: Iterable[asyncio.Task[None]], name: str, nuid: str) -> None:
        """Remove what a failed write has stored. The server might do that ahead of what is still on its way."""
        await asyncio.gather(*flying, return_exceptions=True)
        try:
            for subject in (f"$O.{self.name}.C.{nuid}", *self._about(name)):
                await self.purge(subject)
        except LatticeError as error:
            log.info("objects.not_forgotten", bucket=self.name, object=name, reason=str(error))

    def _chunk_subject(self, info: ObjectInfo) -> str:
        return f"$O.{self.name}.C.{info.nuid}"

    def _about(self, name: str) -> tuple[str, ...]:
        """The subjects of an object's document: that of ADR-20 first, then that of the first Rust clients."""
        encoded = base64.urlsafe_b64encode(name.encode()).decode()
        standard = f"$O.{self.name}.M.{encoded}"
        return (standard, f"$O.{self.name}.M.{name}") if _NAME.fullmatch(name) else (standard,)
