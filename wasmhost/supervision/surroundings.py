"""What every provider of a host shares: its connection, its durations, and what the host knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lattice.events import Publish
from lattice.links import LinkDefinition
from lattice.providerkeys import ProviderKeys
from lattice.transport import Transport
from wasmhost.calls.holding import Holding

if TYPE_CHECKING:
    from wasmhost.supervision.provider import SupervisedProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations of supervision, in seconds. The intervals of health checks are those of classic hosts."""

    health_interval: float = 30.0
    watch_interval: float = 5.0
    """The same for our own providers, so that one that hangs is noticed soon; what they say is published in the slow
    rhythm."""
    trouble_interval: float = 1.0
    """Between health checks while something is wrong, so that a recovery shows soon."""
    health_timeout: float = 2.0
    start_timeout: float = 30.0
    """Silence after which a new process is reported as failing to start; it may still come."""
    link_timeout: float = 2.0
    """How long a provider may take to say that a link is ready or failed."""
    shutdown_delay: float = 0.3
    """Between the answer to the shutdown request and SIGTERM."""
    terminate_grace: float = 2.0
    """Between SIGTERM and SIGKILL."""
    backoff: tuple[float, float] = (0.5, 30.0)
    stable_after: float = 60.0
    """A process that lived this long starts again with the shortest pause."""
    stalled_after: float = 4.0
    """Silence of a process, while this host itself is connected, after which calls to it fail without being tried."""
    hung_after: float = 15.0
    """The same, after which it is restarted."""
    classic_hung_after: float = 90.0
    """The same for a classic provider, which may do one thing at a time; three of the classic intervals."""
    classic_start: float = 10.0
    """Life of a classic provider that never answered, after which it counts as one that never will."""


class CheckLogin(Protocol):
    async def __call__(self, key: str, /, *, ours: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every provider of a host shares."""

    transport: Transport
    lattice: str
    host_id: str
    publish: Publish
    links_of: Callable[[str, str], Sequence[LinkDefinition]]
    """The current links of a provider key and link name."""
    host_data: Callable[[SupervisedProvider], bytes]
    """The line for its standard input, made anew for each start."""
    check_login: CheckLogin
    """Raises LatticeError where NATS would not admit the provider with this key."""
    keys_of: Callable[[str, str], ProviderKeys]
    """What a provider key and link name signs with, and whom it believes, as things stand now."""
    permits: Callable[[str, str, str], bool]
    """Whether calls are let in that this issuer signed for this provider key and link name."""
    environment: Callable[[SupervisedProvider, Path], Mapping[str, str]]
    """The variables of a process whose work folder is the path."""
    folder: Path
    """Where providers get their private work folders."""
    holding: Holding
    """The calls of this host's actors to providers."""
    timing: Timing = field(default_factory=Timing)
