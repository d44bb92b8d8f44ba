"""A policy service in a process of its own, and its owner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

from lattice.connection import Connection
from tests.support.processes import ROOT

PROGRAM = ROOT / "tests" / "foreign" / "policy_service.py"


class PolicyService:
    """``tests/foreign/policy_service.py`` on a subject."""

    def __init__(self, url: str, topic: str) -> None:
        self.topic = topic
        self._url = url
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> PolicyService:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), self._url, self.topic], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def stop(self, sig: int = signal.SIGKILL) -> None:
        if self._process is not None:
            os.kill(self._process.pid, sig)
            self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    async def order(self, client: Connection, **order: Any) -> Any:
        """Tell it how to behave: ``mode``, ``deny``."""
        payload = json.dumps(order).encode()
        return json.loads((await client.request(f"{self.topic}.owner", payload, timeout=5)).payload)

    async def asked(self, client: Connection) -> list[dict[str, Any]]:
        """What hosts have asked since the last time."""
        asked: list[dict[str, Any]] = await self.order(client, asked=True)
        return asked
