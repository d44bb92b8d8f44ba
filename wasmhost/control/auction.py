"""Does this host bid for an actor or a provider? A pure decision; silence is the answer of a host that does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lattice.document import Document
from lattice.errors import MalformedMessage
from lattice.subjects import DEFAULT_LINK_NAME


def bid(
    kind: str, body: Any, *, host_id: str, labels: Mapping[str, str], runs: Callable[[str, str], bool]
) -> dict[str, Any] | None:
    """The answer to ``auction.actor`` or ``auction.provider``, or None.

    Every constraint must equal the host's label of that name. For a provider that runs here already, which
    ``runs(reference, link name)`` tells, the host keeps silent. Raises MalformedMessage.
    """
    if kind not in ("actor", "provider"):
        raise MalformedMessage(f"auction of {kind[:40]!r} is not one for an actor or a provider")
    fields = Document(f"Invalid JSON request for {kind} auction", body)
    asked = {f"{kind}_ref": fields.required_text(f"{kind}_ref")}
    if kind == "provider":
        asked["link_name"] = fields.text("link_name") or DEFAULT_LINK_NAME
    constraints = fields.mapping("constraints")
    if any(labels.get(name) != value for name, value in constraints.items()):
        return None
    if kind == "provider" and runs(asked["provider_ref"], asked["link_name"]):
        return None
    return {**asked, "constraints": constraints, "host_id": host_id}
