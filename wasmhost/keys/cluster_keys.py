"""The cluster keys of one host: which it accepts, whose seeds it holds, which one signs. They change while it runs.

Every change is stored in ``cluster.json`` of the host's folder before it counts, and a restarted host goes on with what
is stored there. It holds public keys only. A changed configuration of cluster seed or issuers wins over what is stored.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Final

import structlog

from lattice.document import Document
from lattice.errors import Code, LatticeError, MalformedMessage
from lattice.keys import KeyPair, Role, is_key
from wasmhost.configuration.config import HostConfig
from wasmhost.keys.cluster_seeds import ClusterSeeds
from wasmhost.private_files import StateError, read_private, replace_file
from wasmhost.state import StateFolder

log = structlog.get_logger(__name__)

FILE: Final = "cluster.json"
_MOST_REMOVED: Final = 100
_SEED_LENGTH: Final = 58


class ClusterKeys:
    """The keys, and the rules by which they change. Who uses them looks them up each time."""

    def __init__(
        self,
        signing: KeyPair,
        issuers: Collection[str] = (),
        *,
        seeds: ClusterSeeds | None = None,
        file: Path | None = None,
        configured: Collection[str] = (),
        removed: Collection[str] = (),
    ) -> None:
        """``configured`` stands for the configuration that this began with. Nothing is stored without ``file``."""
        self.signing = signing
        """Signs this host's calls; the keys of its providers are derived from it."""
        self.accepted = frozenset({signing.public, *issuers})
        """Public keys whose calls are accepted; the signing one is always among them."""
        self.removed = tuple(removed)
        """Keys that were accepted once, the last ones first removed."""
        self._seeds = seeds
        self._file = file
        self._configured = sorted(configured)
        self._held = {signing.public: signing}
        for public in self.accepted:
            self._read_again(public)

    @classmethod
    def open(cls, config: HostConfig, state: StateFolder) -> ClusterKeys:
        """As stored, else as configured, else the key of the user, which is made once. Raises StateError."""
        seeds = ClusterSeeds(config.paths)
        seeds.make_folders()
        own = KeyPair.from_seed(config.cluster_seed, Role.CLUSTER) if config.cluster_seed else None
        configured = sorted({*config.cluster_issuers, *([f"signs {own.public}"] if own else [])})
        file = config.paths.host / FILE
        stored = _Stored.read(file)
        if stored is not None and stored.configured != configured:
            log.warning("cluster.configuration_changed", hint="it replaces the cluster keys changed by command")
            stored = None
        if stored is None:
            return cls(
                own or state.cluster_key(), config.cluster_issuers, seeds=seeds, file=file, configured=configured
            )
        signing = own if own and own.public == stored.signing else seeds.find(stored.signing)
        if signing is None:
            raise StateError(
                f"this host signs with cluster key {stored.signing}, whose seed is not in {seeds.where} any more; "
                f"put it back, or delete {file} to begin with the configured keys again"
            )
        keys = cls(signing, stored.accepted, seeds=seeds, file=file, configured=configured, removed=stored.removed)
        if own and own.public in keys.accepted:
            keys._held[own.public] = own
        return keys

    @property
    def held(self) -> tuple[KeyPair, ...]:
        """The accepted keys whose seeds this host holds: it recognises what is derived from them."""
        return tuple(self._held[public] for public in sorted(self._held) if public in self.accepted)

    @property
    def folders(self) -> tuple[str, ...]:
        """Where seed files are looked for."""
        return tuple(map(str, self._seeds.folders)) if self._seeds is not None else ()

    @property
    def files(self) -> dict[str, str]:
        """The public keys whose seed files lie in those folders now, by name."""
        return self._seeds.names() if self._seeds is not None else {}

    def add(self, wanted: str) -> str:
        """Accept the key that a public key or the name of a seed file means, and return the public key.

        Repeating it looks for the seed again. Raises LatticeError.
        """
        public = self._public(wanted)
        self._store(self.signing, self.accepted | {public}, [key for key in self.removed if key != public])
        self._read_again(public)
        return public

    def use(self, wanted: str) -> str:
        """Sign with an accepted key whose seed is here, and return the public key. Raises LatticeError."""
        public = self._public(wanted)
        if public not in self.accepted:
            raise LatticeError(
                f"this host does not accept {public} yet; add it on every host first: "
                f"wasmhost cluster rotate HOST --add {public}",
                code=Code.CONFLICT,
            )
        self._read_again(public)
        key = self._held.get(public)
        if key is None:
            where = self._seeds.where if self._seeds else "its key folder"
            raise LatticeError(
                f"this host does not hold the seed of {public}; carry the file with it into {where} on its machine",
                code=Code.NOT_FOUND,
            )
        self._store(key, self.accepted, self.removed)
        return public

    def remove(self, wanted: str) -> str:
        """Accept a key no longer, from now on, and return the public key. Raises LatticeError."""
        public = self._public(wanted)
        if public == self.signing.public:
            other = "the only one that it accepts" if len(self.accepted) == 1 else "the one that it signs with"
            raise LatticeError(
                f"{public} is {other}; have this host sign with another first: wasmhost cluster rotate HOST --use KEY",
                code=Code.CONFLICT,
            )
        if public not in self.accepted:
            raise LatticeError(f"this host does not accept {public}; see: wasmhost cluster list", code=Code.NOT_FOUND)
        removed = [public, *(key for key in self.removed if key != public)][:_MOST_REMOVED]
        self._store(self.signing, self.accepted - {public}, removed)
        self._held.pop(public, None)
        return public

    def _public(self, wanted: str) -> str:
        if is_key(wanted, Role.CLUSTER):
            return wanted
        if wanted.startswith("S") and len(wanted) == _SEED_LENGTH:
            raise MalformedMessage("that is a seed, which must not cross the network: it has to be replaced now")
        if self._seeds is None:
            raise MalformedMessage(f"{wanted[:60]!r} is not a cluster's public key (C…)")
        return self._seeds.named(wanted).public

    def _read_again(self, public: str) -> None:
        key = self._seeds.find(public) if self._seeds is not None and public not in self._held else None
        if key is not None:
            self._held[public] = key

    def _store(self, signing: KeyPair, accepted: frozenset[str], removed: Collection[str]) -> None:
        if self._file is not None:
            stored = _Stored(signing.public, sorted(accepted), list(removed), self._configured)
            try:
                replace_file(self._file, stored.encode())
            except OSError as error:
                reason = error.strerror or str(error)
                raise StateError(f"nothing was changed: {self._file} cannot be written: {reason}") from error
        self.signing, self.accepted, self.removed = signing, accepted, tuple(removed)


class _Stored:
    """What ``cluster.json`` holds."""

    def __init__(self, signing: str, accepted: list[str], removed: list[str], configured: list[str]) -> None:
        self.signing = signing
        self.accepted = accepted
        self.removed = removed
        self.configured = configured

    def encode(self) -> bytes:
        return json.dumps(vars(self), indent=1).encode() + b"\n"

    @classmethod
    def read(cls, file: Path) -> _Stored | None:
        """None when there is no file. Raises StateError for one that is broken: guessing could accept a removed key."""
        try:
            fields = Document.parse("cluster keys", read_private(file))
            stored = cls(
                fields.required_text("signing"),
                list(fields.texts("accepted")),
                list(fields.texts("removed")),
                list(fields.texts("configured")),
            )
            keys = (stored.signing, *stored.accepted, *stored.removed)
            if not all(is_key(key, Role.CLUSTER) for key in keys):
                raise MalformedMessage("cluster keys: not all are public keys of clusters")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{file} cannot be read: {error.strerror}; check its owner and permissions") from error
        except MalformedMessage as error:
            raise StateError(
                f"{file} cannot be used: {error}; restore it, or delete it to begin with the configured keys again"
            ) from error
        return stored
