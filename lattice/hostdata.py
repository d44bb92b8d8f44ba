"""What a host writes to the standard input of a provider process: one line of base64 with a JSON document."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lattice.document import Document
from lattice.errors import MalformedMessage
from lattice.links import LinkDefinition
from lattice.login import TlsFiles

_WHAT: Final = "host data"
MAX_LINE: Final = 16 * 1024 * 1024
"""Longest line that is read, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsExtras:
    """What our SDK understands beyond address, token and seed. Classic providers ignore it."""

    credentials: str = ""
    """Path of the credentials file, read again at each reconnect; goes before token and seed."""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_name: str = ""
    """As in :class:`lattice.login.TlsFiles`."""
    inbox_prefix: str = ""
    refuse_anonymous: bool = False
    """Take no server beyond this machine that lets anybody in."""

    @property
    def tls(self) -> TlsFiles:
        return TlsFiles(ca=self.tls_ca, certificate=self.tls_cert, key=self.tls_key, name=self.tls_name)

    def to_json(self) -> dict[str, Any]:
        """Without what is not set."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_document(cls, reader: Document) -> NatsExtras:
        texts = ("credentials", "tls_ca", "tls_cert", "tls_key", "tls_name", "inbox_prefix")
        return cls(**{name: reader.text(name) for name in texts}, refuse_anonymous=reader.flag("refuse_anonymous"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostData:
    """All a provider learns at start. Attributes are named as on the wire; seeds are not in the ``repr``.

    The union of what both generations of classic provider libraries demand is always written.
    """

    host_id: str = ""
    """Public key of the host, ``N…``."""
    lattice_rpc_prefix: str = "default"
    """The lattice."""
    link_name: str = "default"
    lattice_rpc_user_jwt: str = field(default="", repr=False)
    lattice_rpc_user_seed: str = field(default="", repr=False)
    """Credentials for NATS; the provider connects anonymously when both are empty."""
    lattice_rpc_url: str = "nats://127.0.0.1:4222"
    provider_key: str = ""
    """Public key of the provider, ``V…``."""
    invocation_seed: str = field(default="", repr=False)
    """Seed of the cluster-role key that the provider signs its calls with."""
    env_values: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    instance_id: str = ""
    link_definitions: tuple[LinkDefinition, ...] = ()
    """The links that exist for this provider and link name at start."""
    cluster_issuers: tuple[str, ...] = ()
    """Public keys whose signature the provider accepts."""
    config_json: str | None = field(default=None, repr=False)
    """The configuration text of the start command, unread by the host."""
    default_rpc_timeout_ms: int = 2000
    structured_logging: bool = False
    log_level: str | None = None
    """One of error, warn, info, debug, trace, critical."""
    js_domain: str | None = None
    traces_exporter: str | None = None
    exporter_otlp_endpoint: str | None = None
    exit_on_stdin_close: bool = False
    """Ours: the provider ends itself when its standard input closes, so that it never outlives the host. Classic
    hosts close it right after the line."""
    handover_folder: str = ""
    """Ours: the private folder in which processes of one user on one machine hand listening sockets over."""
    predecessor: str = ""
    """Ours: the host whose process of this provider and link name this one is to follow."""

    nats: NatsExtras = NatsExtras()
    """Ours: more about the connection than classic hosts can say."""

    @property
    def rpc_timeout(self) -> float:
        """Seconds that a call of the provider may take by default."""
        return self.default_rpc_timeout_ms / 1000

    def encode(self) -> bytes:
        """The line, newline included."""
        document: dict[str, Any] = {
            "host_id": self.host_id,
            "lattice_rpc_prefix": self.lattice_rpc_prefix,
            "link_name": self.link_name,
            "lattice_rpc_user_jwt": self.lattice_rpc_user_jwt,
            "lattice_rpc_user_seed": self.lattice_rpc_user_seed,
            "lattice_rpc_url": self.lattice_rpc_url,
            "provider_key": self.provider_key,
            "invocation_seed": self.invocation_seed,
            "env_values": dict(self.env_values),
            "instance_id": self.instance_id,
            "link_definitions": [link.to_json() for link in self.link_definitions],
            "cluster_issuers": list(self.cluster_issuers),
            "default_rpc_timeout_ms": self.default_rpc_timeout_ms,
            "structured_logging": self.structured_logging,
            # the later Rust library fails without it, the earlier one ignores it
            "otel_config": {
                "traces_exporter": self.traces_exporter,
                "exporter_otlp_endpoint": self.exporter_otlp_endpoint,
            },
        }
        if self.config_json is not None:
            document["config_json"] = self.config_json
        if self.log_level is not None:
            document["log_level"] = self.log_level
        if self.js_domain is not None:
            document["js_domain"] = self.js_domain
        if self.exit_on_stdin_close:
            document["exit_on_stdin_close"] = True
        if extras := self.nats.to_json():
            document["nats"] = extras
        if self.handover_folder:
            document["handover_folder"] = self.handover_folder
        if self.predecessor:
            document["predecessor"] = self.predecessor
        return base64.b64encode(json.dumps(document, separators=(",", ":")).encode()) + b"\n"

    @classmethod
    def decode(cls, line: bytes | str) -> HostData:
        """Read one line; MalformedMessage and nothing else, and never a text that holds the data itself."""
        if len(line) > MAX_LINE:
            raise MalformedMessage(f"{_WHAT}: the line is larger than {MAX_LINE} bytes")
        raw = line.encode(errors="replace") if isinstance(line, str) else line
        try:
            document = json.loads(base64.b64decode(raw.strip(), validate=True))
        except (binascii.Error, ValueError, RecursionError):
            # not chained: the original error quotes the document, seeds included
            raise MalformedMessage(f"{_WHAT}: not one line of base64 with a JSON document") from None
        reader = Document(_WHAT, document)
        telemetry = reader.document("otel_config")
        return cls(
            host_id=reader.text("host_id"),
            lattice_rpc_prefix=reader.text("lattice_rpc_prefix") or "default",
            link_name=reader.text("link_name") or "default",
            lattice_rpc_user_jwt=reader.text("lattice_rpc_user_jwt"),
            lattice_rpc_user_seed=reader.text("lattice_rpc_user_seed"),
            lattice_rpc_url=_url(reader.text("lattice_rpc_url")),
            provider_key=reader.text("provider_key"),
            invocation_seed=reader.text("invocation_seed"),
            env_values=reader.mapping("env_values"),
            instance_id=reader.text("instance_id"),
            link_definitions=tuple(
                LinkDefinition.from_json(link, f"{_WHAT}: link_definitions[{index}]")
                for index, link in enumerate(reader.items("link_definitions"))
            ),
            cluster_issuers=reader.texts("cluster_issuers"),
            config_json=reader.optional_text("config_json"),
            default_rpc_timeout_ms=reader.count("default_rpc_timeout_ms", 2000),
            structured_logging=reader.flag("structured_logging"),
            log_level=reader.optional_text("log_level"),
            js_domain=reader.optional_text("js_domain"),
            traces_exporter=telemetry.optional_text("traces_exporter"),
            exporter_otlp_endpoint=telemetry.optional_text("exporter_otlp_endpoint"),
            exit_on_stdin_close=reader.flag("exit_on_stdin_close"),
            nats=NatsExtras.from_document(reader.document("nats")),
            handover_folder=reader.text("handover_folder"),
            predecessor=reader.text("predecessor"),
        )


def _url(text: str) -> str:
    """Elixir hosts send ``host:port`` without a scheme."""
    if not text:
        return "nats://127.0.0.1:4222"
    return text if "://" in text else f"nats://{text}"
