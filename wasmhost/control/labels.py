"""The labels of one host: what auctions and managers choose it by. Commands may change them until it ends."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from lattice.document import Document
from lattice.errors import Code, LatticeError, MalformedMessage
from lattice.keys import holds_seed

RESERVED: Final = "hostcore."
BAD_LABEL: Final = "Invalid label request"
_MOST_LABELS: Final = 256
_LONGEST_KEY: Final = 256
_LONGEST_VALUE: Final = 4096
_MOST_CHARACTERS: Final = 32 * 1024
"""Of all labels, which every ping, heartbeat and start event carries."""


class Labels:
    """As configured at first; ``put`` and ``del`` are those of classic hosts since 0.81 and end with the process."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels: Mapping[str, str] = MappingProxyType(dict(labels))

    @property
    def all(self) -> Mapping[str, str]:
        """The labels of this moment; a change replaces the object."""
        return self._labels

    def change(self, verb: str, body: Any) -> bool:
        """Carry out ``put`` or ``del`` with the body of the command; whether anything changed.

        Raises MalformedMessage, or LatticeError for what may not be changed.
        """
        fields = Document(BAD_LABEL, body)
        key = fields.required_text("key")
        value = fields.text("value")
        if len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE or not key.isprintable() or not value.isprintable():
            raise MalformedMessage(
                f"{BAD_LABEL}: a label is printable text of at most {_LONGEST_KEY} characters, "
                f"its value of at most {_LONGEST_VALUE}"
            )
        if holds_seed(value) or holds_seed(key):
            raise LatticeError(f"{BAD_LABEL}: this is a seed, and labels are public", code=Code.NOT_AUTHORIZED)
        if key.startswith(RESERVED):
            raise LatticeError(
                f"{BAD_LABEL}: {key} is found out by the host itself; choose a name without {RESERVED}",
                code=Code.NOT_AUTHORIZED,
            )
        labels = {name: known for name, known in self._labels.items() if name != key}
        if verb == "put":
            labels[key] = value
        size = sum(len(name) + len(text) for name, text in labels.items())
        if verb == "put" and (len(labels) > _MOST_LABELS or size > _MOST_CHARACTERS):
            raise LatticeError(
                f"{BAD_LABEL}: a host has at most {_MOST_LABELS} labels of {_MOST_CHARACTERS} characters in all",
                code=Code.TOO_LARGE,
            )
        changed = labels != self._labels
        self._labels = MappingProxyType(labels)
        return changed
