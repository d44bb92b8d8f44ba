"""Link definitions: which provider an actor reaches through a contract and a link name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

from lattice import subjects, wire
from lattice.document import Document
from lattice.errors import MalformedMessage
from lattice.keys import Role, require_key, role_of

MOST_VALUES = 128 * 1024
"""Characters in the names and values of one link's settings: all links of a lattice are told in one message."""

MEANT: Final = "Wasmhost-Instance"
"""The header of a put that names the one process whose answer is wanted. Every process of a provider in the lattice
hears a put and takes the link; what one says is not how another, on another machine, fared."""

LinkKey = tuple[str, str, str]
"""(actor, contract, link name): at most one provider per key."""


def link_id(actor_id: str, contract_id: str, link_name: str) -> str:
    """Upper-case hex SHA-256 of the three, without separators: the ``LINKDEF_`` key of the metadata bucket."""
    return sha256(f"{actor_id}{contract_id}{link_name}".encode()).hexdigest().upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkDefinition:
    """One link. ``values`` are settings that the provider reads; they may hold secrets and are not in the ``repr``."""

    actor_id: str
    provider_id: str
    link_name: str = subjects.DEFAULT_LINK_NAME
    contract_id: str
    values: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)

    @property
    def key(self) -> LinkKey:
        return (self.actor_id, self.contract_id, self.link_name)

    @property
    def id(self) -> str:
        return link_id(self.actor_id, self.contract_id, self.link_name)

    def check(self) -> LinkDefinition:
        """Itself if it can be put into a lattice; MalformedMessage otherwise.

        The target is a provider or, for components, another actor.
        """
        require_key(self.actor_id, Role.MODULE, "actor")
        if role_of(self.provider_id) is not Role.MODULE:
            require_key(self.provider_id, Role.SERVICE, "provider")
        subjects.validate_contract(self.contract_id)
        subjects.validate_link_name(self.link_name)
        return self

    def check_size(self) -> LinkDefinition:
        """Itself if its values may be put; MalformedMessage otherwise. What others have put is not asked."""
        size = sum(len(name) + len(value) for name, value in self.values.items())
        if size > MOST_VALUES:
            raise MalformedMessage(f"link definition: values hold {size} characters, at most {MOST_VALUES}")
        return self

    def encode(self) -> bytes:
        """The msgpack map that providers are sent."""
        return wire.pack(
            {
                "actor_id": self.actor_id,
                "provider_id": self.provider_id,
                "link_name": self.link_name,
                "contract_id": self.contract_id,
                "values": dict(self.values),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> LinkDefinition:
        """Read the msgpack form; MalformedMessage and nothing else. Absent members are empty, as in a removal."""
        fields = wire.Fields.unpack("link definition", data)
        return cls(
            actor_id=fields.text("actor_id"),
            provider_id=fields.text("provider_id"),
            link_name=fields.text("link_name"),
            contract_id=fields.text("contract_id"),
            values=fields.mapping("values"),
        )

    def to_json(self) -> dict[str, Any]:
        """The document of the metadata bucket, of control replies and of events (with ``id``)."""
        return {
            "id": self.id,
            "actor_id": self.actor_id,
            "provider_id": self.provider_id,
            "link_name": self.link_name,
            "contract_id": self.contract_id,
            "values": dict(self.values),
        }

    @classmethod
    def from_json(cls, value: object, what: str = "link definition") -> LinkDefinition:
        """Read the JSON form (already parsed); MalformedMessage and nothing else.

        ``values`` and ``provider_id`` may be absent or null, as removals lack them; see :meth:`check` for puts.
        """
        document = Document(what, value)
        return cls(
            actor_id=document.text("actor_id"),
            provider_id=document.text("provider_id"),
            link_name=document.text("link_name", subjects.DEFAULT_LINK_NAME),
            contract_id=document.text("contract_id"),
            values=document.mapping("values"),
        )


class LinkTable:
    """An immutable snapshot of all links; a change makes a new table, so that readers never see half of one."""

    __slots__ = ("_links",)

    def __init__(self, links: Iterable[LinkDefinition] = ()) -> None:
        self._links: Mapping[LinkKey, LinkDefinition] = MappingProxyType({link.key: link for link in links})

    def resolve(self, actor: str, contract: str, link_name: str) -> LinkDefinition | None:
        return self._links.get((actor, contract, link_name))

    def get(self, key: LinkKey) -> LinkDefinition | None:
        return self._links.get(key)

    def with_link(self, link: LinkDefinition) -> LinkTable:
        """A table in which ``link`` replaces what had its key."""
        return self._replaced({**self._links, link.key: link})

    def without(self, key: LinkKey) -> LinkTable:
        """A table without that key; itself when there is none."""
        if key not in self._links:
            return self
        return self._replaced({other: link for other, link in self._links.items() if other != key})

    @classmethod
    def _replaced(cls, links: dict[LinkKey, LinkDefinition]) -> LinkTable:
        table = cls.__new__(cls)
        table._links = MappingProxyType(links)
        return table

    def for_provider(self, provider_id: str, link_name: str) -> list[LinkDefinition]:
        """The links that one provider process serves, in the order they were put."""
        return [link for link in self if link.provider_id == provider_id and link.link_name == link_name]

    def for_actor(self, actor_id: str) -> list[LinkDefinition]:
        return [link for link in self if link.actor_id == actor_id]

    def __iter__(self) -> Iterator[LinkDefinition]:
        return iter(self._links.values())

    def __len__(self) -> int:
        return len(self._links)

    def __contains__(self, key: object) -> bool:
        return key in self._links

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LinkTable) and self._links == other._links

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<LinkTable of {len(self)}>"
