"""One of a host's connections to NATS: where to, as whom, and with which inbox."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from lattice.connectoptions import DEFAULT_INBOX_PREFIX, ConnectOptions
from lattice.login import SYSTEM_TLS, TlsFiles
from wasmhost.configuration.readers import PROVIDER
from wasmhost.configuration.settings import Resolved

DEFAULT_NATS_URL: Final = "nats://127.0.0.1:4222"


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsEndpoint:
    """Where and as whom to connect to NATS."""

    url: str = DEFAULT_NATS_URL
    jwt: str = field(default="", repr=False)
    """User JWT; empty for an anonymous connection."""
    seed: str = field(default="", repr=False)
    """Seed that signs the server's nonce, ``SU…``, without ``jwt`` as a static nkey; empty for an anonymous one."""
    credentials: str = ""
    """Path of a credentials file; goes before ``jwt`` and ``seed``."""
    tls: TlsFiles = SYSTEM_TLS
    inbox_prefix: str = DEFAULT_INBOX_PREFIX
    signing_key: str = ""
    """Path of the seed with which the host makes its providers' users, into the files that ``credentials`` names."""
    account: str = ""
    """The account, ``A…``, that those users belong to."""

    def options(self, name: str, *, allow_anonymous: bool) -> ConnectOptions:
        """How to connect; ``name`` is shown in the server's monitoring."""
        return ConnectOptions(
            url=self.url,
            name=name,
            user_jwt=self.jwt,
            seed=self.seed,
            credentials=self.credentials,
            tls=self.tls,
            inbox_prefix=self.inbox_prefix,
            allow_anonymous=allow_anonymous,
        )

    def of_provider(self, key: str) -> NatsEndpoint:
        """The one of a single provider, whose key replaces ``{provider}``."""
        return replace(
            self,
            credentials=self.credentials.replace(PROVIDER, key),
            inbox_prefix=self.inbox_prefix.replace(PROVIDER, key),
            tls=replace(
                self.tls,
                certificate=self.tls.certificate.replace(PROVIDER, key),
                key=self.tls.key.replace(PROVIDER, key),
            ),
        )

    @property
    def names_provider(self) -> bool:
        """Whether it differs from provider to provider."""
        return self.of_provider("") != self

    def settings(self, kind: str) -> dict[str, str]:
        """As a file of settings would hold it."""
        tls = self.tls
        minting = {f"{kind}_signing_key": self.signing_key, f"{kind}_account": self.account} if self.account else {}
        return minting | {
            f"{kind}_host": self.url,
            f"{kind}_jwt": self.jwt,
            f"{kind}_seed": self.seed,
            f"{kind}_creds": self.credentials,
            f"{kind}_tls_ca": tls.ca,
            f"{kind}_tls_cert": tls.certificate,
            f"{kind}_tls_key": tls.key,
            f"{kind}_tls_name": tls.name,
            f"{kind}_inbox_prefix": self.inbox_prefix,
        }


def endpoint(r: Resolved, kind: str) -> NatsEndpoint:
    """One connection: the specific setting wins over the general one unless the general one was given more closely."""
    jwt, seed, credentials = _login(r, kind)

    def text(name: str) -> str:
        return r.text(r.closest(f"{kind}_{name}", f"nats_{name}"))

    return NatsEndpoint(
        url=_url(r, kind),
        jwt=jwt,
        seed=seed,
        credentials=credentials,
        tls=TlsFiles(ca=text("tls_ca"), certificate=text("tls_cert"), key=text("tls_key"), name=text("tls_name")),
        inbox_prefix=text("inbox_prefix") or DEFAULT_INBOX_PREFIX,
    )


def _login(r: Resolved, kind: str) -> tuple[str, str, str]:
    """Token, seed and credentials file; a file and a seed exclude each other, the nearer one wins."""
    nearest = r.closest(f"{kind}_creds", f"{kind}_seed", "nats_creds", "nats_seed")
    if nearest.endswith("_creds"):
        return "", "", r.text(nearest)
    return r.text(r.closest(f"{kind}_jwt", "nats_jwt")), r.text(nearest), ""


def _url(r: Resolved, kind: str) -> str:
    nearest = r.closest(f"{kind}_host", f"{kind}_port", "nats_url", "nats_host", "nats_port")
    if nearest == "nats_url":
        address = r.text("nats_url")
    else:
        prefix = kind if nearest.startswith(kind) else "nats"
        host = r.text(f"{prefix}_host") or r.text("nats_host", "127.0.0.1")
        port = int(r.number(f"{prefix}_port", 0) or r.number("nats_port", 4222))
        address = host if "://" in host else f"{'tls' if r.flag(f'{kind}_tls') else 'nats'}://{_bracketed(host)}:{port}"
    return address if "://" in address else f"nats://{address}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
