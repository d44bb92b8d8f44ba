"""The operations as Redis commands.

Two of them are scripts, so that what they look at does not change before they act: an increment that refuses to leave
32 bits, and the removal of a key that has to be a list or a set. The server keeps a script under its digest; one that
it does not know yet, or has forgotten, is sent whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from lattice.contracts.keyvalue import I32_MAX, I32_MIN
from lattice.errors import Code, LatticeError
from providers.keyvalue.redis.server import ConnectionLost, NotConnected, Server, Word
from providers.keyvalue.store import NotACounter, Store, shown


class Refused(LatticeError):
    """The server answered with an error."""

    code = Code.PROVIDER_ERROR


class NotText(Refused):
    """What the server holds is not UTF-8."""

    confidential = True


class _Script:
    """A script with one key and one argument."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


_INCREMENT: Final = _Script(f"""
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'table' then return held end
if not held or (#held <= 20 and string.find(held, '^%-?[1-9]%d*$')) then
  local total = tonumber(held or '0') + tonumber(ARGV[1])
  if total > {I32_MAX} or total < {I32_MIN} then return false end
end
return redis.pcall('INCRBY', KEYS[1], ARGV[1])
""")
"""Answers nil, and stores nothing, beyond 32 bits. A text that is no integer is INCRBY's to refuse."""

_CLEAR: Final = _Script("""
local size = redis.pcall(ARGV[1], KEYS[1])
if type(size) == 'number' and size > 0 then redis.call('DEL', KEYS[1]) end
return size
""")
"""The argument is the command that counts members, and so refuses another kind of value."""


class RedisStore(Store):
    """One database as one actor sees it; keys are as the actor wrote them."""

    def __init__(self, server: Server, actor: str = "") -> None:
        self.name = server.name
        self._server = server
        self._actor = actor

    @property
    def trouble(self) -> str:
        return self._server.trouble

    def for_actor(self, actor: str) -> RedisStore:
        return RedisStore(self._server, actor)

    async def settled(self) -> None:
        await self._server.settled()

    async def close(self) -> None:
        await self._server.close()

    # --- text and counters ---

    async def get(self, key: str) -> str | None:
        value = await self._ask("GET", key)
        return None if value is None else _text(value, key)

    async def set(self, key: str, value: str, expires: int) -> None:
        if expires:
            await self._ask("SET", key, value, "EX", expires)
        else:
            await self._ask("SET", key, value)

    async def contains(self, key: str) -> bool:
        return bool(await self._ask("EXISTS", key))

    async def delete(self, key: str) -> bool:
        return bool(await self._ask("DEL", key))

    async def increment(self, key: str, amount: int) -> int:
        total = await self._run(_INCREMENT, key, amount)
        if total is None:
            raise NotACounter.beyond(key, amount)
        return int(total)

    # --- lists ---

    async def list_add(self, key: str, value: str) -> int:
        return int(await self._ask("RPUSH", key, value))

    async def list_del(self, key: str, value: str) -> bool:
        return bool(await self._ask("LREM", key, 1, value))

    async def list_range(self, key: str, start: int, stop: int) -> Sequence[str]:
        return [_text(item, key) for item in await self._ask("LRANGE", key, start, stop)]

    async def list_clear(self, key: str) -> bool:
        return bool(await self._run(_CLEAR, key, "LLEN"))

    # --- sets ---

    async def set_add(self, key: str, value: str) -> int:
        return int(await self._ask("SADD", key, value))

    async def set_del(self, key: str, value: str) -> int:
        return int(await self._ask("SREM", key, value))

    async def set_members(self, key: str) -> Iterable[str]:
        return [_text(member, key) for member in await self._ask("SMEMBERS", key)]

    async def set_intersection(self, keys: Sequence[str]) -> Iterable[str]:
        return [_text(member, keys[0]) for member in await self._ask("SINTER", *keys)]

    async def set_union(self, keys: Sequence[str]) -> Iterable[str]:
        return [_text(member, keys[0]) for member in await self._ask("SUNION", *keys)]

    async def set_clear(self, key: str) -> bool:
        return bool(await self._run(_CLEAR, key, "SCARD"))

    # --- asking ---

    async def _run(self, script: _Script, key: str, argument: Word) -> Any:
        try:
            return await self._ask("EVALSHA", script.digest, 1, key, argument)
        except Refused as error:
            if not isinstance(error.__cause__, NoScriptError):
                raise
            return await self._ask("EVAL", script.text, 1, key, argument)

    async def _ask(self, *command: Word) -> Any:
        try:
            return await self._server.ask(*command)
        except ResponseError as error:
            raise Refused(f"redis error: {_words(error)}") from error
        except NotConnected as error:
            raise NotConnected(f"invalid parameter: No Redis connection found for {self._actor}. {error}") from error
        except ConnectionLost as error:
            raise ConnectionLost(f"redis error: {error}") from error


def _words(error: ResponseError) -> str:
    """The server's own text; redis-py takes the word in front off where it knows it."""
    kind = getattr(error, "status_code", None)
    return f"{kind} {error}" if kind and kind != "ERR" and not str(error).startswith(kind) else str(error)


def _text(value: bytes, key: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise NotText(f"redis error: what key {shown(key)} holds is not UTF-8 text") from None
