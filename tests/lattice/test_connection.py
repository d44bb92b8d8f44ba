"""The connection against real servers: what is promised when all is well, and what when it is not."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lattice import addresses, natswires
from lattice.connection import Connection, ConnectOptions, Limits, connect
from lattice.errors import Code, LatticeError, MalformedMessage, NotAuthorized, TooLarge, Unreachable
from lattice.transport import Headers, MessageHandler, State, Transport
from tests.support.nats import NatsServer, free_port
from tests.support.operator import Operator
from tests.support.waiting import eventually

FAST = Limits(retry_min=0.02, retry_max=0.2, confirm_timeout=5.0, drain_timeout=2.0)


@pytest.fixture(params=[True, False], ids=["direct", "public"])
def internals(request: pytest.FixtureRequest) -> bool:
    """Both wires keep the same promises."""
    return bool(request.param)


@asynccontextmanager
async def connected(url: str, *, internals: bool = True, **options: object) -> AsyncIterator[Connection]:
    arguments = {"url": url, "name": "test", "limits": FAST, "internals": internals} | options
    connection = await connect(ConnectOptions(**arguments))  # type: ignore[arg-type]
    try:
        yield connection
    finally:
        await connection.close()


def echo(transport: Transport) -> MessageHandler:
    def handler(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        transport.publish(reply, payload)

    return handler


async def test_request_and_reply_with_headers(nats_server: NatsServer, lattice: str, internals: bool) -> None:
    async with connected(nats_server.url, internals=internals) as connection:
        seen: list[tuple[str, Headers, bytes]] = []

        def handler(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            seen.append((subject, headers, payload))
            connection.publish(reply, b"answer", headers={"X-Name": "välue"})

        await connection.subscribe(f"{lattice}.*", handler, queue="q")
        reply = await connection.request(f"{lattice}.one", b"\x00\xff", timeout=2, headers={"A": "1", "b-C": "x: y"})
        assert reply.payload == b"answer"
        assert reply.headers == {"X-Name": "välue"}
        assert seen == [(f"{lattice}.one", {"A": "1", "b-C": "x: y"}, b"\x00\xff")]
        assert (await connection.request(f"{lattice}.two", b"", timeout=2)).payload == b"answer"
        assert seen[-1] == (f"{lattice}.two", None, b"")


async def test_no_responders_is_told_at_once_and_apart_from_timeout(
    nats_server: NatsServer, lattice: str, internals: bool
) -> None:
    async with connected(nats_server.url, internals=internals) as connection:
        started = time.monotonic()
        with pytest.raises(Unreachable, match=f"nobody listens on {lattice}.none") as caught:
            await connection.request(f"{lattice}.none", b"", timeout=30)
        assert caught.value.code is Code.NO_RESPONDERS
        assert time.monotonic() - started < 2

        await connection.subscribe(f"{lattice}.mute", lambda *_: None)
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"within 0.2 s") as caught:
            await connection.request(f"{lattice}.mute", b"", timeout=0.2)
        assert caught.value.code is Code.TIMED_OUT
        assert 0.19 < time.monotonic() - started < 1


async def test_a_reply_after_the_timeout_reaches_nobody(nats_server: NatsServer, lattice: str) -> None:
    async with connected(nats_server.url) as connection:
        replies: list[str] = []
        await connection.subscribe(f"{lattice}.slow", lambda subject, reply, headers, payload: replies.append(reply))
        with pytest.raises(Unreachable):
            await connection.request(f"{lattice}.slow", b"", timeout=0.05)
        connection.publish(replies[0], b"late")
        await connection.subscribe(f"{lattice}.echo", echo(connection))
        assert (await connection.request(f"{lattice}.echo", b"x", timeout=2)).payload == b"x"
        assert connection.requests_waiting == 0


async def test_the_first_of_two_replies_wins(nats_server: NatsServer, lattice: str) -> None:
    async with connected(nats_server.url) as connection:

        def twice(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            connection.publish(reply, b"1")
            connection.publish(reply, b"2")

        await connection.subscribe(lattice, twice)
        assert (await connection.request(lattice, b"", timeout=2)).payload == b"1"
        assert (await connection.request(lattice, b"", timeout=2)).payload == b"1"


async def test_cancelling_a_request_leaves_nothing_behind(nats_server: NatsServer, lattice: str) -> None:
    async with connected(nats_server.url) as connection:
        await connection.subscribe(lattice, lambda *_: None)
        task = asyncio.create_task(connection.request(lattice, b"", timeout=30))
        await eventually(lambda: connection.requests_waiting == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connection.requests_waiting == 0


async def test_gather_collects_every_reply(nats_server: NatsServer, lattice: str, internals: bool) -> None:
    async with connected(nats_server.url, internals=internals) as connection:
        assert await connection.gather(lattice, b"", timeout=5) == []

        def answering(name: bytes) -> MessageHandler:
            return lambda subject, reply, headers, payload: connection.publish(reply, name)

        for name in (b"a", b"b", b"c"):
            await connection.subscribe(lattice, answering(name))
        replies = await connection.gather(lattice, b"", timeout=0.3)
        assert sorted(reply.payload for reply in replies) == [b"a", b"b", b"c"]


async def test_a_subscription_is_known_to_the_server_when_subscribe_returns(
    nats_server: NatsServer, lattice: str, internals: bool
) -> None:
    async with (
        connected(nats_server.url, internals=internals) as server,
        connected(nats_server.url, internals=internals) as client,
    ):
        for number in range(300):
            subscription = await server.subscribe(f"{lattice}.{number}", echo(server), queue="q")
            assert (await client.request(f"{lattice}.{number}", b"x", timeout=5)).payload == b"x"
            if number % 3 == 0:
                await subscription.unsubscribe()
                with pytest.raises(Unreachable, match="nobody listens"):
                    await client.request(f"{lattice}.{number}", b"x", timeout=5)


async def test_unsubscribe_hands_over_what_was_sent_before(
    nats_server: NatsServer, lattice: str, internals: bool
) -> None:
    async with connected(nats_server.url, internals=internals) as connection:
        seen: list[bytes] = []
        subscription = await connection.subscribe(lattice, lambda s, r, h, payload: seen.append(payload))
        for number in range(2000):
            connection.publish(lattice, b"%d" % number)
        connection_flushed = asyncio.create_task(connection.flush())
        await asyncio.sleep(0)
        await subscription.unsubscribe()
        await connection_flushed
        assert seen == [b"%d" % number for number in range(2000)]
        await subscription.unsubscribe()
        connection.publish(lattice, b"after")
        await connection.flush()
        assert len(seen) == 2000


async def test_nothing_is_kept_of_a_subscription_that_has_ended(
    nats_server: NatsServer, lattice: str, internals: bool
) -> None:
    async with connected(nats_server.url, internals=internals) as connection:

        async def come_and_go() -> weakref.ref[MessageHandler]:
            def handler(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
                connection.publish(reply, payload)

            subscription = await connection.subscribe(f"{lattice}.passing", handler)
            assert (await connection.request(f"{lattice}.passing", b"hello", timeout=5)).payload == b"hello"
            await subscription.unsubscribe()
            return weakref.ref(handler)

        handler = await come_and_go()

        def is_gone() -> bool:
            gc.collect()
            return handler() is None

        await eventually(is_gone)


async def test_a_queue_group_shares_the_messages(nats_server: NatsServer, lattice: str, internals: bool) -> None:
    async with connected(nats_server.url, internals=internals) as connection:
        counts = [0, 0]

        def member(index: int) -> MessageHandler:
            def handler(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
                counts[index] += 1
                connection.publish(reply, b"")

            return handler

        for index in range(2):
            await connection.subscribe(lattice, member(index), queue="workers")
        await asyncio.gather(*(connection.request(lattice, b"", timeout=5) for _ in range(100)))
        assert sum(counts) == 100
        assert all(counts)


async def test_a_handler_that_raises_harms_nobody(nats_server: NatsServer, lattice: str, internals: bool) -> None:
    async with connected(nats_server.url, internals=internals) as connection:

        def handler(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            if payload == b"bad":
                raise RuntimeError("a bug")
            connection.publish(reply, payload)

        await connection.subscribe(lattice, handler)
        with capture_logs() as logs:
            connection.publish(lattice, b"bad")
            assert (await connection.request(lattice, b"good", timeout=2)).payload == b"good"
        assert [entry["event"] for entry in logs] == ["connection.handler_failed"]


async def test_max_payload_counts_headers_and_refuses_only_the_caller(tmp_path: Path, internals: bool) -> None:
    server = NatsServer(tmp_path, jetstream=False, config="max_payload: 1000").start()
    try:
        async with connected(server.url, internals=internals) as connection:
            assert connection.max_payload == 1000
            await connection.subscribe("echo", echo(connection))
            assert len((await connection.request("echo", b"x" * 1000, timeout=2)).payload) == 1000
            with pytest.raises(TooLarge, match="1001 bytes; the NATS server takes 1000"):
                await connection.request("echo", b"x" * 1001, timeout=2)
            block = len(b"NATS/1.0\r\nk: v\r\n\r\n")
            await connection.request("echo", b"x" * (1000 - block), timeout=2, headers={"k": "v"})
            with pytest.raises(TooLarge):
                connection.publish("echo", b"x" * (1001 - block), headers={"k": "v"})
            assert connection.state is State.CONNECTED
    finally:
        server.stop()


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0", "a.*", "a.>", "tab\t"])
async def test_a_bad_subject_never_reaches_the_wire(nats_server: NatsServer, subject: str) -> None:
    async with connected(nats_server.url) as connection:
        with pytest.raises(MalformedMessage):
            connection.publish(subject, b"")
        with pytest.raises(MalformedMessage):
            await connection.request(subject, b"", timeout=1)
        assert connection.requests_waiting == 0
        with pytest.raises(MalformedMessage):
            connection.publish("fine", b"", headers={"name": "x\r\ninjected: 1"})
        with pytest.raises(MalformedMessage):
            connection.publish("fine", b"", headers={"na me": "x"})
    for bad in ("", "a..b", "a.>.b", "a*", "a b"):
        async with connected(nats_server.url) as connection:
            with pytest.raises(MalformedMessage):
                await connection.subscribe(bad, lambda *_: None)


async def test_a_restarted_server_is_found_again_with_all_subscriptions(tmp_path: Path, internals: bool) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    try:
        async with (
            connected(server.url, internals=internals) as responder,
            connected(server.url, internals=internals) as caller,
        ):
            subjects = [f"actor.{number}" for number in range(50)]
            for subject in subjects:
                await responder.subscribe(subject, echo(responder), queue=subject)
            gone = await responder.subscribe("gone", echo(responder))
            await gone.unsubscribe()
            outcomes: dict[str, int] = {}
            stop = asyncio.Event()

            async def load(subject: str) -> None:
                while not stop.is_set():
                    try:
                        reply = await caller.request(subject, subject.encode(), timeout=5)
                        assert reply.payload == subject.encode()
                        outcome = "ok"
                    except Unreachable as error:
                        outcome = str(error.code)
                        await asyncio.sleep(0.01)
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1

            states: list[State] = []
            caller.on_state(states.append)
            async with asyncio.TaskGroup() as group:
                for subject in subjects:
                    group.create_task(load(subject))
                for sig in (signal.SIGTERM, signal.SIGKILL):
                    await eventually(lambda: outcomes.get("ok", 0) > 200)
                    await asyncio.to_thread(server.restart, sig)
                    restarted = time.monotonic()
                    await eventually(lambda: caller.state is State.CONNECTED and responder.state is State.CONNECTED)
                    outcomes.clear()
                    await eventually(lambda: outcomes.get("ok", 0) > 200)
                    assert time.monotonic() - restarted < 4
                stop.set()
            assert outcomes.get("timed_out", 0) == 0
            assert states == [State.RECONNECTING, State.CONNECTED] * 2
            for subject in subjects:
                assert (await caller.request(subject, b"x", timeout=2)).payload == b"x"
            with pytest.raises(Unreachable, match="nobody listens"):
                await caller.request("gone", b"", timeout=2)
    finally:
        server.stop()


async def test_requests_in_flight_fail_as_disconnected_and_are_not_repeated(tmp_path: Path, internals: bool) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    try:
        async with connected(server.url, internals=internals) as connection:
            seen: list[bytes] = []
            await connection.subscribe("mute", lambda s, r, h, payload: seen.append(payload))
            task = asyncio.create_task(connection.request("mute", b"once", timeout=30))
            await eventually(lambda: seen)
            await asyncio.to_thread(server.stop)
            with pytest.raises(Unreachable, match="is lost; reconnecting") as caught:
                await asyncio.wait_for(task, 5)
            assert caught.value.code is Code.DISCONNECTED
            started = time.monotonic()
            with pytest.raises(Unreachable) as caught:
                await connection.request("mute", b"while away", timeout=30)
            assert caught.value.code is Code.DISCONNECTED
            assert time.monotonic() - started < 1
            connection.publish("mute", b"kept")
            with pytest.raises(Unreachable):
                await connection.flush()
            await asyncio.to_thread(server.start)
            await eventually(lambda: len(seen) > 1)
            await connection.flush()
            assert seen == [b"once", b"kept"]
    finally:
        server.stop()


async def test_messages_kept_while_away_are_bounded(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    limits = Limits(retry_min=0.02, retry_max=0.1, reconnect_buffer=10_000)
    async with connected(server.url, limits=limits) as connection:
        await asyncio.to_thread(server.stop)
        await eventually(lambda: connection.state is State.RECONNECTING)
        with pytest.raises(Unreachable) as caught:
            for _ in range(20):
                connection.publish("a", b"x" * 1000)
        assert caught.value.code is Code.DISCONNECTED
        with capture_logs() as logs:
            await connection.drain()
        assert [entry["event"] for entry in logs] == ["connection.messages_dropped"]


async def test_a_subscription_made_while_away_is_confirmed_after_the_return(tmp_path: Path, internals: bool) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    try:
        async with connected(server.url, internals=internals) as connection:
            await asyncio.to_thread(server.stop)
            await eventually(lambda: connection.state is State.RECONNECTING)
            subscribing = asyncio.create_task(connection.subscribe("echo", echo(connection)))
            await asyncio.sleep(0.1)
            assert not subscribing.done()
            await asyncio.to_thread(server.start)
            subscription = await subscribing
            assert (await connection.request("echo", b"x", timeout=2)).payload == b"x"
            await subscription.unsubscribe()
    finally:
        server.stop()


async def test_a_silent_server_is_noticed_by_pings_even_with_bytes_unsent(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    try:
        async with connected(server.url, ping_interval=0.3) as connection:
            server_process = server.pid
            await connection.subscribe("echo", echo(connection))
            signal_sent = time.monotonic()
            os.kill(server_process, signal.SIGSTOP)
            try:
                for _ in range(20):
                    connection.publish("nobody", b"x" * 1_000_000)
                    await asyncio.sleep(0)
                await eventually(lambda: connection.state is State.RECONNECTING, timeout=10)
                assert time.monotonic() - signal_sent < 5
            finally:
                os.kill(server_process, signal.SIGCONT)
            await eventually(lambda: connection.state is State.CONNECTED, timeout=10)
            assert (await connection.request("echo", b"x", timeout=5)).payload == b"x"
    finally:
        server.stop()


PERMISSIONS = """
authorization {
  users: [
    {user: "limited", password: "pw", permissions: {publish: ["Open.>", "_INBOX.>"], subscribe: ["Open.>", "_INBOX.>"]}}
    {user: "boxless", password: "pw", permissions: {subscribe: ["Open.>"]}}
  ]
}
"""


async def test_permission_violations_are_security_events_and_fail_the_one_concerned(
    tmp_path: Path, internals: bool
) -> None:
    server = NatsServer(tmp_path, jetstream=False, config=PERMISSIONS).start()
    try:
        url = f"nats://limited:pw@127.0.0.1:{server.port}"
        async with connected(url, internals=internals) as connection:
            assert connection.auth_required
            assert connection.server == server.url
            with capture_logs() as logs:
                with pytest.raises(NotAuthorized, match=r"does not permit this user to publish to Secret\.x"):
                    await connection.request("Secret.x", b"", timeout=10)
                with pytest.raises(NotAuthorized, match=r"does not permit this user to subscribe to Secret\.y"):
                    await connection.subscribe("Secret.y", lambda *_: None)
                with pytest.raises(NotAuthorized, match=r"subscribe to Secret\.z"):
                    await connection.subscribe("Secret.z", lambda *_: None, queue="Q")
            events = [(entry["event"], entry["operation"], entry["subject"]) for entry in logs]
            assert events == [
                ("security.permission_violation", "publish", "secret.x"),
                ("security.permission_violation", "subscription", "secret.y"),
                ("security.permission_violation", "subscription", "secret.z"),
            ]
            await connection.subscribe("Open.echo", echo(connection))
            assert (await connection.request("Open.echo", b"x", timeout=2)).payload == b"x"
        with pytest.raises(NotAuthorized, match="refused the given credentials") as caught:
            await connect(ConnectOptions(url=f"nats://limited:wrong@127.0.0.1:{server.port}", internals=internals))
        assert "wrong" not in str(caught.value)
        with pytest.raises(NotAuthorized, match="refused no credentials"):
            await connect(ConnectOptions(url=server.url, internals=internals))
        with pytest.raises(NotAuthorized, match="_INBOX"):
            await connect(ConnectOptions(url=f"nats://boxless:pw@127.0.0.1:{server.port}", internals=internals))
    finally:
        server.stop()


async def test_too_many_subscriptions_refuse_the_newest_only(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, jetstream=False, config="max_subscriptions: 3").start()
    try:
        async with connected(server.url) as connection:
            await connection.subscribe("a", echo(connection))
            await connection.subscribe("b", echo(connection))
            with pytest.raises(Unreachable, match="subscriptions exceeded"):
                await connection.subscribe("c", echo(connection))
            assert (await connection.request("a", b"x", timeout=2)).payload == b"x"
    finally:
        server.stop()


async def test_nkey_users_connect_with_their_seed(tmp_path: Path) -> None:
    import nkeys
    from nacl.signing import SigningKey

    seed = nkeys.encode_seed(bytes(SigningKey.generate()), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    config = f'authorization {{ users: [ {{nkey: "{public}"}} ] }}'
    server = NatsServer(tmp_path, jetstream=False, config=config).start()
    try:
        async with connected(server.url, seed=seed.decode() + "\n") as connection:
            await connection.flush()
            server.restart()
            await eventually(lambda: connection.state is State.RECONNECTING)
            await eventually(lambda: connection.state is State.CONNECTED)
        options = ConnectOptions(url=server.url, seed="SUNONSENSE")
        assert "SUNONSENSE" not in repr(options)
        with pytest.raises(NotAuthorized, match="must begin with SU") as caught:
            await connect(options)
        assert "NONSENSE" not in str(caught.value)
    finally:
        server.stop()


async def test_users_of_an_operator_connect_with_token_and_seed(tmp_path: Path, internals: bool) -> None:
    operator = Operator()
    server = NatsServer(tmp_path, jetstream=False, config=operator.config).start()
    try:
        token, seed = operator.user()
        async with connected(server.url, internals=internals, user_jwt=f" {token}\n", seed=seed) as connection:
            await connection.flush()
            server.restart()
            await eventually(lambda: connection.state is State.RECONNECTING)
            await eventually(lambda: connection.state is State.CONNECTED)
        _, foreign = operator.user()
        with pytest.raises(NotAuthorized, match="refused the given credentials"):
            await connect(ConnectOptions(url=server.url, internals=internals, user_jwt=token, seed=foreign))
        creds = tmp_path / "user.creds"
        creds.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
        async with connected(server.url, internals=internals, credentials=str(creds)) as connection:
            await connection.flush()
        with pytest.raises(LatticeError, match=r"none\.creds: No such file") as caught:
            await connect(ConnectOptions(url=server.url, internals=internals, credentials=str(tmp_path / "none.creds")))
        assert caught.value.code is Code.INVALID
    finally:
        server.stop()


async def test_no_server_is_one_sentence_in_bounded_time() -> None:
    url = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(Unreachable, match=f"no NATS server at nats://{url}: connection refused; start") as caught:
        await connect(ConnectOptions(url=url))
    assert caught.value.code is Code.DISCONNECTED
    assert time.monotonic() - started < 2


async def test_a_silent_or_foreign_listener_is_no_server(internals: bool) -> None:
    line = b""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(line)
        await reader.read()
        writer.close()

    for line, words in ((b"", "no answer within 0.3 s"), (b"SSH-2.0-OpenSSH\r\n", "INFO")):  # noqa: B007
        listener = await asyncio.start_server(say, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        started = time.monotonic()
        with pytest.raises(Unreachable, match=words):
            await connect(ConnectOptions(url=f"nats://127.0.0.1:{port}", connect_timeout=0.3, internals=internals))
        assert time.monotonic() - started < 3
        listener.close()


async def test_the_second_address_is_used_when_the_first_is_dead(nats_server: NatsServer) -> None:
    async with connected(f"nats://127.0.0.1:{free_port()}, {nats_server.url}") as connection:
        assert connection.server == nats_server.url


def test_addresses_are_completed_and_nonsense_is_named() -> None:
    assert addresses.parse("localhost") == ("nats://localhost:4222",)
    assert addresses.parse("10.0.0.1:5, tls://b") == ("nats://10.0.0.1:5", "tls://b:4222")
    assert addresses.parse("") == ("nats://127.0.0.1:4222",)
    for text in ("http://x", "nats://", "nats://h:port", "nats://user:secret@h:port"):
        with pytest.raises(LatticeError, match="is not the address") as caught:
            addresses.parse(text)
        assert caught.value.code is Code.INVALID
        assert "secret" not in str(caught.value)


async def test_drain_sends_what_is_queued_and_closes(nats_server: NatsServer, lattice: str, internals: bool) -> None:
    async with connected(nats_server.url) as watcher:
        seen: list[bytes] = []
        await watcher.subscribe(f"{lattice}.out", lambda s, r, h, payload: seen.append(payload))
        async with connected(nats_server.url, internals=internals) as connection:

            def handler(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
                connection.publish(f"{lattice}.out", payload)

            await connection.subscribe(f"{lattice}.in", handler)
            for number in range(500):
                connection.publish(f"{lattice}.in", b"%d" % number)
            await connection.drain()
            assert connection.state is State.CLOSED
            with pytest.raises(Unreachable, match="was closed"):
                connection.publish("a", b"")
            with pytest.raises(Unreachable, match="was closed"):
                await connection.request("a", b"", timeout=1)
            with pytest.raises(Unreachable, match="was closed"):
                await connection.subscribe("a", handler)
            await connection.drain()
        await watcher.flush()
        assert seen == [b"%d" % number for number in range(500)]


async def test_closing_fails_what_still_waits(nats_server: NatsServer, lattice: str) -> None:
    async with connected(nats_server.url) as connection:
        await connection.subscribe(lattice, lambda *_: None)
        tasks = [asyncio.create_task(connection.request(lattice, b"", timeout=30)) for _ in range(10)]
        tasks.append(asyncio.create_task(connection.gather(lattice, b"", timeout=30)))  # type: ignore[arg-type]
        await eventually(lambda: connection.requests_waiting == 11)
        await connection.close()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 2)
        assert {getattr(outcome, "code", None) for outcome in outcomes} == {Code.DISCONNECTED}


async def test_large_messages_and_many_in_flight(nats_server: NatsServer, lattice: str, internals: bool) -> None:
    async with (
        connected(nats_server.url, internals=internals) as server,
        connected(nats_server.url, internals=internals) as client,
    ):
        await server.subscribe(lattice, echo(server))
        bodies = [bytes([number]) * 900_000 for number in range(24)]
        replies = await asyncio.gather(*(client.request(lattice, body, timeout=20) for body in bodies))
        assert [reply.payload for reply in replies] == bodies
        numbers = [b"%d" % number for number in range(3000)]
        replies = await asyncio.gather(*(client.request(lattice, number, timeout=20) for number in numbers))
        assert [reply.payload for reply in replies] == numbers


async def test_a_flood_leaves_the_loop_responsive(nats_server: NatsServer, lattice: str) -> None:
    async with connected(nats_server.url) as sender, connected(nats_server.url) as receiver:

        def work(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            end = time.thread_time() + 0.0002
            while time.thread_time() < end:
                pass

        await receiver.subscribe(lattice, work)
        for _ in range(5000):
            sender.publish(lattice, b"x" * 100)
        longest = 0.0  # of processor time: on a busy machine others come between
        for _ in range(200):
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)
        assert longest < 0.1


async def test_changed_internals_of_the_library_are_noticed_and_worked_around(
    nats_server: NatsServer, lattice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await natswires.internals_problem() is None

    async def renamed(self: object, *arguments: object) -> None:
        """What a future nats-py might call instead."""

    monkeypatch.setattr(natswires.DirectClient, "_process_msg", renamed)
    with capture_logs() as logs:
        async with connected(nats_server.url) as connection:
            await connection.subscribe(lattice, echo(connection))
            assert (await connection.request(lattice, b"x", timeout=2)).payload == b"x"
    assert [entry["event"] for entry in logs] == ["connection.slow_path"]
