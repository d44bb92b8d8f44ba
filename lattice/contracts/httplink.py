"""The values of an HTTP server link: settings documents and single keys, merged into one flat mapping.

A link of ``wasmcloud:httpserver`` carries its settings as whole documents (``config_file``, ``config_b64``,
``config_json``) or as single keys. They are applied in this order, later ones win, member by member. Keys are
case-insensitive. What the values mean is the provider's business; commands that only want to know where a link can be
reached read the same mapping. Source: contract ``wasmcloud:httpserver`` and its classic provider.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lattice.errors import Code, LatticeError

SECTIONS: Final = {
    "tls": ("cert_file", "priv_key_file"),
    "cors": ("allowed_origins", "allowed_methods", "allowed_headers", "exposed_headers", "max_age_secs"),
}
"""Settings that stand in a table of their own in a document; as link values they need no such prefix."""
IGNORED: Final = frozenset({"log"})
"""Known to the classic provider, without a meaning here."""
MAX_DOCUMENT: Final = 1024 * 1024
"""Bytes of a settings file."""

_DOCUMENTS: Final = ("config_file", "config_b64", "config_json")
_SECTION_OF: Final = {member: section for section, members in SECTIONS.items() for member in members}


class InvalidLinkValues(LatticeError):
    """The values of a link make no sense; putting the link again with other values helps."""

    code = Code.INVALID


@dataclass(frozen=True, slots=True)
class Given:
    """One setting as it was given."""

    key: str
    """As documents spell it: ``address``, ``tls.cert_file``."""
    value: Any
    """Text, from a link value; anything JSON or TOML can hold, from a document."""
    where: str
    """How to tell the operator which one is meant: ``port``, or ``config_json: tls.cert_file``."""


def given(values: Mapping[str, str]) -> tuple[list[Given], list[str]]:
    """Every setting of ``values`` in the order of application, and the problems found on the way.

    Reads ``config_file``, so it may block.
    """
    problems: list[str] = []
    keys = _folded(values, "", problems)
    found: list[Given] = []
    for name in _DOCUMENTS:
        if name in keys:
            try:
                document = _READERS[name](keys.pop(name))
            except ValueError as error:
                problems.append(f"{name}: {error}")
            else:
                found.extend(_members(document, name, problems))
    for key in sorted(keys):  # 'address' goes before 'port', which wins over it
        section = _SECTION_OF.get(key)
        found.append(Given(f"{section}.{key}" if section else key, keys[key], key))
    return found, problems


def _members(document: Mapping[str, Any], where: str, problems: list[str]) -> list[Given]:
    found = []
    for key, value in sorted(_folded(document, f"{where}: ", problems).items()):
        if key in IGNORED or value is None:
            continue
        if key not in SECTIONS:
            found.append(Given(key, value, f"{where}: {key}"))
        elif isinstance(value, Mapping):
            for member, inner in sorted(_folded(value, f"{where}: {key}.", problems).items()):
                if inner is not None:
                    found.append(Given(f"{key}.{member}", inner, f"{where}: {key}.{member}"))
        else:
            example = json.dumps({key: {SECTIONS[key][0]: "…"}}, ensure_ascii=False)
            problems.append(f"{where}: {key}: {shown(value)} is not a table of settings (example: {example})")
    return found


def _folded(values: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """Keys in lower case; two that differ in nothing else are a problem."""
    folded: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in values.items():
        name = str(key).lower()
        if name in folded:
            problems.append(f"{where}{spelled[name]!r} and {key!r} differ only in case; keep one of them")
            continue
        folded[name], spelled[name] = value, str(key)
    return folded


def shown(value: object) -> str:
    """A value for an error message."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _document(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'not a JSON document: {error} (example: {{"address": "127.0.0.1:8080"}})') from error
    if not isinstance(value, dict):
        raise ValueError(f'{shown(value)} is not a JSON object (example: {{"address": "127.0.0.1:8080"}})')
    return value


def _from_base64(text: str) -> Mapping[str, Any]:
    compact = "".join(text.split()).rstrip("=")
    try:
        document = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True).decode()
    except ValueError as error:
        raise ValueError(
            f"{shown(text)} is not base64 of a JSON document (example: the output of 'base64 -w0 settings.json')"
        ) from error
    return _document(document)


def _from_file(text: str) -> Mapping[str, Any]:
    example = "(example: /etc/wasmhost/http.json)"
    suffix = os.path.splitext(text)[1].lower()
    if suffix not in (".json", ".toml"):
        raise ValueError(f"{text!r} ends neither in .json nor in .toml {example}")
    data = _read(text, example)
    try:
        if suffix == ".json":
            return _document(data.decode())
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{text!r} is not UTF-8 text {example}") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{text!r} is not a TOML document: {error} {example}") from error
    except ValueError as error:
        raise ValueError(f"{text!r} is {error}") from error


def _read(path: str, example: str) -> bytes:
    if "\0" in path:
        raise ValueError(f"{path!r} is not a path {example}")
    try:
        # Without O_NONBLOCK the opening of a named pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(f"{path!r} is not a file {example}")
            data = file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise ValueError(f"{path!r}: {unreadable(path, error)} {example}") from error
    if len(data) > MAX_DOCUMENT:
        raise ValueError(f"{path!r} has more than {MAX_DOCUMENT} bytes {example}")
    return data


def unreadable(path: str, error: OSError) -> str:
    """Why ``path`` cannot be read, and what to do where that is known."""
    reason = (error.strerror or str(error)).lower()
    return reason if os.path.isabs(path) else f"{reason}; give the absolute path, it is looked up from {os.getcwd()}"


_READERS: Final = {"config_file": _from_file, "config_b64": _from_base64, "config_json": _document}
