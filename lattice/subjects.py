"""Every NATS subject of the lattice, built and parsed here and nowhere else.

A bad token raises MalformedMessage instead of reaching the server: NATS does not refuse a wildcard in a publish, and a
link name with a dot would address somebody else's subject.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from lattice.errors import MalformedMessage

DEFAULT_LATTICE: Final = "default"
DEFAULT_LINK_NAME: Final = "default"
DEFAULT_CONTROL_PREFIX: Final = "wasmbus.ctl"
PROVIDER_QUEUE: Final = "rpc"
"""Queue group of every provider on its own subject. Actors use their full subject as the name of their group."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_CONTRACT = re.compile(r"[A-Za-z0-9_:/.@-]{1,256}")
_PREFIX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_INBOX_PREFIXES = ("_INBOX.", "_INBOX_", "_R_.")
_NO_REPLY_TO = re.compile(r"[*>\s]")


def _token(what: str, value: str) -> str:
    if _TOKEN.fullmatch(value) is None:
        raise MalformedMessage(f"{what} {value[:80]!r} is not made of 1 to 128 letters, digits, '_' and '-'")
    return value


def _tokens(what: str, value: str) -> str:
    return ".".join(_token(what, token) for token in value.split("."))


def validate_lattice(prefix: str) -> str:
    """``prefix`` itself if it can be a lattice name: one subject token."""
    return _token("lattice name", prefix)


def validate_link_name(name: str) -> str:
    """``name`` itself if it can be a link name: one subject token."""
    return _token("link name", name)


def validate_contract(contract: str) -> str:
    """``contract`` itself if it can be a contract id such as ``wasmcloud:keyvalue``."""
    if _CONTRACT.fullmatch(contract) is None:
        raise MalformedMessage(f"contract id {contract[:80]!r} is not like wasmcloud:keyvalue")
    return contract


def is_inbox(reply: str) -> bool:
    """Whether a message that asks for an answer on ``reply`` may get one.

    The server checks the right of a sender to the subject it sends to, not to the reply subject; answering anywhere
    would let a provider without any control permission have us publish on a control subject.
    """
    return reply.startswith(_INBOX_PREFIXES) and _NO_REPLY_TO.search(reply) is None


@lru_cache(maxsize=4096)
def actor_rpc(lattice: str, actor: str) -> str:
    """Subject of an actor's calls, which is also the name of its queue group."""
    return f"wasmbus.rpc.{validate_lattice(lattice)}.{_token('actor key', actor)}"


@lru_cache(maxsize=4096)
def provider_rpc(lattice: str, provider: str, link_name: str) -> str:
    """Subject of a provider's calls."""
    return (
        f"wasmbus.rpc.{validate_lattice(lattice)}.{_token('provider key', provider)}.{_token('link name', link_name)}"
    )


def linkdef_put(lattice: str, provider: str, link_name: str) -> str:
    return provider_rpc(lattice, provider, link_name) + ".linkdefs.put"


def linkdef_del(lattice: str, provider: str, link_name: str) -> str:
    return provider_rpc(lattice, provider, link_name) + ".linkdefs.del"


def health(lattice: str, provider: str, link_name: str) -> str:
    return provider_rpc(lattice, provider, link_name) + ".health"


def shutdown(lattice: str, provider: str, link_name: str) -> str:
    return provider_rpc(lattice, provider, link_name) + ".shutdown"


def events(lattice: str) -> str:
    """The general event subject, which every event is published on."""
    return f"wasmbus.evt.{validate_lattice(lattice)}"


@lru_cache(maxsize=256)
def event(lattice: str, name: str) -> str:
    """The subject of one kind of event; consumers of later generations listen only there."""
    return f"{events(lattice)}.{_token('event name', name)}"


def metadata_bucket(lattice: str) -> str:
    """Name of the JetStream KV bucket with links and claims."""
    return f"LATTICEDATA_{validate_lattice(lattice)}"


def config_bucket(lattice: str) -> str:
    """Name of the JetStream KV bucket with the configuration of actors and providers."""
    return f"CONFIGDATA_{validate_lattice(lattice)}"


def state_bucket(lattice: str) -> str:
    """Name of the JetStream KV bucket, of our own, with what hosts of a lattice agree on (:mod:`wasmhost`)."""
    return f"WASMHOST_{validate_lattice(lattice)}"


def config_service(lattice: str) -> str:
    """Where hosts ask what they should start."""
    return f"wasmbus.cfg.{validate_lattice(lattice)}.req"


def rpc_events(lattice: str) -> str:
    """Where hosts tell of single calls, if they are asked to."""
    return f"wasmbus.rpcevt.{validate_lattice(lattice)}"


