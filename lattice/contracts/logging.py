"""``wasmcloud:builtin:logging``: answered by the host itself, without a link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lattice import wire

CONTRACT: Final = "wasmcloud:builtin:logging"
WRITE_LOG: Final = "Logging.WriteLog"
LEVELS: Final = ("trace", "debug", "info", "warn", "error", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    level: str = "info"
    """One of :data:`LEVELS`; what else arrives is logged as debug, as the Elixir hosts do."""
    text: str = ""

    def encode(self) -> bytes:
        return wire.pack({"level": self.level, "text": self.text})

    @classmethod
    def decode(cls, data: bytes) -> LogEntry:
        """Raise MalformedMessage, and nothing else."""
        fields = wire.Fields.argument("LogEntry", data)
        return cls(level=fields.text("level"), text=fields.text("text"))
