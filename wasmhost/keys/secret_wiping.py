"""Removing secrets from what the system shows of this process: its command line and its environment.

Both stay readable in ``/proc`` for as long as a process lives, the command line to every user. A variable that is
deleted stays there, too; only overwriting the memory helps. Where that is, ``/proc/self/stat`` says (proc(5), fields 48
to 51).
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
from collections.abc import Collection, Iterable, Mapping

import structlog

from wasmhost.configuration.settings import SECRET_VARIABLES, SETTINGS

log = structlog.get_logger(__name__)

_ARGUMENTS_START, _ARGUMENTS_END, _ENVIRONMENT_START, _ENVIRONMENT_END = range(47, 51)
_SHORTEST = 16
"""Characters; what is shorter could stand anywhere by chance."""


_SEED = re.compile(r"(?<![A-Z0-9])S[ACMNOUVX][A-Z2-7]{56}(?![A-Z0-9])")
_LOGIN = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]+(?=@)")


def wipe_arguments(arguments: Iterable[str]) -> bool:
    """Overwrite every seed, and every user with a password in an address, that this process was started with.

    True where there was a seed, which should have been a file: until now everybody could see it, and a shell's history
    still has it.
    """
    seeds = {found for text in arguments for found in _SEED.findall(text)}
    logins = {found for text in arguments for found in _LOGIN.findall(text)}
    if seeds or logins:
        try:
            _overwrite(*_areas()[0], [secret.encode(errors="surrogateescape") for secret in seeds | logins])
        except (OSError, ValueError, IndexError) as error:
            log.debug("secrets.not_wiped", reason=str(error))
    return bool(seeds)


def wipe_settings(given: Mapping[str, object]) -> None:
    """Wipe every secret setting of a host, once it was read: those that flags gave, and all in the environment.

    Memory keeps them: should this process or a provider of it crash, no core dump is written.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    named = {str(given[setting.name]) for setting in SETTINGS if setting.secret and given.get(setting.name)}
    wipe(named | {os.environ[name] for name in SECRET_VARIABLES if name in os.environ})


def wipe(secrets: Collection[str]) -> None:
    """Overwrite each of these texts in this process's arguments and environment, and forget variables that hold one.

    Does what it can: elsewhere than on Linux only the variables go.
    """
    wanted = [secret for secret in secrets if len(secret) >= _SHORTEST]
    if not wanted:
        return
    for name, value in list(os.environ.items()):
        if any(secret in value for secret in wanted):
            del os.environ[name]
    try:
        for start, end in _areas():
            _overwrite(start, end, [secret.encode() for secret in wanted])
    except (OSError, ValueError, IndexError) as error:
        log.debug("secrets.not_wiped", reason=str(error))


def _areas() -> list[tuple[int, int]]:
    with open("/proc/self/stat", "rb") as file:
        # the name of the program may hold spaces and brackets; it is the second field
        fields = [b"", b"", *file.read().rpartition(b")")[2].split()]
    at = [int(fields[index]) for index in range(_ARGUMENTS_START, _ENVIRONMENT_END + 1)]
    return [(at[0], at[1]), (at[2], at[3])]


def _overwrite(start: int, end: int, secrets: list[bytes]) -> None:
    size = end - start
    if not start or size <= 0:
        return
    area = (ctypes.c_char * size).from_address(start)
    content = area.raw
    for secret in secrets:
        found = content.find(secret)
        while found >= 0:
            ctypes.memset(start + found, ord("x"), len(secret))
            found = content.find(secret, found + len(secret))
