"""Asks a host on its control subjects with raw messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lattice.connection import Connection
from lattice.subjects import Control
from lattice.wire import pack, unpack_value

ACCEPTED = {"accepted": True, "error": ""}


class Asker:
    """Asks in one encoding and checks that the answer comes in the same."""

    def __init__(self, client: Connection, lattice: str, encoding: str) -> None:
        self.subjects = Control(lattice)
        self.encoding = encoding
        self._client = client

    async def ask(self, subject: str, body: Mapping[str, Any] | list[Any] | None = None, timeout: float = 5.0) -> Any:
        if body is None:
            return await self.send(subject, b"", timeout=timeout)
        payload = pack(body) if self.encoding == "msgpack" else json.dumps(body).encode()
        return self._read((await self._client.request(subject, payload, timeout=timeout)).payload)

    async def send(self, subject: str, payload: bytes, timeout: float = 5.0) -> Any:
        """Send bytes as they are, asking for the encoding by header."""
        headers = {"Content-Type": "application/msgpack"} if self.encoding == "msgpack" else None
        return self._read((await self._client.request(subject, payload, timeout=timeout, headers=headers)).payload)

    def _read(self, payload: bytes) -> Any:
        return unpack_value(payload) if self.encoding == "msgpack" else json.loads(payload)
