"""What hosts keep on disk between runs: keys, the lock, stored data; all below folders that only their user may read.

Layout::

    <shared>/cluster.nk            the cluster seed, shared by all hosts of one user
    <shared>/account.nk            the user's development account, which signs unsigned local actors
    <shared>/modules/<hash>.nk     one key per unsigned actor file, so that its identity survives a rebuild
    <shared>/providers/<hash>.nk   the same for the program of a provider that is packed into an archive
    <shared>/hosts/<name>/         one folder per host, locked while the host runs:
        host.nk  lock  jetstream/ …
        nats-users/<key>.creds     NATS users that the host made for its providers
        cluster.json               cluster keys that were changed while the host ran (wasmhost.keys.cluster_keys)
        cluster/<name>.nk          seeds of cluster keys, put there by the operator
    <shared>/cluster/<name>.nk     the same for all hosts of the user

``<shared>`` is ``$WASMHOST_STATE``, else ``$XDG_STATE_HOME/wasmhost``. ``--state DIR`` moves the folder of one host;
the shared keys stay where they are unless the folder holds keys of its own, so that hosts of one user trust each other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lattice.errors import Code, MalformedMessage
from lattice.keys import KeyPair, Role
from wasmhost.private_files import StateError, make_private_folder, read_private, unusable


@dataclass(frozen=True, slots=True)
class StatePaths:
    """Where state lives. Nothing is created before it is needed."""

    host: Path
    """The folder of one host."""
    shared: Path
    """Keys shared by all hosts of the user."""
    cache: Path
    """Compiled modules; may be deleted at any time."""


def locate(environ: Mapping[str, str], *, state: str = "", name: str = "") -> StatePaths:
    """Choose the folders. ``state`` names the host's folder itself, ``name`` one of the user's host folders."""
    home = Path(environ.get("HOME") or Path.home())
    if environ.get("WASMHOST_STATE"):
        shared = Path(environ["WASMHOST_STATE"]).expanduser().absolute()
        cache = shared / "cache"
    else:
        shared = Path(environ.get("XDG_STATE_HOME") or home / ".local" / "state") / "wasmhost"
        cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "wasmhost"
    host = Path(state).expanduser().absolute() if state else shared / "hosts" / (name or "default")
    if state and name:
        host = host / "hosts" / name
    return StatePaths(host=host, shared=shared, cache=cache)


class StateFolder:
    """The state of one host while it runs: holds the lock from :meth:`open` to :meth:`close`."""

    def __init__(self, paths: StatePaths, lock: int) -> None:
        self.paths = paths
        self._lock = lock

    @classmethod
    def open(cls, paths: StatePaths) -> StateFolder:
        """Make the folder, 0700, and lock it. Raises StateError when it cannot be written or is in use."""
        make_private_folder(paths.host)
        return cls(paths, _locked(paths.host / "lock"))

    def close(self) -> None:
        """Give the folder back; the lock file stays, since removing it would race with a waiting opener."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> StateFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def host_key(self) -> KeyPair:
        """The host's own key, made on first use."""
        return read_or_make_key(self.paths.host / "host.nk", Role.HOST)

    def cluster_key(self) -> KeyPair:
        """The key that signs invocations, made on first use."""
        return Keyring(self.paths).cluster()


class Keyring:
    """The keys shared by the hosts and commands of one user; needs no lock."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths

    def cluster(self) -> KeyPair:
        """The cluster key of the user's hosts, made on first use."""
        return read_or_make_key(self._place("cluster.nk"), Role.CLUSTER)

    def account(self) -> KeyPair:
        """The user's development account, made on first use."""
        return read_or_make_key(self._place("account.nk"), Role.ACCOUNT)

    def module(self, path: Path) -> KeyPair:
        """The key of the unsigned actor file at ``path``: the same for the same absolute path, made on first use."""
        digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        return read_or_make_key(self._paths.shared / "modules" / f"{digest}.nk", Role.MODULE)

    def provider(self, path: Path) -> KeyPair:
        """The key of the provider whose program is built at ``path``, as for :meth:`module`."""
        digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        return read_or_make_key(self._paths.shared / "providers" / f"{digest}.nk", Role.SERVICE)

    def _place(self, name: str) -> Path:
        own = self._paths.host / name
        return own if own.exists() else self._paths.shared / name


def read_or_make_key(path: Path, role: Role) -> KeyPair:
    """The key whose seed ``path`` holds, made (0600, atomically) if there is none. Raises StateError."""
    while True:
        found = read_key(path, role)
        if found is not None:
            return found
        make_private_folder(path.parent)
        _write_new_key(path, KeyPair.generate(role))


def read_key(path: Path, role: Role) -> KeyPair | None:
    """The key whose seed ``path`` holds; None where there is no such file. Raises StateError."""
    try:
        text = read_private(path, most=256).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StateError(f"key file {path} cannot be read: {exc.strerror}; check its owner and permissions") from exc
    try:
        return KeyPair.from_seed(text, role)
    except MalformedMessage as exc:
        raise StateError(f"key file {path} cannot be used: {exc}; restore it from a copy, or delete it") from exc


def _write_new_key(path: Path, key: KeyPair) -> None:
    """Write the seed beside ``path``, then link it: two processes that start at once end up with one key."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            seed = key.seed.encode()
            if os.write(descriptor, seed) < len(seed):  # a disk that becomes full takes what fits
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    except OSError as exc:
        raise unusable(path.parent, exc) from exc
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise unusable(path.parent, exc) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        if exc.errno not in (errno.EAGAIN, errno.EACCES):
            raise unusable(path.parent, exc) from exc
        raise StateError(
            f"state folder {path.parent} is in use by process {holder}; stop that host, "
            "or give this one a folder of its own with --name NAME or --state DIR",
            code=Code.CONFLICT,
        ) from exc
    with contextlib.suppress(OSError):  # a full disk: the lock holds without the number, which is for people
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def lock_holder(folder: Path) -> int | None:
    """The process that uses this state folder now, 0 when its number is not known; None when nobody does."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        text = os.pread(descriptor, 20, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(descriptor)
