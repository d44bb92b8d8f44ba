"""Events: CloudEvents whose members are exactly those that classic consumers read."""

from __future__ import annotations

import json
import re
import uuid
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given

from lattice import cloudevents, events
from lattice.cloudevents import Event
from lattice.errors import MalformedMessage
from lattice.links import LinkDefinition
from tests.support.strategies import json_junk, json_values

CLAIMS = {"name": "Echo", "caps": []}
PROVIDER = {"public_key": "V1", "link_name": "default", "contract_id": "a:b"}
LINK = LinkDefinition(actor_id="M1", provider_id="V1", contract_id="a:b", values={"k": "v"})

BUILT: list[tuple[events.Built, str, set[str]]] = [
    (
        events.host_started(labels={}, friendly_name="x", uptime_seconds=0, version="0.1.0"),
        "host_started",
        {"labels", "friendly_name", "uptime_seconds", "version"},
    ),
    (events.host_stopped(labels={}), "host_stopped", {"labels"}),
    (
        events.host_heartbeat(
            actors={"M1": 2},
            providers=[PROVIDER],
            labels={},
            friendly_name="x",
            version="0.1.0",
            uptime_seconds=30,
            uptime_human="30 seconds",
        ),
        "host_heartbeat",
        {"actors", "providers", "labels", "friendly_name", "version", "uptime_seconds", "uptime_human"},
    ),
    (
        events.actor_started(public_key="M1", image_ref="r", instance_id="i", annotations={}, claims=CLAIMS),
        "actor_started",
        {"public_key", "image_ref", "api_version", "instance_id", "annotations", "claims"},
    ),
    (
        events.actor_stopped(public_key="M1", instance_id="i", annotations={}),
        "actor_stopped",
        {"public_key", "instance_id", "annotations"},
    ),
    (events.actor_start_failed(actor_ref="r", error="e"), "actor_start_failed", {"actor_ref", "error"}),
    (
        events.actors_started(public_key="M1", image_ref="r", annotations={}, host_id="N1", claims=CLAIMS, count=2),
        "actors_started",
        {"public_key", "image_ref", "annotations", "host_id", "claims", "count"},
    ),
    (
        events.actors_start_failed(
            public_key="", image_ref="r", annotations={}, host_id="N1", error="e", code="malformed", problem="unsigned"
        ),
        "actors_start_failed",
        {"public_key", "image_ref", "annotations", "host_id", "error", "code", "problem"},
    ),
    (
        events.actors_stopped(host_id="N1", public_key="M1", image_ref="r", count=2, remaining=0, annotations={}),
        "actors_stopped",
        {"host_id", "public_key", "image_ref", "count", "remaining", "annotations"},
    ),
    (
        events.provider_started(
            **PROVIDER, image_ref="r", instance_id="i", annotations={}, claims=CLAIMS, host_id="N1"
        ),
        "provider_started",
        {*PROVIDER, "image_ref", "instance_id", "annotations", "claims", "host_id"},
    ),
    (
        events.provider_stopped(**PROVIDER, instance_id="i", annotations={}, reason="normal", host_id="N1"),
        "provider_stopped",
        {*PROVIDER, "instance_id", "annotations", "reason", "host_id"},
    ),
    (
        events.provider_start_failed(provider_ref="r", link_name="default", error="e"),
        "provider_start_failed",
        {"provider_ref", "link_name", "error"},
    ),
    (events.health_check_passed(**PROVIDER), "health_check_passed", set(PROVIDER)),
    (events.health_check_status(**PROVIDER), "health_check_status", set(PROVIDER)),
    (events.health_check_failed(**PROVIDER), "health_check_failed", set(PROVIDER)),
    (events.health_check_failed(**PROVIDER, error="in use"), "health_check_failed", {*PROVIDER, "error"}),
    (
        events.linkdef_set(LINK),
        "linkdef_set",
        {"id", "actor_id", "provider_id", "link_name", "contract_id", "values"},
    ),
    (
        events.linkdef_deleted(LINK),
        "linkdef_deleted",
        {"id", "actor_id", "provider_id", "link_name", "contract_id", "values"},
    ),
]


@pytest.mark.parametrize(("built", "name", "members"), BUILT, ids=[name for _, name, _ in BUILT])
def test_each_event_has_its_classic_members(built: events.Built, name: str, members: set[str]) -> None:
    assert built[0] == name
    assert set(built[1]) == members
    decoded = Event.decode(cloudevents.encode(*built[:1], "N1", built[1]))
    assert (decoded.name, decoded.source, decoded.data) == (name, "N1", built[1])


def test_the_envelope_is_a_cloud_event() -> None:
    document: dict[str, Any] = json.loads(cloudevents.encode("actor_started", "N1", {}))
    assert document.pop("specversion") == "1.0"
    assert document.pop("type") == "com.wasmcloud.lattice.actor_started"
    assert document.pop("source") == "N1"
    assert document.pop("datacontenttype") == "application/json"
    assert document.pop("data") == {}
    uuid.UUID(document.pop("id"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", document.pop("time"))
    assert not document


@given(json_values().filter(lambda value: isinstance(value, dict)))
def test_data_come_back(data: dict[str, Any]) -> None:
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert Event.decode(cloudevents.encode("x", "N1", data)).data == data


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"type":"other"}', b'{"type":"com.wasmcloud.lattice.x","data":[]}']
)
def test_what_is_no_lattice_event_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Event.decode(payload)


@given(json_junk("type", "source", "data", "id"))
def test_garbage_is_malformed_and_nothing_worse(payload: bytes) -> None:
    with suppress(MalformedMessage):
        Event.decode(payload)
