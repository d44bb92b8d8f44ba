"""What a backend offers: the seam between the operations of the contract and the place that keeps the data.

Semantics are those of ``wasmcloud:keyvalue`` and, where it is silent, of its reference provider on Redis: a key holds
text, a list or a set; an operation on a key of another kind fails; empty lists and sets do not exist; ``increment``
keeps the expiry of its key, ``set`` replaces it. Every method raises LatticeError with a text for the actor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from lattice.errors import Code, LatticeError


class NotACounter(LatticeError):
    """The text of the key is not a 32-bit integer, or the sum would not be one. Nothing was stored."""

    code = Code.INVALID
    confidential = True

    @classmethod
    def beyond(cls, key: str, amount: int) -> NotACounter:
        return cls(f"increment of key {shown(key)} by {amount} would leave the 32-bit range; the key was not changed")


def shown(key: str) -> str:
    """A key as error texts have it."""
    return repr(key if len(key) <= 80 else key[:77] + "...")


class Store(ABC):
    """The data of one or several links."""

    name: str
    """What it is and where, for people: ``Redis at 127.0.0.1:6379``. Without secrets."""

    @property
    def trouble(self) -> str:
        """Why it cannot be reached now; empty when it can, or when that is not known."""
        return ""

    def for_actor(self, actor: str) -> Store:
        """The same data for one actor, where its errors name it."""
        return self

    async def settled(self) -> None:  # noqa: B027 not every backend has to be reached
        """Return, within seconds, once ``trouble`` is known."""

    @abstractmethod
    async def close(self) -> None:
        """Return, within seconds, once what is under way has ended. Nothing is asked of it afterwards."""

    @abstractmethod
    async def get(self, key: str) -> str | None:
        """The text of ``key``; None when there is none."""

    @abstractmethod
    async def set(self, key: str, value: str, expires: int) -> None:
        """Whatever the key held before is replaced. ``expires`` in seconds; 0 = never."""

    @abstractmethod
    async def contains(self, key: str) -> bool: ...

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """True when there was something, of any kind."""

    @abstractmethod
    async def increment(self, key: str, amount: int) -> int:
        """The new value. Raises NotACounter, before anything is stored, when 32 bits do not hold it."""

    @abstractmethod
    async def list_add(self, key: str, value: str) -> int:
        """Append; the new length."""

    @abstractmethod
    async def list_del(self, key: str, value: str) -> bool:
        """Remove the first occurrence; whether there was one."""

    @abstractmethod
    async def list_range(self, key: str, start: int, stop: int) -> Sequence[str]:
        """Both ends inclusive; negative numbers count from the end."""

    @abstractmethod
    async def list_clear(self, key: str) -> bool:
        """Whether there was a list."""

    @abstractmethod
    async def set_add(self, key: str, value: str) -> int:
        """How many were added: 0 or 1."""

    @abstractmethod
    async def set_del(self, key: str, value: str) -> int:
        """How many were removed: 0 or 1."""

    @abstractmethod
    async def set_members(self, key: str) -> Iterable[str]: ...

    @abstractmethod
    async def set_intersection(self, keys: Sequence[str]) -> Iterable[str]:
        """``keys`` is not empty."""

    @abstractmethod
    async def set_union(self, keys: Sequence[str]) -> Iterable[str]:
        """``keys`` is not empty."""

    @abstractmethod
    async def set_clear(self, key: str) -> bool:
        """Whether there was a set."""
