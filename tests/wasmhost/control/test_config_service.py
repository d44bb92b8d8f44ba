"""What a configuration service tells a host that starts, and what the host makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from lattice import bundled, subjects
from lattice.config_service import HostConfiguration
from lattice.connection import Connection
from lattice.errors import MalformedMessage
from lattice.transport import Headers
from tests.support import actors
from tests.wasmhost.control.waiting import EventLog, until
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host

STORE = bundled.find("bundled:keyvalue-memory")


class Service:
    """Answers every question with one document."""

    def __init__(self, client: Connection, answer: bytes) -> None:
        self._client = client
        self._answer = answer
        self.asked: list[dict[str, Any]] = []

    @classmethod
    async def open(cls, client: Connection, lattice: str, answer: Any) -> Service:
        service = cls(client, answer if isinstance(answer, bytes) else json.dumps(answer).encode())
        await client.subscribe(subjects.config_service(lattice), service.on_question)
        return service

    def on_question(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        self.asked.append(json.loads(payload))
        self._client.publish(reply, self._answer)


def named(logs: list[Any], outcome: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == f"config_service.{outcome}"]


@pytest.fixture
def asking(config: HostConfig) -> HostConfig:
    trusted = frozenset({actors.ACCOUNT.public})
    return replace(config, trusted_issuers=trusted, config_service=True, labels={"zone": "north"})


async def test_a_host_starts_what_its_configuration_service_names(
    asking: HostConfig, client: Connection, tmp_path: Path
) -> None:
    assert STORE is not None
    reference = actors.write(tmp_path, actors.signed(actors.ECHO))
    answer = {
        "registryCredentials": {"ghcr.io": {"username": "u", "password": "very secret", "registryType": "oci"}},
        "autoStartActors": [reference, "file:///nowhere.wasm"],
        "autoStartProviders": [
            {"imageReference": STORE.reference, "linkName": "kept"},
            {"imageReference": "bundled:x"},
        ],
        "later": 1,
    }
    service = await Service.open(client, asking.lattice, answer)
    events = await EventLog.open(client, asking.lattice)
    for turn in (1, 2):
        with capture_logs() as logs:
            async with Host(asking) as host:
                await until(lambda host=host: list(host.actors.counts().values()) == [1])
                await until(lambda host=host: [each.link_name for each in host.providers] == ["kept"])
                await until(lambda logs=logs: len(named(logs, "not_started")) == 2)
                assert host.registries.known() == {"ghcr.io": "u"}
                assert service.asked[-1] == {"labels": {"zone": "north"}}
        assert len(service.asked) == turn
        assert "very secret" not in repr(logs)
    await events.wait("actor_start_failed", actor_ref="file:///nowhere.wasm")
    await events.wait("provider_start_failed", provider_ref="bundled:x", link_name="default")


@pytest.mark.parametrize("answer", [b"", b"no", [], {"autoStartActors": "x"}, {"registryCredentials": {"r": 5}}])
async def test_an_answer_that_makes_no_sense_is_logged_and_the_host_goes_on(
    asking: HostConfig, client: Connection, answer: Any
) -> None:
    await Service.open(client, asking.lattice, answer)
    with capture_logs() as logs:
        async with Host(asking) as host:
            await until(lambda: named(logs, "not_understood"))
            assert host.actors.counts() == {} and host.registries.known() == {}


async def test_without_a_service_the_host_starts_and_without_the_setting_nobody_is_asked(
    asking: HostConfig, client: Connection
) -> None:
    with capture_logs() as logs:
        async with Host(asking):
            await until(lambda: named(logs, "silent"))
    service = await Service.open(client, asking.lattice, {})
    async with Host(replace(asking, config_service=False)):
        pass
    await client.flush()
    assert service.asked == []


def test_all_members_are_optional() -> None:
    assert HostConfiguration.parse(b"{}") == HostConfiguration()
    assert HostConfiguration.parse(b'{"registryCredentials": null, "autoStartActors": null}') == HostConfiguration()
    with pytest.raises(MalformedMessage, match="imageReference"):
        HostConfiguration.parse(b'{"autoStartProviders": [{}]}')
