"""What hosts tell somebody who watches: reading and writing it in both encodings."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.encoding import Encoding
from lattice.errors import MalformedMessage
from lattice.keys import KeyPair, Role
from lattice.observation import (
    LONGEST_LEASE,
    MOST_LINES,
    CallPart,
    EventsRequest,
    LogLine,
    LogLines,
    MirroredCall,
    ObserveRequest,
)
from tests.support.strategies import entities, json_values, msgpack_values, text_maps, texts

NO_TIMES = [253_370_764_800_000_001, 2**64 - 1]
ACTOR = KeyPair.from_raw(Role.MODULE, bytes([3]) * 32).public
times = st.integers(0, 2**53)
log_lines = st.builds(LogLine, time_us=times, source=texts, level=texts, text=texts, fields=text_maps)
calls = st.builds(
    MirroredCall,
    part=st.sampled_from(CallPart),
    host_id=texts.filter(bool),
    host_name=texts,
    time_us=times,
    call=texts,
    invocation_id=texts,
    route=texts,
    origin=entities,
    target=entities,
    operation=texts,
    msg=st.binary(max_size=50),
    size=times,
    error=st.none() | texts,
    code=texts,
    dropped=times,
)
NAMES = (
    *("key", "lease_ms", "lines", "age_ms", "host_id", "host_name", "time_us", "source", "level", "text", "fields"),
    *("part", "call", "origin", "target", "operation", "msg", "size", "error", "dropped", "more", "live"),
)


@given(calls, st.sampled_from(Encoding))
def test_a_mirrored_call_comes_back(call: MirroredCall, encoding: Encoding) -> None:
    assert MirroredCall.from_dict(encoding.decode(call.encode(encoding))) == call


@given(st.lists(log_lines, max_size=3).map(tuple), st.booleans(), st.sampled_from(Encoding))
def test_log_lines_come_back(lines: tuple[LogLine, ...], more: bool, encoding: Encoding) -> None:
    told = LogLines(host_id="N", host_name="n", lines=lines, more=more)
    assert LogLines.from_dict(encoding.decode(encoding.encode(told.to_dict()))) == told


def test_requests_come_back_within_their_bounds() -> None:
    asked = ObserveRequest(key=ACTOR, lease=7.5, lines=3)
    assert ObserveRequest.from_dict(asked.to_dict()) == asked
    assert EventsRequest.from_dict(EventsRequest(age=60).to_dict()) == EventsRequest(age=60)
    greedy = ObserveRequest.from_dict({"key": ACTOR, "lease_ms": 10**12, "lines": 10**12})
    assert (greedy.lease, greedy.lines) == (LONGEST_LEASE, MOST_LINES)


@pytest.mark.parametrize("key", ["", "M", "N" + ACTOR[1:], ACTOR.lower(), ACTOR[:-1] + "A", "*", ">"])
def test_only_keys_of_actors_and_providers_can_be_watched(key: str) -> None:
    with pytest.raises(MalformedMessage):
        ObserveRequest.from_dict({"key": key})


@given(json_values(NAMES) | msgpack_values(NAMES))
def test_any_value_is_malformed_and_nothing_worse(value: Any) -> None:
    for read in (ObserveRequest.from_dict, EventsRequest.from_dict, LogLines.from_dict, MirroredCall.from_dict):
        with suppress(MalformedMessage):
            read(value)


@pytest.mark.parametrize("moment", NO_TIMES)
def test_a_time_that_nobody_could_show_is_malformed(moment: int) -> None:
    call = {"part": "request", "host_id": "N1", "time_us": moment}
    with pytest.raises(MalformedMessage, match="mirrored call: time_us is no time"):
        MirroredCall.from_dict(call)
    with pytest.raises(MalformedMessage, match="time_us is no time"):
        LogLines.from_dict({"host_id": "N1", "lines": [{"time_us": moment}]})