@dataclass(frozen=True, slots=True)
class Control:
    """The control subjects of one lattice. Methods named ``…_pattern`` are for subscriptions."""

    lattice: str
    prefix: str = DEFAULT_CONTROL_PREFIX

    def __post_init__(self) -> None:
        validate_lattice(self.lattice)
        if _PREFIX.fullmatch(self.prefix) is None:
            raise MalformedMessage(f"control prefix {self.prefix[:80]!r} is not like {DEFAULT_CONTROL_PREFIX}")

    @property
    def root(self) -> str:
        return f"{self.prefix}.{self.lattice}"

    def ping_hosts(self) -> str:
        return f"{self.root}.ping.hosts"

    def get_cluster(self, host: str) -> str:
        """Ours: the cluster keys of a host."""
        return f"{self.root}.get.{_token('host key', host)}.cluster"

    def get_inventory(self, host: str) -> str:
        return f"{self.root}.get.{_token('host key', host)}.inv"

    def get_security(self, host: str) -> str:
        """Ours: what a host knows of its own defences."""
        return f"{self.root}.get.{_token('host key', host)}.security"

    def get_revoked(self, host: str) -> str:
        """Ours: the revocations that are in force on a host."""
        return f"{self.root}.get.{_token('host key', host)}.revoked"

    def get_host_pattern(self, host: str) -> str:
        """Everything that is asked of one host."""
        return f"{self.root}.get.{_token('host key', host)}.*"

    def get_launch(self, host: str) -> str:
        """Ours: how a provider of this host was started."""
        return f"{self.root}.get.{_token('host key', host)}.launch"

    def get_claims(self) -> str:
        return f"{self.root}.get.claims"

    def get_links(self) -> str:
        return f"{self.root}.get.links"

    def linkdefs_put(self) -> str:
        return f"{self.root}.linkdefs.put"

    def linkdefs_del(self) -> str:
        return f"{self.root}.linkdefs.del"

    def registries_put(self) -> str:
        return f"{self.root}.registries.put"

    def auction_actor(self) -> str:
        return f"{self.root}.auction.actor"

    def auction_provider(self) -> str:
        return f"{self.root}.auction.provider"

    def command(self, host: str, verb: str) -> str:
        """``verb``: la, sa, scale, upd, lp, sp or stop; ours are cordon and uncordon."""
        return f"{self.root}.cmd.{_token('host key', host)}.{_token('command', verb)}"

    def command_pattern(self, host: str) -> str:
        return f"{self.root}.cmd.{_token('host key', host)}.*"

    def get_pattern(self) -> str:
        """``get.claims`` and ``get.links``; in the queue group :meth:`get_queue`."""
        return f"{self.root}.get.*"

    def get_queue(self) -> str:
        return f"{self.root}.get"

    def linkdefs_pattern(self) -> str:
        """``linkdefs.put`` and ``linkdefs.del``; in the queue group :meth:`linkdefs_queue`."""
        return f"{self.root}.linkdefs.*"

    def linkdefs_queue(self) -> str:
        return f"{self.root}.linkdefs"

    def auction_pattern(self) -> str:
        return f"{self.root}.auction.>"

    def labels(self, host: str, verb: str) -> str:
        """``verb``: put or del."""
        return f"{self.root}.labels.{_token('host key', host)}.{_token('verb', verb)}"

    def labels_pattern(self, host: str) -> str:
        return f"{self.root}.labels.{_token('host key', host)}.*"

    def config(self, verb: str, entity: str, key: str = "") -> str:
        """``verb``: put, del or clear; without a key, ``del`` clears, too."""
        subject = f"{self.root}.config.{_token('verb', verb)}.{_token('entity', entity)}"
        return f"{subject}.{_tokens('configuration key', key)}" if key else subject

    def config_pattern(self) -> str:
        """In the queue group :meth:`config_queue`."""
        return f"{self.root}.config.>"

    def config_queue(self) -> str:
        return f"{self.root}.config"

    def get_config(self, entity: str, key: str = "") -> str:
        subject = f"{self.root}.get.config.{_token('entity', entity)}"
        return f"{subject}.{_tokens('configuration key', key)}" if key else subject

    def get_config_pattern(self) -> str:
        """In the queue group :meth:`get_config_queue`."""
        return f"{self.root}.get.config.>"

    def get_config_queue(self) -> str:
        return f"{self.root}.get.config"

    def observe_calls(self) -> str:
        """Ours: asks every host to mirror an actor's calls. No classic host subscribes to anything that matches."""
        return f"{self.root}.wasmhost.spy"

    def observe_logs(self) -> str:
        """Ours: asks every host for the log lines about an actor or provider."""
        return f"{self.root}.wasmhost.logs"

    def observe_events(self) -> str:
        """Ours: asks every host for the events it remembers."""
        return f"{self.root}.wasmhost.events"

    def tokens(self, subject: str) -> tuple[str, ...]:
        """What follows the root of ``subject``, split at the dots: ``("cmd", host, "la")``."""
        root = self.root + "."
        if not subject.startswith(root):
            raise MalformedMessage(f"{subject[:200]!r} is not below {self.root}")
        return tuple(subject[len(root) :].split("."))
