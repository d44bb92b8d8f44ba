"""Contexts on disk: named places that commands can work in, one small file each in the user's configuration folder.

Layout::

    <config>/contexts/NAME.yaml     lattice, nats_url, credentials, cluster_seed_file, ctl_prefix, inbox_prefix,
                                    tls_ca, tls_cert, tls_key, tls_name; each may be left out
    <config>/default-context        the name of the one that is used where none is named
    .wasmhost.yaml                  in the working folder: the same members, or `context: NAME`

``<config>`` is ``$XDG_CONFIG_HOME/wasmhost`` (``~/.config/wasmhost``). Files of the classic command line are
understood, too: a file copied from ``~/.wash/contexts`` is a context.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import yaml

from lattice.addresses import shown
from lattice.errors import Code, LatticeError
from lattice.login import SYSTEM_TLS, TlsFiles
from wasmhost.configuration import small_yaml
from wasmhost.private_files import make_private_folder, replace_file

_LARGEST = 64 * 1024
"""Bytes of one context; a project file is a stranger's."""
PROJECT_FILE = ".wasmhost.yaml"
_SUFFIXES = (".yaml", ".yml", ".json")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

MEMBERS = (
    *("lattice", "nats_url", "credentials", "cluster_seed_file", "ctl_prefix"),
    *("tls_ca", "tls_cert", "tls_key", "tls_name", "inbox_prefix"),
)
_CLASSIC = {"lattice_prefix": "lattice", "ctl_credsfile": "credentials", "ctl_tls_ca_file": "tls_ca"}
_CLASSIC_IGNORED = frozenset(
    {
        *("name", "js_domain", "ctl_timeout", "ctl_timeout_ms"),
        *("rpc_host", "rpc_port", "rpc_jwt", "rpc_seed", "rpc_credsfile", "rpc_timeout", "rpc_timeout_ms"),
        "rpc_tls_ca_file",
    }
)
_CLASSIC_OWN = ("ctl_host", "ctl_port", "ctl_jwt", "ctl_seed", "cluster_seed")


class ContextError(LatticeError):
    """Settings that cannot be used; the message lists every one of them. ``code`` is NOT_FOUND for a missing name."""

    code = Code.INVALID


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one source says about where a lattice is. Empty texts say nothing."""

    source: str = ""
    """For messages."""
    lattice: str = ""
    nats_url: str = ""
    ctl_prefix: str = ""
    credentials: str = ""
    """Path of a NATS credentials file."""
    credentials_source: str = ""
    """Where that path was read, if ``source`` is not precise enough."""
    user_jwt: str = field(default="", repr=False)
    user_seed: str = field(default="", repr=False)
    cluster_seed: str = field(default="", repr=False)
    """A seed, or the path of a file that holds one."""
    tls: TlsFiles = SYSTEM_TLS
    inbox_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFile:
    """One context as its file describes it."""

    name: str
    path: Path
    lattice: str = ""
    nats_url: str = ""
    credentials: str = ""
    cluster_seed_file: str = ""
    ctl_prefix: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_name: str = ""
    inbox_prefix: str = ""


class ContextStore:
    """The contexts of one user."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is the configuration folder; it need not exist."""
        self._folder = folder / "contexts"
        self._default = folder / "default-context"

    @classmethod
    def locate(cls, environ: Mapping[str, str]) -> ContextStore:
        """The store of the user whose environment this is."""
        home = Path(environ.get("HOME") or Path.home())
        return cls(Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "wasmhost")

    @property
    def folder(self) -> Path:
        """Where the files of contexts lie."""
        return self._folder

    def names(self) -> list[str]:
        """All contexts, sorted."""
        try:
            found = [path for path in self._folder.iterdir() if path.suffix in _SUFFIXES]
        except OSError:
            return []
        return sorted({path.stem for path in found if _NAME.fullmatch(path.stem)})

    def default_name(self) -> str:
        """The name of the default context; empty when there is none."""
        try:
            return self._default.read_text().strip()
        except OSError:
            return ""

    def set_default(self, name: str) -> None:
        """Make ``name`` the default; empty for none. Raises ContextError when there is no such context, OSError."""
        if not name:
            self._default.unlink(missing_ok=True)
            return
        self._path(name)
        _write(self._default, f"{name}\n")

    def read(self, name: str) -> Bundle:
        """What a context says. Raises ContextError."""
        return replace(read_bundle(self._path(name)), source=f"context '{name}'")

    def default(self) -> Bundle | None:
        """What the default context says; None when there is none. Raises ContextError."""
        name = self.default_name()
        if not name:
            return None
        if name not in self.names():
            raise ContextError(
                f"the default context '{name}' is gone; choose another with `wasmhost ctx default NAME`, "
                "or none with `wasmhost ctx default --none`",
                code=Code.NOT_FOUND,
            )
        return replace(self.read(name), source=f"context '{name}', the default")

    def project(self, folder: Path) -> tuple[Bundle | None, Bundle | None]:
        """What the project file in ``folder`` says, and the context that it names. Raises ContextError."""
        path = folder / PROJECT_FILE
        if not path.is_file():
            return None, None
        bundle = read_bundle(path, also=("context",))
        name = str(_load(path).get("context") or "")
        named = replace(self.read(name), source=f"context '{name}' of {path}") if name else None
        return replace(bundle, source=str(path)), named

    def write(self, name: str, members: Mapping[str, str], *, replacing: bool = False) -> Path:
        """Store a context; its file. Raises ContextError (CONFLICT when it is there already) and OSError."""
        if not _NAME.fullmatch(name):
            raise ContextError(
                f"'{name}' is no name for a context: letters, digits, '_', '-' and '.', at most 64 (example: prod)"
            )
        if name in self.names():
            if not replacing:
                raise ContextError(
                    f"there is a context '{name}' already; replace it with --force, or choose another name",
                    code=Code.CONFLICT,
                )
            self._path(name).unlink()
        make_private_folder(self._folder.resolve())  # a folder of settings may be kept elsewhere
        path = self._folder / f"{name}.yaml"
        _write(path, yaml.safe_dump({key: value for key, value in members.items() if value}, sort_keys=False))
        return path

    def delete(self, name: str) -> bool:
        """Remove a context; whether it was the default one, so that there is none now. Raises ContextError."""
        self._path(name).unlink()
        was_default = self.default_name() == name
        if was_default:
            self.set_default("")
        return was_default

    def _path(self, name: str) -> Path:
        for suffix in _SUFFIXES:
            path = self._folder / f"{name}{suffix}"
            if _NAME.fullmatch(name) and path.is_file():
                return path
        known = self.names()
        close = difflib.get_close_matches(name, known, n=1)
        if close:
            hint = f"did you mean '{close[0]}'?"
        else:
            hint = f"there are {', '.join(known)}" if known else "make it with `wasmhost ctx new`"
        raise ContextError(f"no context is called '{name}'; {hint}", code=Code.NOT_FOUND)


