"""What a host of ours says about its own defences, for ``wasmhost doctor security``. It holds no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lattice.document import Document

_WHAT = "security report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One of a host's connections to NATS."""

    server: str = ""
    """Without user information."""
    local: bool = False
    """The server is on the machine of the host."""
    encrypted: bool = False
    asks: bool = False
    """The server asks who connects."""
    user: str = ""
    """Public key or name of the user; empty for none."""
    expires: int = 0
    """Unix time at which the user's token ends; 0 for one that does not."""
    inbox: str = ""
    """Prefix of its inboxes; may hold ``{provider}``."""

    @classmethod
    def read(cls, reader: Document) -> Route:
        return cls(
            server=reader.text("server"),
            local=reader.flag("local"),
            encrypted=reader.flag("encrypted"),
            asks=reader.flag("asks"),
            user=reader.text("user"),
            expires=reader.count("expires", 0),
            inbox=reader.text("inbox"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Claims of something that runs, which expire."""

    id: str
    name: str
    expires: int
    """Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityReport:
    """One host."""

    host_id: str
    friendly_name: str = ""
    control: Route = Route()
    rpc: Route = Route()
    providers: Route = Route()
    """As it is configured: the host itself does not use it."""
    provider_keys: str = ""
    """``derived``, or ``cluster``: providers sign with the cluster's own key."""
    trusted: tuple[str, ...] = ()
    """Accounts whose actors and providers may run."""
    development_account: str = ""
    """The one among them whose seed is in the state folder of this host's user."""
    allow_file_load: bool = False
    allow_anonymous_nats: bool = False
    policy: str = ""
    """Subject of the policy service; empty for none."""
    policy_calls: bool = False
    """It is asked about calls."""
    environment: tuple[str, ...] = ()
    """Variables with secrets that the process was started with and still shows."""
    wiped_environment: tuple[str, ...] = ()
    """Those that it has wiped: who started it still has them."""
    exposed: tuple[str, ...] = ()
    """Files and folders with secrets that others than their user may read."""
    endings: tuple[Ending, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: object) -> SecurityReport:
        """Raises MalformedMessage."""
        reader = Document(_WHAT, value)
        return cls(
            host_id=reader.required_text("host_id"),
            friendly_name=reader.text("friendly_name"),
            control=Route.read(reader.document("control")),
            rpc=Route.read(reader.document("rpc")),
            providers=Route.read(reader.document("providers")),
            provider_keys=reader.text("provider_keys"),
            trusted=reader.texts("trusted"),
            development_account=reader.text("development_account"),
            allow_file_load=reader.flag("allow_file_load"),
            allow_anonymous_nats=reader.flag("allow_anonymous_nats"),
            policy=reader.text("policy"),
            policy_calls=reader.flag("policy_calls"),
            environment=reader.texts("environment"),
            wiped_environment=reader.texts("wiped_environment"),
            exposed=reader.texts("exposed"),
            endings=tuple(
                Ending(id=each.text("id"), name=each.text("name"), expires=each.count("expires", 0))
                for each in reader.documents("endings")
            ),
        )

    @property
    def name(self) -> str:
        """For people."""
        return self.friendly_name or self.host_id[:12]

    @property
    def routes(self) -> Mapping[str, Route]:
        return {"control": self.control, "calls": self.rpc, "providers": self.providers}
