"""What a host answers on each control subject: facts about itself and the lattice, and acknowledgements.

Knows nothing of messages: a request comes as the tokens of its subject with its body, the answer is a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lattice.control import Ack, ProviderLaunch
from lattice.document import Document
from lattice.errors import Code, LatticeError, MalformedMessage
from lattice.links import LinkDefinition, LinkKey
from lattice.subjects import DEFAULT_LINK_NAME
from wasmhost.control.auction import bid
from wasmhost.control.commands import UNSUPPORTED, Commands
from wasmhost.control.config_store import ConfigStore
from wasmhost.control.events import EventPublisher
from wasmhost.control.inventory import HostFacts
from wasmhost.control.labels import BAD_LABEL
from wasmhost.control.registries import BAD_REGISTRIES, Registries
from wasmhost.keys.security import HostSecurity
from wasmhost.knowledge.metadata import Metadata
from wasmhost.policy.revocations import Revocations
from wasmhost.supervision.linking import Linking
from wasmhost.supervision.supervisor import ProviderSupervisor

BAD_LINK: Final = "Invalid link definition put request"
BAD_REMOVAL: Final = "Invalid link definition removal request"

Tokens = tuple[str, ...]
Answer = Mapping[str, Any] | bytes | None
"""A document, bytes to be sent as they are, or None for silence, which is how a host does not bid."""

_ACCEPTED: Final = Ack(accepted=True).to_dict()


def is_gathered(tokens: Tokens) -> bool:
    """Whether many hosts answer: clients stop gathering at the first answer that is neither bid nor ping."""
    return tokens[0] in ("ping", "auction")


def has_raw_body(tokens: Tokens) -> bool:
    """Whether the body is a value that must not be read: that of a configuration key."""
    return tokens[0] == "config"


def ignores_body(tokens: Tokens) -> bool:
    """Whether the body says nothing: classic clients send none, and some send anything."""
    return tokens[0] in ("ping", "get") and tokens[2:] != ("launch",)


def waits_for_nothing(tokens: Tokens) -> bool:
    """Whether the answer is there at once: questions about this host and about what it knows of the lattice."""
    return tokens[0] in ("ping", "get") and tokens[1:2] != ("config",)


class Answers:
    """Answers for one host."""

    def __init__(
        self,
        *,
        facts: HostFacts,
        providers: ProviderSupervisor,
        metadata: Metadata,
        linking: Linking,
        configuration: ConfigStore,
        registries: Registries,
        revocations: Revocations,
        security: HostSecurity,
        publisher: EventPublisher,
        commands: Commands,
    ) -> None:
        self._facts = facts
        self._providers = providers
        self._metadata = metadata
        self._linking = linking
        self._configuration = configuration
        self._registries = registries
        self._revocations = revocations
        self._security = security
        self._publisher = publisher
        self._commands = commands

    def name_of(self, tokens: Tokens) -> str:
        """What a body that cannot be read at all is called: the words that classic hosts refuse it with."""
        match tokens:
            case ("cmd", _, verb):
                return self._commands.refusal(verb)
            case ("linkdefs", "put"):
                return BAD_LINK
            case ("linkdefs", "del"):
                return BAD_REMOVAL
            case ("registries", "put"):
                return BAD_REGISTRIES
            case ("labels", _, _):
                return BAD_LABEL
        return "control request"

    async def answer(self, tokens: Tokens, body: Any) -> Answer:
        """``body`` is parsed, or bytes where :func:`has_raw_body` says so. Raises LatticeError to refuse."""
        me = self._facts.host_id
        match tokens:
            case ("ping", "hosts"):
                return self._facts.ping().to_dict()
            case ("get", *what):
                return await self._get(tuple(what), body)
            case ("auction", *kind):
                offer = bid(".".join(kind), body, host_id=me, labels=self._facts.labels.all, runs=self._runs)
                return None if self._facts.cordon.closed else offer
            case ("linkdefs", "put"):
                await self._linking.put(_link_to_put(body))
            case ("linkdefs", "del"):
                await self._linking.delete(_link_to_remove(body))
            case ("registries", "put"):
                self._registries.put(body)
            case ("labels", host, "put" | "del" as verb) if host == me:
                if self._facts.labels.change(verb, body):
                    self._publisher.beat_soon()
            case ("config", *what):
                await self._configure(tuple(what), body)
            case ("cmd", host, verb) if host == me:
                await self._commands.begin(verb, body)
            case _:
                raise _unsupported()
        return _ACCEPTED

    def shorter(self, tokens: Tokens) -> Answer:
        """An answer that says the same in less, for one that does not fit into a message; None when there is none."""
        match tokens:
            case ("get", host, "inv") if host == self._facts.host_id:
                return self._facts.inventory(short=True).to_dict()
        return None

    async def _get(self, what: Tokens, body: Any) -> Answer:
        match what:
            case ("links",):
                return {"links": [link.to_json() for link in self._metadata.links]}
            case ("claims",):
                return {"claims": [dict(claims) for claims in self._metadata.claims.values()]}
            case ("config", entity):
                values = await self._configuration.all(entity)
                # nothing at all where there is nothing, as classic hosts answer
                return {key: list(value) for key, value in values.items()} if values else b""
            case ("config", entity, *key):
                value = await self._configuration.get(entity, ".".join(key))
                return {"found": value is not None, "data": list(value or b"")}
            case (host, "inv") if host == self._facts.host_id:
                return self._facts.inventory().to_dict()
            case (host, "launch") if host == self._facts.host_id:
                fields = Document("request for how a provider was started", body)
                sealed = self._providers.sealed_configuration(
                    fields.required_text("provider_id"), fields.text("link_name") or DEFAULT_LINK_NAME
                )
                return ProviderLaunch(sealed_configuration=sealed).to_dict()
            case (host, "revoked") if host == self._facts.host_id:
                return {"revoked": [entry.to_dict() for entry in self._revocations.all()]}
            case (host, "security") if host == self._facts.host_id:
                return (await self._security.report()).to_dict()
            case (host, "cluster") if host == self._facts.host_id:
                return self._facts.cluster().to_dict()
        raise _unsupported()

    async def _configure(self, what: Tokens, body: bytes) -> None:
        match what:
            case ("put", entity, *key) if key:
                await self._configuration.put(entity, ".".join(key), body)
            case ("del", entity, *key) if key:
                await self._configuration.delete(entity, ".".join(key))
            case ("del" | "clear", entity):  # the client says del where its documentation says clear
                await self._configuration.clear(entity)
            case _:
                raise _unsupported()

    def _runs(self, reference: str, link_name: str) -> bool:
        return any((each.image.reference, each.link_name) == (reference, link_name) for each in self._providers)


def _unsupported() -> LatticeError:
    return LatticeError(UNSUPPORTED, code=Code.UNSUPPORTED)


def _link_to_put(body: Any) -> LinkDefinition:
    try:
        return LinkDefinition.from_json(body).check().check_size()
    except MalformedMessage as error:
        raise MalformedMessage(f"{BAD_LINK}: {error}") from error


def _link_to_remove(body: Any) -> LinkKey:
    """Provider and values may be left out, as the Rust clients do with the former and the Go client with both."""
    try:
        Document("link definition", body).required_text("actor_id")
        Document("link definition", body).required_text("contract_id")
        return LinkDefinition.from_json(body).key
    except MalformedMessage as error:
        raise MalformedMessage(f"{BAD_REMOVAL}: {error}") from error
