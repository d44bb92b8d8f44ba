"""A machine of its own for some processes: a network namespace, joined to ours by a cable that can be cut.

A cut cable drops every packet both ways without a word, as a broken switch does: connections that stand see silence,
not a reset, and new ones are not refused. Both ends are told a wrong hardware address for each other; so nothing but
``ip`` is needed, no firewall, and no interface goes down (which the kernel would tell to the processes).
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from typing import Self

_NOWHERE = "02:00:00:00:00:fe"


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


def why_not() -> str:
    """Why this machine allows no network namespaces; empty where it does."""
    if shutil.which("ip") is None:
        return "network namespaces need the package iproute2: run tests/packages.sh"
    if os.geteuid() != 0:
        return "network namespaces need root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"
    name = f"wasmhost-probe-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"this machine allows no network namespaces, even to root: {error.stderr.strip()}"
    return ""


class FarSide:
    """The namespace and the cable. Use with ``with``; what runs there must have ended by then."""

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self.name = f"wasmhost-{token}"
        self._near, self._far = f"whn{token}", f"whf{token}"
        # 198.18.0.0/15 is set aside for tests of networks; a network of four addresses each
        block = secrets.randbelow(2**15) * 4
        base = (198 << 24) + (18 << 16) + block
        self.near_address, self.far_address = (
            ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0)) for number in (base + 1, base + 2)
        )

    @property
    def prefix(self) -> list[str]:
        """What to put before a command that is to run there."""
        return ["ip", "netns", "exec", self.name]

    def __enter__(self) -> Self:
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self.name)
            _ip("addr", "add", f"{self.near_address}/30", "dev", self._near)
            _ip("link", "set", self._near, "up")
            _ip("-n", self.name, "addr", "add", f"{self.far_address}/30", "dev", self._far)
            for interface in ("lo", self._far):
                _ip("-n", self.name, "link", "set", interface, "up")
            self._near_mac, self._far_mac = self._mac(self._near), self._mac(self._far, "-n", self.name)
            self.heal()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "link", "del", self._near], capture_output=True, check=False)
        _ip("netns", "del", self.name)

    def cut(self) -> None:
        """From now on nothing arrives."""
        self._tell(_NOWHERE, _NOWHERE)

    def heal(self) -> None:
        self._tell(self._far_mac, self._near_mac)

    def _tell(self, far: str, near: str) -> None:
        """What each end takes for the hardware address of the other."""
        _ip("neigh", "replace", self.far_address, "lladdr", far, "dev", self._near, "nud", "permanent")
        _ip(
            "-n", self.name, "neigh", "replace", self.near_address, "lladdr", near, "dev", self._far, "nud", "permanent"
        )

    def _mac(self, interface: str, *where: str) -> str:
        words = _ip(*where, "-o", "link", "show", interface).split()
        return words[words.index("link/ether") + 1]
