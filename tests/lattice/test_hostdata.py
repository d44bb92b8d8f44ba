"""Host data: one line that both generations of classic providers can read, and that never leaks a seed."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import MalformedMessage
from lattice.hostdata import HostData, NatsExtras
from lattice.links import LinkDefinition
from tests.support.strategies import CLUSTER, HOST, PROVIDER, bent, json_values, text_maps, texts

links = st.builds(
    LinkDefinition, actor_id=texts, provider_id=texts, link_name=texts, contract_id=texts, values=text_maps
)
host_data = st.builds(
    HostData,
    host_id=texts,
    lattice_rpc_prefix=texts.filter(bool),
    link_name=texts.filter(bool),
    lattice_rpc_user_jwt=texts,
    lattice_rpc_user_seed=texts,
    lattice_rpc_url=texts.map(lambda text: f"nats://{text}"),
    provider_key=texts,
    invocation_seed=texts,
    env_values=text_maps,
    instance_id=texts,
    link_definitions=st.lists(links, max_size=3).map(tuple),
    cluster_issuers=st.lists(texts, max_size=3).map(tuple),
    config_json=st.none() | texts,
    default_rpc_timeout_ms=st.integers(0, 10**6),
    structured_logging=st.booleans(),
    log_level=st.none() | texts,
    js_domain=st.none() | texts,
    traces_exporter=st.none() | texts,
    exporter_otlp_endpoint=st.none() | texts,
    exit_on_stdin_close=st.booleans(),
    handover_folder=st.text(max_size=10),
    predecessor=st.text(max_size=10),
    nats=st.builds(
        NatsExtras,
        **dict.fromkeys(("credentials", "tls_ca", "tls_cert", "tls_key", "tls_name", "inbox_prefix"), texts),
        refuse_anonymous=st.booleans(),
    ),
)


def line(document: object) -> bytes:
    return base64.b64encode(json.dumps(document).encode())


def document_of(data: HostData) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(base64.b64decode(data.encode()))
    return document


@given(host_data)
def test_host_data_come_back(data: HostData) -> None:
    encoded = data.encode()
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert HostData.decode(encoded) == data
    assert HostData.decode(encoded.decode().rstrip() + "\r\n") == data


def test_every_member_that_a_classic_library_demands_is_there() -> None:
    document = document_of(HostData())
    for name in ("env_values", "link_definitions", "cluster_issuers", "otel_config"):
        assert name in document
    assert document["otel_config"] == {"traces_exporter": None, "exporter_otlp_endpoint": None}
    assert "log_level" not in document  # it would silence RUST_LOG
    assert "exit_on_stdin_close" not in document
    assert "nats" not in document


def test_the_document_has_the_classic_names() -> None:
    document = document_of(
        HostData(
            host_id=HOST.public,
            provider_key=PROVIDER.public,
            invocation_seed=CLUSTER.seed,
            link_definitions=(LinkDefinition(actor_id="M1", provider_id="V1", contract_id="a:b", values={"k": "v"}),),
            cluster_issuers=(CLUSTER.public,),
            config_json="{}",
        )
    )
    assert document["host_id"] == HOST.public
    assert document["lattice_rpc_prefix"] == "default"
    assert document["link_name"] == "default"
    assert document["lattice_rpc_url"] == "nats://127.0.0.1:4222"
    assert document["invocation_seed"] == CLUSTER.seed
    assert document["cluster_issuers"] == [CLUSTER.public]
    assert document["link_definitions"][0]["values"] == {"k": "v"}
    assert document["config_json"] == "{}"
    assert document["default_rpc_timeout_ms"] == 2000


def test_the_line_of_an_elixir_host_is_read() -> None:
    data = HostData.decode(
        line(
            {
                "host_id": "N1",
                "lattice_rpc_prefix": "default",
                "lattice_rpc_url": "127.0.0.1:4222",
                "lattice_rpc_tls": 0,
                "js_domain": None,
                "link_definitions": [],
                "cluster_issuers": ["C1"],
                "env_values": {},
                "config_json": "",
            }
        )
    )
    assert data.lattice_rpc_url == "nats://127.0.0.1:4222"
    assert data.cluster_issuers == ("C1",)
    assert (data.config_json, data.js_domain, data.rpc_timeout) == ("", None, 2.0)


def test_seeds_and_settings_stay_out_of_the_repr() -> None:
    data = HostData(
        invocation_seed=CLUSTER.seed,
        lattice_rpc_user_seed=HOST.seed,
        lattice_rpc_user_jwt="some.jwt.text",
        config_json='{"password":"secret"}',
        env_values={"TOKEN": "secret"},
    )
    for hidden in (CLUSTER.seed, HOST.seed, "some.jwt", "secret"):
        assert hidden not in repr(data)


def test_an_error_does_not_quote_the_data() -> None:
    broken = base64.b64encode(b'{"invocation_seed":"' + CLUSTER.seed.encode() + b'"')
    wrong = line({"invocation_seed": [CLUSTER.seed]})
    for data in (broken, wrong):
        with pytest.raises(MalformedMessage) as caught:
            HostData.decode(data)
        assert CLUSTER.seed not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "host data is an array, not an object"),
        ({"cluster_issuers": "C1,C2"}, "cluster_issuers is text or bytes, not a list"),
        ({"link_definitions": {}}, "link_definitions is a map, not a list"),
        ({"link_definitions": [1]}, r"link_definitions\[0\] is an integer"),
        ({"env_values": {"a": 1}}, "env_values.a is an integer"),
        ({"default_rpc_timeout_ms": "2000"}, "default_rpc_timeout_ms is text"),
        ({"structured_logging": 1}, "structured_logging is an integer"),
    ],
)
def test_a_wrong_member_is_named(document: object, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        HostData.decode(line(document))


@given(
    st.binary(max_size=100)
    | st.text(max_size=50)
    | json_values(["host_id", "env_values", "link_definitions", "cluster_issuers", "otel_config"]).map(line)
    | bent(st.just(HostData(host_id="N1").encode()))
)
def test_garbage_is_malformed_and_nothing_worse(data: bytes | str) -> None:
    with suppress(MalformedMessage):
        HostData.decode(data)
