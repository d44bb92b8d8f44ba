"""The server configuration of docs/security.md, read from the page, so that what it says is what was tried."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.pages import steps

NAMES = ("U_CONTROL", "U_CALLS", "U_HTTP", "U_STORE", "U_PERSON")
_USER = re.compile(
    r'nkey: "(?P<name>\w+)".*?publish: \{ allow: \[(?P<publish>.*?)\] \}\s+'
    r"subscribe: \{ allow: \[(?P<subscribe>.*?)\] \}"
    r"(?P<responses>\s+allow_responses: \{ max: (?P<most>\d+))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Permissions:
    """What one user of the page may do."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    responses: int


def page_server() -> str:
    """The block with the configuration of the server."""
    (block,) = [step.text for step in steps("security") if "accounts {" in step.text]
    return block


def page_host() -> str:
    """The block with the settings of the host."""
    (block,) = [step.text for step in steps("security") if step.language == "yaml"]
    return block


def filled(text: str, names: Mapping[str, str]) -> str:
    """``text`` with names of the page replaced."""
    for name, value in names.items():
        text = re.sub(rf"\b{re.escape(name)}\b", value, text)
    return text


def users(names: Mapping[str, str]) -> dict[str, Permissions]:
    """The permissions of each user of the page, by its name there."""
    block = page_server()
    found = {}
    for user in _USER.finditer(block):
        listed = {kind: tuple(re.findall(r'"([^"]+)"', filled(user[kind], names))) for kind in ("publish", "subscribe")}
        found[user["name"]] = Permissions(listed["publish"], listed["subscribe"], int(user["most"] or 0))
    assert set(found) == set(NAMES)
    return found
