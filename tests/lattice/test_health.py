"""What a provider says of itself: what our providers write is what our hosts read, and classic ones as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import wire
from lattice.errors import MalformedMessage
from lattice.health import Condition, HealthQuestion, HealthReply, LinkStatus

statuses = st.builds(LinkStatus, st.sampled_from(Condition), st.text(max_size=20))
replies = st.builds(
    HealthReply,
    healthy=st.booleans(),
    message=st.text(max_size=20),
    state=st.sampled_from(Condition).map(str),
    instance_id=st.text(max_size=20),
    links=st.dictionaries(st.text(max_size=10), statuses, max_size=3),
    issuer=st.text(max_size=20),
    cluster_issuers=st.lists(st.text(max_size=10), max_size=2).map(tuple),
)


@given(replies, statuses, st.text(max_size=40))
def test_decode_reverses_encode(reply: HealthReply, status: LinkStatus, instance: str) -> None:
    assert HealthReply.decode(reply.encode()) == reply
    assert LinkStatus.decode(status.encode()) == status
    assert HealthQuestion.decode(HealthQuestion(instance).encode()).instance_id == instance


@given(st.binary(max_size=40))
def test_whatever_is_asked_is_a_question_to_anybody_unless_it_names_a_process(question: bytes) -> None:
    assert isinstance(HealthQuestion.decode(question).instance_id, str)
    assert HealthQuestion.decode(b"") == HealthQuestion.decode(b"\xc1") == HealthQuestion()


def test_a_classic_reply_says_nothing_of_links() -> None:
    reply = HealthReply.decode(wire.pack({"healthy": False, "message": "no server"}))
    assert (reply.links, reply.instance_id, reply.failure) == (None, "", "no server")
    assert not HealthReply.decode(wire.pack({"healthy": True})).failure
    with pytest.raises(MalformedMessage, match="links is an array"):
        HealthReply.decode(wire.pack({"healthy": True, "links": []}))
