"""What a provider reference means: whose claims it has and which program runs.

Providers that come with this distribution are named ``bundled:NAME``. Provider archives from files and registries
follow; until then they are refused with a sentence that says so.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from lattice import bundled
from lattice.claims import ProviderClaims
from lattice.errors import Code, LatticeError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderImage:
    """A provider that can be started."""

    reference: str
    """As the user typed it; events and inventory echo it unchanged."""
    claims: ProviderClaims
    command: tuple[str, ...]
    ours: bool
    """Built on our SDK: it leaves when its standard input closes, and answers link messages."""

    @property
    def public_key(self) -> str:
        return self.claims.subject

    @property
    def contract_id(self) -> str:
        return self.claims.contract_id

    @property
    def name(self) -> str:
        return self.claims.name


def resolve_provider(reference: str) -> ProviderImage:
    """The image that ``reference`` names; raises LatticeError that says what can be started instead."""
    if not bundled.is_bundled(reference):
        raise LatticeError(
            f"provider reference {reference[:200]!r} is not supported yet: only bundled providers can be started "
            f"({', '.join(bundled.SCHEME + name for name in bundled.BUNDLED)})",
            code=Code.UNSUPPORTED,
        )
    found = bundled.find(reference)
    return ProviderImage(
        reference=reference,
        claims=ProviderClaims(
            subject=found.public_key,
            issuer=found.issuer,
            name=found.title,
            contract_id=found.contract_id,
            vendor=found.vendor,
            revision=found.revision,
            version=found.version,
        ),
        command=(sys.executable, "-P", "-m", found.module),
        ours=True,
    )
