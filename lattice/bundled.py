"""The capability providers that come with this distribution, and what identifies them in a lattice.

A bundled provider has a fixed public key of its own, one per backend, so that links and manifests name the same
provider on every machine. The private halves were thrown away: the keys identify and never sign. What a provider
process signs with is the issuer key that its host derives for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lattice.claims import ProviderClaims
from lattice.errors import Code, LatticeError

SCHEME: Final = "bundled:"
"""How a reference to a bundled provider begins, as in ``bundled:httpserver``."""

ISSUER: Final = "AAJMBLLKCMS7CHTYLJVWHHVIZQHWJTCSDBTRP2MVYAB3JF5ZZC4DE2TO"
"""Account key named as the issuer in the claims of bundled providers; their code comes with the host, unsigned."""

VENDOR: Final = "wasmhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundledProvider:
    """One provider of this distribution."""

    name: str
    """The part of the reference after ``bundled:``."""
    title: str
    """The name in its claims, for people."""
    public_key: str
    contract_id: str
    version: str
    revision: int
    """Counts up with every version; hosts of the classic lattice compare it."""
    module: str
    """What ``python -m`` runs."""
    backend: str
    """What stands behind it, in one word; empty when it needs nothing."""
    volatile: bool = False
    """What it stores lives in its process, and ends with that."""
    issuer: str = ISSUER
    vendor: str = VENDOR

    @property
    def reference(self) -> str:
        """The canonical reference; a user may have typed an alias, which is echoed as typed."""
        return SCHEME + self.name

    def claims(self) -> ProviderClaims:
        """What metadata and events say about it. There is no token: its code comes with the host."""
        return ProviderClaims(
            subject=self.public_key,
            issuer=self.issuer,
            name=self.title,
            contract_id=self.contract_id,
            vendor=self.vendor,
            revision=self.revision,
            version=self.version,
        )


_HTTPSERVER = BundledProvider(
    name="httpserver",
    title="HTTP server",
    public_key="VC26HTWTN7DXD6YCMFIGRB7LBY3E3W2MDWRHRV42PLXIHVNB5SEKZUBF",
    contract_id="wasmcloud:httpserver",
    version="0.1.0",
    revision=1,
    module="providers.httpserver",
    backend="",
)
_KEYVALUE = BundledProvider(
    name="keyvalue",
    title="Key-value store on JetStream",
    public_key="VCRTLTEMGTOAHLIB4XFKO3HC35PX3GMMDW6LU3FAYVZV4LEBSYBEF6TU",
    contract_id="wasmcloud:keyvalue",
    version="0.1.0",
    revision=1,
    module="providers.keyvalue.jetstream",
    backend="nats",
)
_KEYVALUE_REDIS = BundledProvider(
    name="keyvalue-redis",
    title="Key-value store on Redis",
    public_key="VDNVFJJ3DSQR6UPPXEYEOU2HPYGLOHDKI4GGMFXPDVB5BMQYFZVU46A4",
    contract_id="wasmcloud:keyvalue",
    version="0.1.0",
    revision=1,
    module="providers.keyvalue.redis",
    backend="redis",
)
_KEYVALUE_MEMORY = BundledProvider(
    name="keyvalue-memory",
    title="Key-value store in memory",
    public_key="VCIZSENWBWOQ2OIG6IHYVBWZLRC4Y4U2WNMF7MTKZLQIVQXAZAIXDGXQ",
    contract_id="wasmcloud:keyvalue",
    version="0.1.0",
    revision=1,
    module="providers.keyvalue.memory",
    backend="",
    volatile=True,
)

BUNDLED: Final[Mapping[str, BundledProvider]] = MappingProxyType(
    {provider.name: provider for provider in (_HTTPSERVER, _KEYVALUE, _KEYVALUE_REDIS, _KEYVALUE_MEMORY)}
)
"""By name, without the aliases."""

_ALIASES: Final[Mapping[str, BundledProvider]] = MappingProxyType(
    {"keyvalue-nats": _KEYVALUE, "redis": _KEYVALUE_REDIS}
)


def is_bundled(reference: str) -> bool:
    """True when ``reference`` names a bundled provider, known or not."""
    return reference.startswith(SCHEME)


def find(reference: str) -> BundledProvider:
    """The provider that ``bundled:NAME`` means; raises LatticeError (``not_found``) that lists what there is."""
    name = reference.removeprefix(SCHEME)
    found = BUNDLED.get(name) or _ALIASES.get(name)
    if found is not None:
        return found
    known = [*BUNDLED, *_ALIASES]
    close = difflib.get_close_matches(name, known, n=1)
    hint = (
        f"did you mean {SCHEME}{close[0]}?" if close else f"there are {', '.join(SCHEME + known for known in BUNDLED)}"
    )
    raise LatticeError(f"no bundled provider is called {name!r}; {hint}", code=Code.NOT_FOUND)


def by_key(public_key: str) -> BundledProvider | None:
    """The bundled provider with this public key, if it is one."""
    return next((provider for provider in BUNDLED.values() if provider.public_key == public_key), None)
