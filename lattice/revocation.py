"""A revocation: what was signed and must not run any more, although its claims are sound.

It names a public key (an actor, a provider, or the account that signed them), one revision of a key, or one token by
its id (``jti``). Ours; classic hosts know nothing of the kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Self

from lattice import document
from lattice.claims import ActorClaims, ProviderClaims
from lattice.document import Document
from lattice.errors import MalformedMessage
from lattice.keys import Role, role_of

PREFIX: Final = "revoked."
"""Of its key in the bucket of the hosts."""

_TOKEN_ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
_KINDS = {Role.MODULE: "actor", Role.SERVICE: "provider", Role.ACCOUNT: "account"}
_LONGEST_REASON = 300


def is_token_id(text: str) -> bool:
    """Whether ``text`` can be the id of a token; what has the length of a key or a seed never is."""
    return _TOKEN_ID.fullmatch(text) is not None and len(text) not in (56, 58)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One entry of the list of revocations."""

    id: str
    """A public key (``M…``, ``V…``, ``A…``) or the id of a token."""
    revision: int | None = None
    """Only this revision of that key; None: all of them."""
    reason: str = ""
    at: int = 0
    """When, in seconds since the epoch."""
    lifted: bool = False
    """It was taken back. Kept as an entry, so that a lost one is not mistaken for one that was taken back."""

    @property
    def kind(self) -> str:
        """``actor``, ``provider``, ``account`` or ``token``."""
        role = role_of(self.id)
        return "token" if role is None else _KINDS.get(role, "token")

    @property
    def key(self) -> str:
        """Under which it is stored; two entries with the same one are about the same thing."""
        return f"{PREFIX}{self.id}" if self.revision is None else f"{PREFIX}{self.id}.{self.revision}"

    def check(self) -> Self:
        """Itself. Raises MalformedMessage for what nothing could ever match."""
        role = role_of(self.id)
        if role is not None and role not in _KINDS:
            raise MalformedMessage(
                f"{self.id} is the key of a {role.name.lower()}; what can be revoked are actors (M…), providers (V…), "
                "accounts (A…) and tokens (their id)"
            )
        if role is None and not is_token_id(self.id):
            raise MalformedMessage("that is neither a public key nor the id of a token")
        if self.revision is not None and role not in (Role.MODULE, Role.SERVICE):
            raise MalformedMessage("only actors and providers have revisions")
        if len(self.reason) > _LONGEST_REASON:
            raise MalformedMessage(f"the reason is longer than {_LONGEST_REASON} characters")
        return self

    def covers(self, claims: ActorClaims | ProviderClaims) -> bool:
        """Whether it is in force and about these claims."""
        if self.lifted:
            return False
        if self.revision is not None:
            return self.id == claims.subject and self.revision == claims.revision
        return self.id in (claims.subject, claims.issuer, claims.token_id)

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "revision": self.revision,
            "reason": self.reason,
            "at": self.at,
            "lifted": self.lifted,
        }

    @classmethod
    def from_dict(cls, value: object) -> Self:
        """Raise MalformedMessage, and nothing else."""
        fields = Document("revocation", value)
        return cls(
            id=fields.required_text("id"),
            revision=fields.integer("revision") if fields.raw("revision") is not None else None,
            reason=fields.text("reason"),
            at=fields.count("at"),
            lifted=fields.flag("lifted"),
        ).check()

    def encode(self) -> bytes:
        return document.encode(self.to_dict())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls.from_dict(document.parse("revocation", data))
