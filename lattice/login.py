"""As whom a process connects to NATS: user tokens and seeds, credentials files, TLS files.

Files are read when they are needed, at each new connection, so that a renewed one is taken without a restart.
Source of the file format: what ``nsc`` and ``nats`` write and every NATS client reads.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lattice import jwt
from lattice.errors import Code, LatticeError, MalformedMessage, NotAuthorized
from lattice.keys import KeyPair, Role

_LONGEST: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user of a NATS server, ready to sign; empty where the connection is anonymous or the address names a user."""

    jwt: str = field(default="", repr=False)
    """User token, in operator mode."""
    seed: str = field(default="", repr=False)
    """``SU…``; without a token it is that of a static nkey user."""

    def key(self) -> KeyPair | None:
        """The key that signs the server's nonce. Raises NotAuthorized, whose text holds nothing of the seed."""
        if not self.seed:
            return None
        try:
            return KeyPair.from_seed(self.seed, Role.USER)
        except MalformedMessage:
            raise NotAuthorized("the NATS user seed is none: it must begin with SU (value hidden)") from None

    @property
    def user(self) -> str:
        """Public key of the user, ``U…``; empty for none. Raises NotAuthorized."""
        key = self.key()
        return key.public if key is not None else ""

    @property
    def expires(self) -> int | None:
        """Unix time at which the token ends; None for one that does not, and without a token that can be read."""
        moment = _body(self.jwt).get("exp") if self.jwt else None
        return moment if isinstance(moment, int) and moment > 0 else None


def _body(token: str) -> dict[str, Any]:
    """What a token says, unverified: for messages only, the server decides."""
    try:
        body = json.loads(jwt.decode_segment("user token", token.split(".")[1].encode()))
    except (MalformedMessage, ValueError, IndexError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def read_credentials(path: Path) -> Login:
    """The user of a credentials file: token and seed, each below a ``-----BEGIN`` line. Or that of a seed alone.

    Raises OSError, and ValueError whose text quotes nothing of the file.
    """
    with path.open("rb") as file:
        content = file.read(_LONGEST + 1)
    if len(content) > _LONGEST:
        raise ValueError(f"it is larger than {_LONGEST} bytes")
    text = content.decode("ascii", "replace").strip()
    if text.startswith("SU") and len(text.split()) == 1:
        return Login(seed=text)
    found: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("-----BEGIN"):
            found.append(next(lines, "").strip())
    if len(found) != 2 or not all(found):
        raise ValueError("it needs a user token and a seed, or a seed alone")
    return Login(jwt=found[0], seed=found[1])


def load_credentials(path: str) -> Login:
    """As :func:`read_credentials`; raises LatticeError with code INVALID."""
    try:
        return read_credentials(Path(path).expanduser())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LatticeError(
            f"{path}: {reason}; it should be the credentials file of a NATS user", code=Code.INVALID
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What a client needs for TLS beyond what the system trusts. Paths of PEM files; empty texts say nothing."""

    ca: str = ""
    """The authorities to trust instead of the system's."""
    certificate: str = ""
    """The client's certificate chain, for servers that verify their clients."""
    key: str = ""
    """Its private key, without a passphrase; empty where it is in the file of the certificate."""
    name: str = ""
    """The name that the server's certificate must have, where that is not the host of the address."""

    def __bool__(self) -> bool:
        return bool(self.ca or self.certificate or self.key or self.name)

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or newer, the server's name checked. Blocks. Raises LatticeError with code INVALID."""
        if self.key and not self.certificate:
            raise LatticeError(f"{self.key}: a TLS key without its certificate; name both", code=Code.INVALID)
        for path, what in ((self.ca, "certificates to trust"), (self.certificate, "the client certificate")):
            if path and not Path(path).is_file():
                raise LatticeError(f"{path}: no such file; it should hold {what}", code=Code.INVALID)
        if self.key and not Path(self.key).is_file():
            raise LatticeError(f"{self.key}: no such file; it should hold the client's key", code=Code.INVALID)
        try:
            made = ssl.create_default_context(cafile=self.ca or None)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise LatticeError(
                f"{self.ca}: {_reason(error)}; it should hold certificates to trust, as PEM", code=Code.INVALID
            ) from error
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate:
            self._load_certificate(made)
        return made

    def _load_certificate(self, into: ssl.SSLContext) -> None:
        asked = False

        def no_passphrase() -> str:
            # Without a callback OpenSSL asks for it on the terminal.
            nonlocal asked
            asked = True
            return ""

        holder = self.key or self.certificate
        try:
            into.load_cert_chain(self.certificate, self.key or None, password=no_passphrase)
        except (ssl.SSLError, OSError, ValueError) as error:
            if asked:
                reason = f"{holder} is protected by a passphrase; store the key without one"
            elif isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
                reason = f"{holder} does not hold the key of the certificate {self.certificate}; name the pair"
            else:
                reason = f"{self.certificate} and {holder}: {_reason(error)}; both are PEM files"
            raise LatticeError(f"the TLS client certificate cannot be used: {reason}", code=Code.INVALID) from error


SYSTEM_TLS: Final = TlsFiles()
"""Nothing but what the system trusts."""


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
