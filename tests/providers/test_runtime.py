"""The SDK as a process: verified calls, links, health, shutdown."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lattice import subjects, wire
from lattice.antiforgery import Signer
from lattice.chunks import MAX_MSG
from lattice.errors import Code, LatticeError, RemoteError, Unreachable
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.keys import KeyPair, Role
from lattice.links import MEANT
from tests.support.nats import NatsServer
from tests.support.providers import HostSide, ProviderProcess

CONTRACT = "example:sample"
SAMPLE = """
import asyncio
from lattice.errors import Overloaded
from providers.runtime import Call, LinkFailed, LinkDefinition, Provider, operation, run


class Sample(Provider):
    contract_id = "example:sample"

    async def link_added(self, link: LinkDefinition) -> None:
        await asyncio.sleep(float(link.values.get("delay", 0)))
        if link.values.get("reason"):
            raise LinkFailed(link.values["reason"])

    @operation("Sample.Echo")
    async def echo(self, call: Call, payload: bytes) -> bytes:
        return payload

    @operation("Sample.Values")
    async def values(self, call: Call) -> dict[str, str]:
        return dict(call.link.values)

    @operation("Sample.Slow")
    async def slow(self, call: Call, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return True

    @operation("Sample.Bug")
    async def bug(self, call: Call) -> None:
        raise ZeroDivisionError

    @operation("Sample.Busy")
    async def busy(self, call: Call) -> None:
        raise Overloaded("busy", retry_after=2.5)

    @operation("Sample.Back")
    async def back(self, call: Call, payload: bytes) -> bytes:
        return await self.lattice.call(call.actor, "Actor.Handle", payload)


run(Sample)
"""


@pytest.fixture
async def host(nats_server: NatsServer, lattice: str) -> AsyncIterator[HostSide]:
    side = await HostSide.open(nats_server.url, lattice)
    yield side
    await side.close()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    return path


@pytest.fixture
def key() -> str:
    return KeyPair.generate(Role.SERVICE).public


@pytest.fixture
def actor() -> str:
    return KeyPair.generate(Role.MODULE).public


@pytest.fixture
async def sample(host: HostSide, script: Path, key: str, actor: str) -> ProviderProcess:
    return await host.start(script, host.host_data(key, host.link(actor, key, CONTRACT, a="1")))


async def test_a_call_reaches_its_handler_and_the_answer_comes_back(sample: ProviderProcess, actor: str) -> None:
    assert await sample.call(actor, "Sample.Echo", b"\x00\xff", contract=CONTRACT) == b"\x00\xff"
    assert wire.unpack_value(await sample.call(actor, "Sample.Values", b"", contract=CONTRACT)) == {"a": "1"}


@pytest.mark.parametrize(
    ("call", "told", "code"),
    [
        (("Sample.What", b""), "method not handled Sample.What", Code.UNSUPPORTED),
        (("Sample.Bug", b""), "internal error", Code.INTERNAL),
        (("Sample.Slow", wire.pack("x")), "Sample.Slow is text or bytes, not float", Code.MALFORMED),
        (("Sample.Slow", b"\xc1\xc1"), "not msgpack", Code.MALFORMED),
    ],
)
async def test_what_goes_wrong_is_told_with_its_code(
    sample: ProviderProcess, actor: str, call: tuple[str, bytes], told: str, code: Code
) -> None:
    with pytest.raises(RemoteError, match=told) as caught:
        await sample.call(actor, *call, contract=CONTRACT)
    assert caught.value.code == code


async def test_an_overloaded_handler_says_when_to_come_back(sample: ProviderProcess, actor: str) -> None:
    with pytest.raises(LatticeError, match="busy") as caught:
        await sample.call(actor, "Sample.Busy", b"", contract=CONTRACT)
    assert caught.value.code == Code.OVERLOADED
    assert getattr(caught.value, "retry_after", None) == 2.5


async def test_an_actor_without_a_link_is_refused(sample: ProviderProcess) -> None:
    stranger = KeyPair.generate(Role.MODULE).public
    with pytest.raises(RemoteError, match=f"unlinked actor: '{stranger}'") as caught:
        await sample.call(stranger, "Sample.Echo", b"x", contract=CONTRACT)
    assert caught.value.code == Code.NOT_LINKED


async def test_a_foreign_issuer_and_a_replay_are_refused(host: HostSide, sample: ProviderProcess, actor: str) -> None:
    foreign = Signer(KeyPair.generate(Role.CLUSTER), host.host.public)
    with pytest.raises(RemoteError, match="ssuer") as caught:
        await sample.call(actor, "Sample.Echo", b"x", contract=CONTRACT, signer=foreign)
    assert caught.value.code == Code.NOT_AUTHORIZED

    key = sample._host_data.provider_key
    subject = subjects.provider_rpc(host.name, key, "default")
    invocation = host.signer.sign(
        origin=Entity.actor(actor), target=Entity.provider(key, CONTRACT, "default"), operation="Sample.Echo", msg=b"x"
    ).encode()
    answers = [
        InvocationResponse.decode((await host.connection.request(subject, invocation, timeout=2)).payload)
        for _ in range(2)
    ]
    assert (answers[0].msg, answers[0].error) == (b"x", None)
    assert answers[1].code == Code.NOT_AUTHORIZED


async def test_garbage_on_every_subject_harms_nothing(host: HostSide, sample: ProviderProcess, actor: str) -> None:
    key = sample._host_data.provider_key
    for subject in (
        subjects.provider_rpc(host.name, key, "default"),
        subjects.linkdef_put(host.name, key, "default"),
        subjects.linkdef_del(host.name, key, "default"),
        subjects.shutdown(host.name, key, "default"),
        subjects.health(host.name, key, "default"),
    ):
        for garbage in (b"", b"\xc1", b"\x93\x01\x02", b"{}", b"\xff" * 100, b"[1]", b'{"host_id":"N"}'):
            host.connection.publish(subject, garbage)
            host.connection.publish(subject, garbage, reply="wasmbus.ctl.x")
    await host.connection.flush()
    assert await sample.call(actor, "Sample.Echo", b"x", contract=CONTRACT) == b"x"
    assert (await sample.health())["state"] == "ready"
    assert sample.process is not None
    assert sample.process.returncode is None


async def test_the_provider_calls_its_actor_with_a_key_of_its_own(host: HostSide, script: Path, key: str) -> None:
    seen: list[tuple[str, str, str]] = []

    def handle(invocation):  # type: ignore[no-untyped-def]
        from lattice.antiforgery import parse

        seen.append((parse(invocation.encoded_claims).issuer, invocation.origin.public_key, invocation.host_id))
        return b"<" + invocation.msg + b">"

    actor = await host.actor(handle)
    process = await host.start(script, host.host_data(key, host.link(actor, key, CONTRACT)))
    assert await process.call(actor, "Sample.Back", b"x", contract=CONTRACT) == b"<x>"
    assert seen == [(host.provider_issuer.public, key, host.host.public)]


async def test_a_put_meant_for_another_process_takes_effect_unanswered(host: HostSide, script: Path, key: str) -> None:
    this, other = str(uuid.uuid4()), str(uuid.uuid4())
    sample = await host.start(script, replace(host.host_data(key), instance_id=this))
    actor = KeyPair.generate(Role.MODULE).public
    subject = subjects.linkdef_put(host.name, key, "default")
    put = host.link(actor, key, CONTRACT, a="1").encode()
    with pytest.raises(Unreachable) as caught:
        await host.connection.request(subject, put, timeout=0.5, headers={MEANT: other})
    assert caught.value.code == Code.TIMED_OUT
    assert wire.unpack_value(await sample.call(actor, "Sample.Values", b"", contract=CONTRACT)) == {"a": "1"}
    reply = await host.connection.request(subject, put, timeout=5, headers={MEANT: this})
    assert wire.unpack_value(reply.payload) == {"state": "ready"}


async def test_a_removal_meant_for_another_process_is_not_taken(host: HostSide, script: Path, key: str) -> None:
    this, other = str(uuid.uuid4()), str(uuid.uuid4())
    actor = KeyPair.generate(Role.MODULE).public
    link = host.link(actor, key, CONTRACT, a="1")
    sample = await host.start(script, replace(host.host_data(key, link), instance_id=this))
    subject = subjects.linkdef_del(host.name, key, "default")
    host.connection.publish(subject, link.encode(), headers={MEANT: other})
    assert (await sample.health())["links"] == {actor: {"state": "ready"}}
    host.connection.publish(subject, link.encode(), headers={MEANT: this})
    assert (await sample.health())["links"] == {}


async def test_a_put_with_a_reply_subject_tells_how_it_ended(host: HostSide, sample: ProviderProcess, key: str) -> None:
    actor = KeyPair.generate(Role.MODULE).public
    failed = await sample.put(host.link(actor, key, CONTRACT, reason="printer on fire"))
    assert failed == {"state": "failed", "reason": "printer on fire"}
    health = await sample.health()
    assert health["healthy"] is False
    assert health["state"] == "degraded"
    assert health["message"] == f"link of {actor}: printer on fire"
    assert health["links"][actor] == {"state": "failed", "reason": "printer on fire"}
    with pytest.raises(RemoteError, match="is failed: printer on fire"):
        await sample.call(actor, "Sample.Echo", b"x", contract=CONTRACT)

    assert await sample.put(host.link(actor, key, CONTRACT, b="2")) == {"state": "ready"}
    assert wire.unpack_value(await sample.call(actor, "Sample.Values", b"", contract=CONTRACT)) == {"b": "2"}
    assert (await sample.health())["healthy"] is True

    assert await sample.delete(host.link(actor, key, CONTRACT)) == {"state": "removed"}
    with pytest.raises(RemoteError, match="unlinked"):
        await sample.call(actor, "Sample.Echo", b"x", contract=CONTRACT)


async def test_a_link_of_another_provider_is_not_taken(host: HostSide, sample: ProviderProcess) -> None:
    actor, other = KeyPair.generate(Role.MODULE).public, KeyPair.generate(Role.SERVICE).public
    assert (await sample.put(host.link(actor, other, CONTRACT)))["state"] == "failed"
    assert actor not in (await sample.health())["links"]


async def test_a_handler_is_cancelled_and_its_caller_told_before_it_gives_up(
    sample: ProviderProcess, actor: str
) -> None:
    with pytest.raises(RemoteError, match=r"Sample\.Slow was not done within 0\.[34] s") as caught:
        await sample.call(actor, "Sample.Slow", wire.pack(30.0), contract=CONTRACT, timeout=0.4)
    assert caught.value.code == Code.TIMED_OUT
    await sample.shut_down()
    assert await sample.ended(timeout=3) == 0


async def test_calls_in_flight_finish_before_a_shutdown(sample: ProviderProcess, actor: str) -> None:
    slow = asyncio.create_task(sample.call(actor, "Sample.Slow", wire.pack(0.5), contract=CONTRACT))
    await asyncio.sleep(0.2)
    assert await sample.shut_down() == b"shutting down"
    assert wire.unpack_value(await slow) is True
    assert await sample.ended() == 0
    assert all(event["level"] in ("info", "debug") for event in sample.events), sample.output


async def test_a_shutdown_by_another_host_is_ignored(sample: ProviderProcess, actor: str) -> None:
    with pytest.raises(Unreachable):
        await sample.shut_down({"host_id": KeyPair.generate(Role.HOST).public})
    assert await sample.call(actor, "Sample.Echo", b"x", contract=CONTRACT) == b"x"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_order(sample: ProviderProcess, number: int) -> None:
    assert sample.process is not None
    os.kill(sample.process.pid, number)
    assert await sample.ended() == 0


async def test_it_leaves_with_its_host_only_if_host_data_says_so(
    host: HostSide, script: Path, key: str, actor: str
) -> None:
    for leaves in (True, False):
        process = await host.start(script, host.host_data(key, exit_on_stdin_close=leaves))
        assert process.process is not None
        assert process.process.stdin is not None
        process.process.stdin.close()
        if leaves:
            assert await process.ended() == 0
        else:
            await asyncio.sleep(0.3)
            assert (await process.health())["state"] == "ready"


@pytest.mark.parametrize(
    ("line", "told"), [(b"\n", "host data"), (b"bm90IGpzb24=\n", "host data"), (b"\xff\xfe\n", "host data")]
)
async def test_bad_host_data_is_one_sentence(host: HostSide, script: Path, line: bytes, told: str) -> None:
    class Line:
        provider_key, link_name = "V", "default"

        def encode(self) -> bytes:
            return line

    process = ProviderProcess(host, Line())  # type: ignore[arg-type]
    host.processes.append(process)
    await process.start(script)
    assert await process.ended() == 1
    assert len(process.events) == 1
    assert told in process.events[0]["reason"]


async def test_without_nats_it_says_so_and_ends(host: HostSide, script: Path, key: str) -> None:
    process = ProviderProcess(host, host.host_data(key, lattice_rpc_url="nats://127.0.0.1:1"))
    host.processes.append(process)
    await process.start(script)
    assert await process.ended() == 1
    assert "127.0.0.1:1" in process.events[-1]["reason"]
    assert host.provider_issuer.seed not in process.output


# --- payloads in the object store -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MAX_MSG, MAX_MSG + 1, 8 * 1024 * 1024])
async def test_large_payloads_are_read_from_the_object_store_and_stored_there(
    host: HostSide, sample: ProviderProcess, actor: str, size: int
) -> None:
    payload = os.urandom(size)
    assert await sample.call(actor, "Sample.Echo", payload, contract=CONTRACT) == payload
    if size > MAX_MSG:
        await nothing_left(host)


async def nothing_left(host: HostSide) -> None:
    await host.chunks.close()
    for _ in range(200):
        if not await host.in_store():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("something stayed in the object store")


async def test_a_provider_sends_large_payloads_to_actors_too(
    host: HostSide, sample: ProviderProcess, actor: str
) -> None:
    await host.actor(lambda invocation: invocation.msg[::-1], actor)
    payload = os.urandom(3_000_000)
    assert await sample.call(actor, "Sample.Back", payload, contract=CONTRACT) == payload[::-1]
    await nothing_left(host)


async def test_calls_wait_for_a_link_that_is_being_put_into_effect(
    host: HostSide, sample: ProviderProcess, key: str
) -> None:
    """Another process of the provider may have been quicker to say that it is ready."""
    actor = KeyPair.generate(Role.MODULE).public
    for payload in (b"small", b"x" * (MAX_MSG + 1)):
        putting = asyncio.create_task(sample.put(host.link(actor, key, CONTRACT, delay="0.5", size=str(len(payload)))))
        await asyncio.sleep(0.1)
        assert await sample.call(actor, "Sample.Echo", payload, contract=CONTRACT) == payload
        assert await putting == {"state": "ready"}
        await sample.delete(host.link(actor, key, CONTRACT))
    await nothing_left(host)


async def test_changed_values_fail_no_call_though_the_link_is_taken_down_for_a_while(
    host: HostSide, sample: ProviderProcess, actor: str, key: str
) -> None:
    """The sample does not switch in place."""
    stop, failed, values = asyncio.Event(), list[LatticeError](), set[str]()

    async def load() -> None:
        while not stop.is_set():
            try:
                answer = wire.unpack_value(await sample.call(actor, "Sample.Values", b"", contract=CONTRACT))
                values.add(answer["turn"] if isinstance(answer, dict) and "turn" in answer else "")
            except LatticeError as error:
                failed.append(error)

    clients = [asyncio.create_task(load()) for _ in range(4)]
    for turn in ("one", "two", "three"):
        assert await sample.put(host.link(actor, key, CONTRACT, delay="0.1", turn=turn)) == {"state": "ready"}
    stop.set()
    await asyncio.gather(*clients)
    assert failed == []
    assert {"one", "two"} <= values


async def test_a_call_waits_no_longer_than_its_caller_and_is_told_why(
    host: HostSide, sample: ProviderProcess, key: str
) -> None:
    actor = KeyPair.generate(Role.MODULE).public
    putting = asyncio.create_task(sample.put(host.link(actor, key, CONTRACT, delay="1.5", reason="no paper")))
    await asyncio.sleep(0.1)
    with pytest.raises(RemoteError, match="is starting"):
        await sample.call(actor, "Sample.Echo", b"x", contract=CONTRACT, timeout=0.5)
    with pytest.raises(RemoteError, match="is failed: no paper"):
        await sample.call(actor, "Sample.Echo", b"x", contract=CONTRACT, timeout=10)
    assert await putting == {"state": "failed", "reason": "no paper"}


async def test_concurrent_large_calls_are_all_answered(host: HostSide, sample: ProviderProcess, actor: str) -> None:
    payloads = [os.urandom(1_000_000 + number) for number in range(16)]
    calls = (sample.call(actor, "Sample.Echo", payload, contract=CONTRACT, timeout=20) for payload in payloads)
    assert await asyncio.gather(*calls) == payloads
    await nothing_left(host)


async def test_a_chunked_call_that_cannot_be_trusted_is_refused_unread_or_not_executed(
    host: HostSide, sample: ProviderProcess, actor: str
) -> None:
    key = sample._host_data.provider_key
    subject = subjects.provider_rpc(host.name, key, "default")
    fetched: list[str] = []
    await host.connection.subscribe(f"$JS.API.DIRECT.GET.OBJ_{host.name}.>", lambda s, r, h, p: fetched.append(s))

    async def ask(invocation: Invocation) -> InvocationResponse:
        return InvocationResponse.decode(
            (await host.connection.request(subject, invocation.encode(), timeout=5)).payload
        )

    def signed(signer: Signer, msg: bytes, origin: str = actor) -> Invocation:
        target = Entity.provider(key, CONTRACT, "default")
        return signer.sign(origin=Entity.actor(origin), target=target, operation="Sample.Echo", msg=msg)

    payload = b"x" * 1_000_000
    stranger = Signer(KeyPair.generate(Role.CLUSTER), host.host.public)
    unlinked = KeyPair.generate(Role.MODULE).public
    for bad, code in (
        (signed(stranger, payload), Code.NOT_AUTHORIZED),
        (signed(host.signer, payload, unlinked), Code.NOT_LINKED),
        (replace(signed(host.signer, payload), content_length=2**40), Code.TOO_LARGE),
    ):
        await host.chunks.send(bad.id, payload, what="it")
        assert (await ask(replace(bad, msg=b""))).code == code
    assert fetched == []
    changed = signed(host.signer, payload)
    await host.chunks.send(changed.id, payload[:-1] + b"y", what="it")
    response = await ask(replace(changed, msg=b""))
    assert response.code == Code.NOT_AUTHORIZED and "Invocation hash does not match" in (response.error or "")


async def test_a_provider_killed_while_it_reads_leaves_what_the_caller_removes(
    host: HostSide, sample: ProviderProcess, actor: str
) -> None:
    reading = asyncio.Event()
    await host.connection.subscribe(f"$JS.API.DIRECT.GET.OBJ_{host.name}.>", lambda *_: reading.set())
    call = asyncio.create_task(sample.call(actor, "Sample.Echo", os.urandom(8_000_000), contract=CONTRACT, timeout=0.5))
    await reading.wait()
    await sample.kill()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await nothing_left(host)
