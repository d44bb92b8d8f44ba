"""Requests to the JetStream of a NATS server, and what its refusals mean.

The requests go over the connection's own request path, so that a lost server fails them at once and those of one loop
tick leave together. Source of the formats: JetStream API reference (NATS ADR-1, ADR-8, ADR-20, ADR-31).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from lattice import headers as header_block
from lattice.connection import Connection
from lattice.errors import Code, LatticeError, MalformedMessage, Unreachable
from lattice.transport import Headers

TIMEOUT: Final = 5.0
"""Seconds for one operation."""
WRITE_TIMEOUT: Final = 1.5
"""Seconds for one key: whoever commands a host waits 2 s for its answer, and should get the reason."""

_WRONG_SEQUENCE: Final = (10071, 10164)
_NAME_IN_USE: Final = 10058
_NO_STREAM: Final = 10059
_NOT_ENABLED: Final = (10039, 10076)


class StoreUnavailable(LatticeError):
    """JetStream is off, or it refuses to keep something; ``str()`` says why."""

    code = Code.UNSUPPORTED


class Conflict(LatticeError):
    """The key is not at the revision that the change expects; read it again."""

    code = Code.CONFLICT


class JetStream:
    """The API of one stream's server side, in one JetStream domain. ``what`` names the user's thing in errors."""

    def __init__(self, connection: Connection, what: str, domain: str = "") -> None:
        self._connection = connection
        self._what = what
        self._kind = what.partition(" ")[0]
        self.api = f"$JS.{domain}.API" if domain else "$JS.API"
        """First tokens of all API subjects."""

    async def ask(self, operation: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """A request to the API. Raises LatticeError with code NOT_FOUND, Conflict, StoreUnavailable."""
        request = b"" if body is None else json.dumps(body).encode()
        _, payload = await self.request(f"{self.api}.{operation}", request)
        return self._parse(payload, self._what)

    async def find_or_make(self, stream: str, config: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The configuration of a stream; a missing one is made with ``config``, unless that is None (NOT_FOUND)."""
        try:
            info = await self.ask(f"STREAM.INFO.{stream}")
        except LatticeError as error:
            if error.code is not Code.NOT_FOUND or config is None:
                raise
            try:
                info = await self.ask(f"STREAM.CREATE.{stream}", config)
            except Conflict:
                # Somebody else has just made it, with other settings.
                info = await self.ask(f"STREAM.INFO.{stream}")
        found = info.get("config")
        return found if isinstance(found, dict) else {}

    async def store(
        self, subject: str, payload: bytes, headers: Headers = None, *, what: str, timeout: float = TIMEOUT
    ) -> int:
        """Publish to a stream's subject and return the sequence number once it is stored."""
        _, answer = await self.request(subject, payload, headers, timeout=timeout)
        sequence = self._parse(answer, f"{what} of {self._what}").get("seq")
        if not isinstance(sequence, int):
            raise self.strange(f"put of {what}")
        return sequence

    async def last(self, stream: str, subject: str, *, direct: bool) -> tuple[Headers, bytes, int]:
        """Headers, payload and sequence number of the subject's last message; number 0 when there is none.

        ``direct``: ask any replica, which the stream must allow.
        """
        if not direct:
            return await self._last_from_leader(stream, subject)
        headers, payload = await self.request(f"{self.api}.DIRECT.GET.{stream}.{subject}", b"")
        headers = headers or {}
        if headers.get(header_block.STATUS) == "404":
            return None, b"", 0
        try:
            return headers, payload, int(headers["Nats-Sequence"])
        except (KeyError, ValueError):
            raise self.strange(f"get of {subject}") from None

    async def _last_from_leader(self, stream: str, subject: str) -> tuple[Headers, bytes, int]:
        try:
            answer = await self.ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except LatticeError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return None, b"", 0
        try:
            message = answer["message"]
            block = base64.b64decode(message.get("hdrs", ""))
            return (
                header_block.parse(block) if block else None,
                base64.b64decode(message.get("data", "")),
                int(message["seq"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.strange("get") from None

    async def request(
        self, subject: str, payload: bytes, headers: Headers = None, *, timeout: float = TIMEOUT
    ) -> tuple[Headers, bytes]:
        """One request and its raw answer. Raises StoreUnavailable where nobody takes it, else Unreachable."""
        try:
            reply = await self._connection.request(subject, payload, timeout=timeout, headers=headers)
        except Unreachable as error:
            if error.code is Code.TIMED_OUT:
                # A server that cannot write to its disk takes what it is sent and says nothing.
                raise Unreachable(
                    f"{self._what}: JetStream on the NATS server at {self._connection.server} did not answer within "
                    f"{timeout:g} s; if its disk is full or read-only, its log says so and it needs a restart"
                ) from error
            if error.code is not Code.NO_RESPONDERS:
                raise
            # Only requests about what a stream holds are heard by that stream alone.
            deleted = "" if subject.startswith(f"{self.api}.STREAM.") else f", or the {self._kind} was deleted"
            raise StoreUnavailable(
                f"{self._what}: JetStream is off on the NATS server at {self._connection.server}{deleted}; "
                "start the server with -js"
            ) from error
        return reply.headers, reply.payload

    def strange(self, what: str) -> MalformedMessage:
        """The error for an answer that makes no sense."""
        return MalformedMessage(f"{self._what}: the answer to {what} is not JetStream's")

    def _parse(self, payload: bytes, what: str) -> Mapping[str, Any]:
        try:
            answer = json.loads(payload)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self.strange(what)
        error = answer.get("error")
        if isinstance(error, dict):
            raise _refusal(what, error)
        return answer


def _refusal(what: str, error: Mapping[str, Any]) -> LatticeError:
    number, text = error.get("err_code"), str(error.get("description", "without a reason"))
    if number in _WRONG_SEQUENCE or number == _NAME_IN_USE:
        return Conflict(f"{what}: {text}")
    if number == _NO_STREAM or error.get("code") == 404:
        return LatticeError(f"{what}: {text}", code=Code.NOT_FOUND)
    if number in _NOT_ENABLED:
        return StoreUnavailable(f"{what}: {text}; enable JetStream for this account")
    return StoreUnavailable(f"{what}: JetStream refused: {text}")