def read_bundle(path: Path, *, also: tuple[str, ...] = ()) -> Bundle:
    """What a file says, ``also`` being members that are somebody else's. Raises ContextError with every problem."""
    content = _load(path)
    problems = []
    for name, value in content.items():
        if name not in (*MEMBERS, *_CLASSIC, *_CLASSIC_OWN, *_CLASSIC_IGNORED, *also):
            close = difflib.get_close_matches(name, MEMBERS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(MEMBERS)}"
            problems.append(f"{path}: no member is called '{name}'; {hint}")
        elif isinstance(value, dict | list | bool):
            problems.append(f"{path}: {name} is not a text")
    if problems:
        raise ContextError("\n".join(problems))
    text = {_CLASSIC.get(name, name): str(value).strip() for name, value in content.items() if value is not None}
    url = text.get("nats_url", "")
    if not url and text.get("ctl_host"):
        url = f"nats://{text['ctl_host']}:{text.get('ctl_port') or 4222}"
    return Bundle(
        lattice=text.get("lattice", ""),
        nats_url=url,
        ctl_prefix=text.get("ctl_prefix", ""),
        credentials=_beside(path, text.get("credentials", "")),
        user_jwt=text.get("ctl_jwt", ""),
        user_seed=text.get("ctl_seed", ""),
        cluster_seed=_beside(path, text.get("cluster_seed_file", "")) or text.get("cluster_seed", ""),
        tls=TlsFiles(
            ca=_beside(path, text.get("tls_ca", "")),
            certificate=_beside(path, text.get("tls_cert", "")),
            key=_beside(path, text.get("tls_key", "")),
            name=text.get("tls_name", ""),
        ),
        inbox_prefix=text.get("inbox_prefix", ""),
    )


def describe(store: ContextStore, name: str) -> ContextFile:
    """One context for a list of them. Raises ContextError."""
    path = store._path(name)
    bundle = read_bundle(path)
    held = "(in the file)" if bundle.cluster_seed and not _load(path).get("cluster_seed_file") else ""
    return ContextFile(
        name=name,
        path=path,
        lattice=bundle.lattice,
        nats_url=bundle.nats_url,
        credentials=bundle.credentials,
        cluster_seed_file=held or bundle.cluster_seed,
        ctl_prefix=bundle.ctl_prefix,
        tls_ca=bundle.tls.ca,
        tls_cert=bundle.tls.certificate,
        tls_key=bundle.tls.key,
        tls_name=bundle.tls.name,
        inbox_prefix=bundle.inbox_prefix,
    )


def context_document(context: ContextFile) -> dict[str, str | None]:
    """A context for JSON."""
    members = asdict(context) | {"nats_url": shown(context.nats_url)}
    return {name: str(value) if value else None for name, value in members.items()}


def _beside(file: Path, text: str) -> str:
    """A path named in a file, counted from the folder of that file."""
    return str(file.absolute().parent / Path(text).expanduser()) if text else ""


def _load(path: Path) -> dict[str, object]:
    try:
        content = small_yaml.read(path, most=_LARGEST)
    except OSError as error:
        raise ContextError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    except small_yaml.BadYaml as error:
        raise ContextError(
            f"{path}{error.where}: neither YAML nor JSON: {error}; write lines such as `lattice: prod`"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ContextError(f"{path} must hold `name: value` lines, such as `lattice: prod`")
    return {str(name): value for name, value in content.items()}


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, for this user only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode())
