"""Subjects: spelled as the classic lattice does, and never with somebody else's token inside."""

from __future__ import annotations

import pytest

from lattice import subjects
from lattice.errors import MalformedMessage
from lattice.subjects import Control
from tests.support.strategies import ACTOR, HOST, PROVIDER

M, V, N = ACTOR.public, PROVIDER.public, HOST.public


def test_calls_and_provider_management_have_their_classic_subjects() -> None:
    assert subjects.actor_rpc("default", M) == f"wasmbus.rpc.default.{M}"
    assert subjects.provider_rpc("default", V, "link") == f"wasmbus.rpc.default.{V}.link"
    assert subjects.linkdef_put("default", V, "link") == f"wasmbus.rpc.default.{V}.link.linkdefs.put"
    assert subjects.linkdef_del("default", V, "link") == f"wasmbus.rpc.default.{V}.link.linkdefs.del"
    assert subjects.health("default", V, "link") == f"wasmbus.rpc.default.{V}.link.health"
    assert subjects.shutdown("default", V, "link") == f"wasmbus.rpc.default.{V}.link.shutdown"
    assert subjects.events("default") == "wasmbus.evt.default"
    assert subjects.event("default", "actor_started") == "wasmbus.evt.default.actor_started"
    assert subjects.metadata_bucket("default") == "LATTICEDATA_default"


def test_control_subjects_and_their_queue_groups_are_the_classic_ones() -> None:
    control = Control("default")
    assert control.ping_hosts() == "wasmbus.ctl.default.ping.hosts"
    assert control.get_inventory(N) == f"wasmbus.ctl.default.get.{N}.inv"
    assert control.get_claims() == "wasmbus.ctl.default.get.claims"
    assert control.get_links() == "wasmbus.ctl.default.get.links"
    assert control.linkdefs_put() == "wasmbus.ctl.default.linkdefs.put"
    assert control.linkdefs_del() == "wasmbus.ctl.default.linkdefs.del"
    assert control.command(N, "la") == f"wasmbus.ctl.default.cmd.{N}.la"
    assert control.command_pattern(N) == f"wasmbus.ctl.default.cmd.{N}.*"
    assert control.registries_put() == "wasmbus.ctl.default.registries.put"
    assert control.auction_actor() == "wasmbus.ctl.default.auction.actor"
    assert control.auction_provider() == "wasmbus.ctl.default.auction.provider"
    assert control.auction_pattern() == "wasmbus.ctl.default.auction.>"
    assert (control.get_pattern(), control.get_queue()) == ("wasmbus.ctl.default.get.*", "wasmbus.ctl.default.get")
    assert control.linkdefs_pattern() == "wasmbus.ctl.default.linkdefs.*"
    assert control.linkdefs_queue() == "wasmbus.ctl.default.linkdefs"


def test_a_control_prefix_of_ones_own_may_have_any_number_of_tokens() -> None:
    control = Control("other", prefix="acme.control.wasm")
    assert control.ping_hosts() == "acme.control.wasm.other.ping.hosts"
    assert control.tokens("acme.control.wasm.other.cmd.N1.la") == ("cmd", "N1", "la")
    with pytest.raises(MalformedMessage):
        control.tokens("wasmbus.ctl.other.ping.hosts")
    for prefix in ("", "a.*", "a..b", "a b", ".a"):
        with pytest.raises(MalformedMessage):
            Control("other", prefix=prefix)


@pytest.mark.parametrize("token", ["", "a.b", "*", ">", "a b", "a\n", "ü", "x" * 129])
def test_a_token_that_would_address_somebody_else_is_refused(token: str) -> None:
    for build in (
        lambda: subjects.actor_rpc(token, M),
        lambda: subjects.actor_rpc("default", token),
        lambda: subjects.provider_rpc("default", V, token),
        lambda: subjects.provider_rpc("default", token, "default"),
        lambda: subjects.event("default", token),
        lambda: subjects.validate_lattice(token),
        lambda: subjects.validate_link_name(token),
        lambda: Control(token),
        lambda: Control("default").get_inventory(token),
        lambda: Control("default").command(N, token),
    ):
        with pytest.raises(MalformedMessage):
            build()


def test_contract_ids_may_hold_colons_and_interface_names() -> None:
    for contract in ("wasmcloud:keyvalue", "wasmcloud:builtin:logging", "wasi:http/types@0.2.0"):
        assert subjects.validate_contract(contract) == contract
    for contract in ("", "a b", "a*", "a>"):
        with pytest.raises(MalformedMessage):
            subjects.validate_contract(contract)


@pytest.mark.parametrize("reply", ["_INBOX.abc.1", "_INBOX_provider.x", "_R_.abc"])
def test_answers_go_to_inboxes(reply: str) -> None:
    assert subjects.is_inbox(reply)


@pytest.mark.parametrize(
    "reply", ["", "wasmbus.ctl.default.linkdefs.put", "_INBOX", "_INBOXES.x", "_INBOX.>", "_INBOX.*", "$SYS.x"]
)
def test_answers_go_nowhere_else(reply: str) -> None:
    """A caller without control permission must not have us publish on a control subject."""
    assert not subjects.is_inbox(reply)
