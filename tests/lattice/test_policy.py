"""The messages between hosts and a policy service, member by member as classic hosts have them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import MalformedMessage
from lattice.policy import Action, Asker, Question, Source, Target, Verdict, encode_outcome

ASKER = Asker(
    public_key="NHOST", issuer="CCLUSTER", lattice="default", labels={"zone": "a"}, cluster_issuers={"CB", "CA"}
)
HOST = {
    "publicKey": "NHOST",
    "issuer": "CCLUSTER",
    "latticeId": "default",
    "labels": {"zone": "a"},
    "clusterIssuers": ["CA", "CB"],
}


def test_a_question_about_a_call_has_the_members_of_the_classic_hosts() -> None:
    source = Source(public_key="MCALLER", capabilities=("wasmcloud:keyvalue",), issuer="AISSUER", issued_at=1700000000)
    question = Question(
        action=Action.PERFORM_INVOCATION, source=source, target=Target(public_key="MCALLED", issuer="AOTHER")
    )
    assert json.loads(question.encode("id-1", ASKER, 1800000000.0)) == {
        "requestId": "id-1",
        "source": {
            "publicKey": "MCALLER",
            "contractId": None,
            "linkName": None,
            "capabilities": ["wasmcloud:keyvalue"],
            "issuer": "AISSUER",
            "issuedOn": "1700000000",
            "expiresAt": None,
            "expired": False,
        },
        "target": {"publicKey": "MCALLED", "issuer": "AOTHER", "contractId": None, "linkName": None},
        "host": HOST,
        "action": "perform_invocation",
    }


def test_a_question_about_a_start_has_the_empty_source_of_the_elixir_hosts() -> None:
    target = Target(public_key="VPROVIDER", issuer="AISSUER", contract_id="a:b", link_name="default")
    asked = json.loads(Question(action=Action.START_PROVIDER, target=target).encode("id-2", ASKER, 1000.9))
    assert asked["source"] == {
        "publicKey": "",
        "contractId": "",
        "linkName": "",
        "capabilities": [],
        "issuer": "",
        "issuedOn": "",
        "expiresAt": 1060,
        "expired": False,
    }
    assert asked["target"]["contractId"] == "a:b" and asked["target"]["linkName"] == "default"
    assert asked["action"] == "start_provider"


def test_a_caller_whose_claims_have_expired_is_shown_as_such() -> None:
    assert Source(public_key="M", expires_at=99).to_dict(100.0)["expired"] is True


@pytest.mark.parametrize("name", ["requestId", "request_id"])
def test_answers_and_changes_of_both_generations_are_read(name: str) -> None:
    text = json.dumps({name: "id", "permitted": False, "message": "no"})
    assert Verdict.decode(text.encode()) == Verdict("id", False, "no")


def test_a_change_that_was_taken_up_is_confirmed() -> None:
    assert json.loads(encode_outcome(True)) == {"success": True}


@pytest.mark.parametrize(
    "answer",
    ["", "null", "{}", '{"requestId":"a"}', '{"requestId":"a","permitted":1}', '{"permitted":true}', "[true]"],
)
def test_what_is_no_clear_decision_is_malformed(answer: str) -> None:
    with pytest.raises(MalformedMessage):
        Verdict.decode(answer.encode())


@given(st.binary() | st.builds(lambda value: json.dumps(value).encode(), st.dictionaries(st.text(), st.text())))
def test_garbage_is_malformed_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        Verdict.decode(data)
