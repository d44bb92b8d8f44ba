"""Who a host is: its own key, the cluster key that signs its invocations, and whose invocations it accepts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lattice.keys import KeyPair
from wasmhost.configuration.config import HostConfig
from wasmhost.keys.cluster_keys import ClusterKeys
from wasmhost.state import StateFolder


@dataclass(frozen=True, slots=True)
class Identity:
    """The keys of one running host."""

    host: KeyPair
    cluster_keys: ClusterKeys
    """The keys that sign its invocations, and whose invocations it accepts; they change while it runs."""
    friendly_name: str

    @property
    def cluster(self) -> KeyPair:
        """The cluster key that signs now."""
        return self.cluster_keys.signing

    @property
    def issuers(self) -> frozenset[str]:
        """Cluster keys whose invocations are accepted now; always holds the own one."""
        return self.cluster_keys.accepted

    @property
    def host_id(self) -> str:
        """The host's public key, ``N…``."""
        return self.host.public

    @classmethod
    def open(cls, config: HostConfig, state: StateFolder) -> Identity:
        """Keys from the configuration, else from the state folder, where they are made once. Raises StateError."""
        host = KeyPair.from_seed(config.host_seed) if config.host_seed else state.host_key()
        return cls(
            host=host,
            cluster_keys=ClusterKeys.open(config, state),
            friendly_name=config.name or friendly_name(host.public),
        )


_ADJECTIVES = (
    "amber autumn bold brave bright broad calm clear cool crisp dawn deep eager early fair fresh gentle golden grand "
    "green hidden keen kind light little lively lucky mellow mild misty nimble noble patient plain polite proud quick "
    "quiet rapid silent silver sleepy small snowy solid steady still sunny swift tidy warm wild wise young"
)
_NOUNS = (
    "acorn badger bay birch brook canyon cedar cliff cloud comet coral creek delta dune elm falcon fern field fjord "
    "forest fox glade harbor hawk hill heron island lake lark leaf maple marsh meadow moon mountain oak ocean otter "
    "pebble pine pond rain reef ridge river robin sea shore sky spring star stone summit swan valley wave willow wind"
)


def friendly_name(public_key: str) -> str:
    """A name of the form ``quiet-river-1234``, the same for the same key, so that a restarted host keeps it."""
    digest = hashlib.sha256(public_key.encode()).digest()
    number = int.from_bytes(digest[2:4]) % 9000 + 1000
    return f"{_word(_ADJECTIVES, digest[0])}-{_word(_NOUNS, digest[1])}-{number}"


def _word(words: str, choice: int) -> str:
    listed = words.split()
    return listed[choice % len(listed)]
