"""``wasmcloud:builtin:numbergen``: answered by the host itself, without a link.

Results are plain values: ``wire.pack`` of a UUID text or of an integer of 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lattice import wire

CONTRACT: Final = "wasmcloud:builtin:numbergen"
GENERATE_GUID: Final = "NumberGen.GenerateGuid"
RANDOM_32: Final = "NumberGen.Random32"
RANDOM_IN_RANGE: Final = "NumberGen.RandomInRange"
U32_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeLimit:
    """Both ends inclusive; the smaller one may come second."""

    min: int = 0
    max: int = 0

    def encode(self) -> bytes:
        return wire.pack({"min": self.min, "max": self.max})

    @classmethod
    def decode(cls, data: bytes) -> RangeLimit:
        """Raise MalformedMessage, and nothing else."""
        fields = wire.Fields.argument("RangeLimit", data)
        return cls(min=fields.integer("min", 0, U32_MAX), max=fields.integer("max", 0, U32_MAX))
