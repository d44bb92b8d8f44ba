"""What a host was told of a policy service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wasmhost.configuration.settings import Resolved, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """A policy service that has to permit what starts here, and who calls it. Durations are seconds."""

    topic: str
    changes_topic: str = ""
    """Where it tells that it has changed its mind; empty: nowhere."""
    timeout: float = 1.0
    """How long it may take to answer; silence is a refusal."""
    lifetime: float = 300.0
    """How long a decision counts before it is asked for again."""
    calls: bool = True
    """Ask about calls, too, as classic hosts do."""
    links: bool = True
    """Ask about links, which classic hosts do not."""


def read_policy(r: Resolved, environ: Mapping[str, str]) -> PolicyConfig | None:
    """The policy service of these settings; None where nobody is asked.

    It is enforced where a subject is named, unless that is switched off in so many words. Raises SettingsError.
    """
    topic, mode = r.text("policy_topic"), r.text("policy_mode")
    if mode == "enforce" and not topic:
        raise SettingsError(
            ("policy_mode: enforce asks a service, and none is named (example: --policy-topic wasmcloud.policy)",)
        )
    if not topic or mode == "off":
        return None
    # classic hosts look for a subject of the lattice alone before the general one
    lattice = r.text("lattice", "default").replace("-", "_")
    changes = environ.get(f"WASMCLOUD_POLICY_CHANGES_TOPIC_{lattice}", "").strip()
    return PolicyConfig(
        topic=topic,
        changes_topic=changes or r.text("policy_changes_topic"),
        timeout=r.number("policy_timeout_ms", 1000) / 1000,
        lifetime=r.number("policy_cache_ms", 300_000) / 1000,
        calls=r.flag("policy_calls") or not r.given("policy_calls"),
        links=r.flag("policy_links") or not r.given("policy_links"),
    )
