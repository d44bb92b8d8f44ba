"""As whom a process connects, against real servers in operator mode, with static keys and with TLS."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lattice.connection import Connection, ConnectOptions, Limits, connect
from lattice.errors import Code, LatticeError, NotAuthorized, Unreachable
from lattice.keys import KeyPair, Role
from lattice.login import Login, TlsFiles, read_credentials
from lattice.transport import State
from tests.support.certificates import Authority, encrypt_key, make_certificate
from tests.support.nats import NatsServer
from tests.support.operator import Operator, write_credentials
from tests.support.waiting import eventually

FAST = Limits(retry_min=0.02, retry_max=0.2, confirm_timeout=5.0, drain_timeout=2.0)


@pytest.fixture(params=[True, False], ids=["direct", "public"])
def internals(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def files(authority: Authority) -> TlsFiles:
    """Those of a client that the server of :func:`verifying` knows."""
    client = authority.signed("client", client=True)
    return TlsFiles(ca=str(authority.certificate), certificate=str(client.certificate), key=str(client.key))


@pytest.fixture(scope="module")
def verifying(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that takes clients with a certificate of the authority only."""
    made = authority.signed("server")
    config = (
        f'tls {{ cert_file: "{made.certificate}", key_file: "{made.key}", ca_file: "{authority.certificate}", '
        "verify: true, timeout: 5 }\n"
    )
    server = NatsServer(tmp_path_factory.mktemp("tls"), jetstream=False, config=config).start()
    yield server
    server.stop()


async def opened(options: ConnectOptions, *, internals: bool = True) -> Connection:
    return await connect(replace(options, internals=internals, limits=FAST))


async def round_trip(connection: Connection) -> None:
    await connection.subscribe("x.y", lambda subject, reply, headers, payload: connection.publish(reply, payload))
    assert (await connection.request("x.y", b"!", timeout=5)).payload == b"!"


async def test_a_client_certificate_opens_a_server_that_verifies_its_clients(
    verifying: NatsServer, files: TlsFiles, internals: bool
) -> None:
    for url in (verifying.url, verifying.url.replace("nats://", "tls://")):
        connection = await opened(ConnectOptions(url=url, tls=files), internals=internals)
        try:
            assert connection.encrypted
            await round_trip(connection)
        finally:
            await connection.close()


async def test_each_way_in_which_tls_can_fail_is_one_sentence(
    verifying: NatsServer, files: TlsFiles, authority: Authority, internals: bool, tmp_path: Path
) -> None:
    stranger = make_certificate(tmp_path, "stranger")
    cases: list[tuple[TlsFiles, type[LatticeError], str]] = [
        (
            TlsFiles(ca=str(stranger.certificate), certificate=files.certificate, key=files.key),
            Unreachable,
            "--nats-tls-ca",
        ),
        (TlsFiles(), Unreachable, "not trusted"),
        (replace(files, name="nats.example"), Unreachable, "nats.example"),
        (TlsFiles(ca=files.ca), NotAuthorized, "wants a client certificate"),
        (
            TlsFiles(ca=files.ca, certificate=str(stranger.certificate), key=str(stranger.key)),
            NotAuthorized,
            "wants a client certificate that it knows",
        ),
    ]
    for tls, kind, words in cases:
        begun = time.monotonic()
        with pytest.raises(kind, match=words) as caught:
            await opened(ConnectOptions(url=verifying.url, tls=tls), internals=internals)
        assert time.monotonic() - begun < 5
        assert "\n" not in str(caught.value), str(caught.value)


async def test_files_that_cannot_be_used_are_named_before_anything_is_sent(files: TlsFiles, tmp_path: Path) -> None:
    locked, empty = tmp_path / "locked.key", tmp_path / "empty.pem"
    other = make_certificate(tmp_path, "other")
    encrypt_key(other, locked)
    empty.write_text("nothing")
    for tls, words in (
        (TlsFiles(ca="/nowhere/ca.pem"), "/nowhere/ca.pem: no such file"),
        (TlsFiles(ca=str(empty)), "should hold certificates to trust, as PEM"),
        (TlsFiles(certificate="/nowhere/me.pem"), "/nowhere/me.pem: no such file"),
        (TlsFiles(key=files.key), "name both"),
        (replace(files, key=str(other.key)), "does not hold the key"),
        (TlsFiles(certificate=str(other.certificate), key=str(locked)), "passphrase"),
        (TlsFiles(certificate=str(empty), key=str(empty)), "PEM"),
    ):
        with pytest.raises(LatticeError, match=words) as caught:
            await connect(ConnectOptions(url="nats://127.0.0.1:1", tls=tls))
        assert caught.value.code is Code.INVALID


async def test_a_server_without_tls_learns_no_password_where_tls_is_demanded(tmp_path: Path, internals: bool) -> None:
    """A server that leaves TLS out of its greeting may stand between us and the real one."""
    heard = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"auth_required":true}\r\n')
        while data := await reader.read(4096):
            heard.extend(data)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(Unreachable, match=r"no TLS connection to .* does not speak it"):
            await opened(ConnectOptions(url=f"tls://me:secret@127.0.0.1:{port}"), internals=internals)
        token, seed = Operator().user(expires=time.time() - 100)
        with pytest.raises(Unreachable, match=r"no TLS connection to .* does not speak it"):
            await opened(ConnectOptions(url=f"tls://127.0.0.1:{port}", user_jwt=token, seed=seed), internals=internals)
        assert bytes(heard) == b""
    finally:
        server.close()


async def test_a_renewed_credentials_file_is_taken_at_the_next_connection(tmp_path: Path, internals: bool) -> None:
    """The token ends, the server ends the connection, and with it every attempt until the file is renewed."""
    operator = Operator()
    server = NatsServer(tmp_path / "nats", jetstream=False, config=operator.config).start()
    try:
        token, seed = operator.user(expires=time.time() + 2)
        creds = write_credentials(tmp_path / "user.creds", token, seed)
        with capture_logs() as logs:
            connection = await opened(ConnectOptions(url=server.url, credentials=str(creds)), internals=internals)
            try:
                await round_trip(connection)
                refusals = lambda: [e for e in logs if e["event"] == "connection.retry" and "expired on" in e["error"]]  # noqa: E731
                await eventually(refusals, timeout=15)
                assert connection.state is State.RECONNECTING
                assert refusals()[0]["log_level"] == "warning"
                await eventually(lambda: len(refusals()) > 5, timeout=10)
                warned = [entry["error"] for entry in refusals() if entry["log_level"] == "warning"]
                assert len(warned) == len(set(warned)) < 4, "each once"
                with pytest.raises(NotAuthorized, match=r"expired on .* UTC: get a new one"):
                    await opened(ConnectOptions(url=server.url, credentials=str(creds)), internals=internals)
                write_credentials(creds, *operator.user(seed=seed))
                await eventually(lambda: connection.state is State.CONNECTED, timeout=30)
                assert (await connection.request("x.y", b"?", timeout=5)).payload == b"?"
            finally:
                await connection.close()
        assert not [entry for entry in logs if seed in str(entry) or token in str(entry)]
    finally:
        server.stop()


async def test_a_revoked_user_is_put_out_and_a_new_one_let_in(tmp_path: Path) -> None:
    operator = Operator()
    server = NatsServer(tmp_path / "nats", jetstream=False, config=operator.config).start()
    try:
        creds = write_credentials(tmp_path / "user.creds", *operator.user())
        connection = await opened(ConnectOptions(url=server.url, credentials=str(creds)))
        try:
            operator.revoke(read_credentials(creds).seed)
            server.configure(operator.config)
            os.kill(server.pid, signal.SIGHUP)
            await eventually(lambda: connection.state is State.RECONNECTING, timeout=30)
            with pytest.raises(NotAuthorized, match=r"refused the given credentials .* or revoked"):
                await opened(ConnectOptions(url=server.url, credentials=str(creds)))
            write_credentials(creds, *operator.user())
            await eventually(lambda: connection.state is State.CONNECTED, timeout=30)
        finally:
            await connection.close()
    finally:
        server.stop()


async def test_a_file_with_a_seed_alone_is_a_static_nkey_user(tmp_path: Path) -> None:
    user = KeyPair.generate(Role.USER)
    config = f'authorization {{ users: [ {{ nkey: "{user.public}" }} ] }}'
    server = NatsServer(tmp_path / "nats", jetstream=False, config=config).start()
    try:
        file = tmp_path / "user.nk"
        file.write_text(user.seed + "\n")
        connection = await opened(ConnectOptions(url=server.url, credentials=str(file)))
        await connection.close()
        file.write_text(KeyPair.generate(Role.USER).seed)
        with pytest.raises(NotAuthorized, match="refused the given credentials"):
            await opened(ConnectOptions(url=server.url, credentials=str(file)))
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "needs a user token and a seed"),
        ("-----BEGIN NATS USER JWT-----\nabc\n", "needs a user token and a seed"),
        ("SUAB SECRET", "needs a user token and a seed"),
        ("SUABSECRET", "must begin with SU"),
        ("x" * 70_000, "larger than"),
        (f"-----BEGIN A-----\nJ.J.J\n-----BEGIN B-----\n{KeyPair.generate(Role.ACCOUNT).seed}\n", "must begin with SU"),
    ],
)
async def test_a_broken_credentials_file_is_named_without_its_content(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "user.creds"
    file.write_text(content)
    with pytest.raises(LatticeError, match=words) as caught:
        await connect(ConnectOptions(url="nats://127.0.0.1:1", credentials=str(file)))
    assert not content or content.rsplit(maxsplit=1)[-1] not in str(caught.value)


def test_the_end_of_a_token_is_read_and_garbage_has_none() -> None:
    token, seed = Operator().user(expires=1_900_000_000)
    assert Login(jwt=token, seed=seed).expires == 1_900_000_000
    assert Login(jwt=Operator().user()[0]).expires is None
    for garbage in ("", "x", "a.b.c", "a.e30.c", "..", "a.W10.c"):
        assert Login(jwt=garbage).expires is None
    assert seed not in repr(Login(jwt=token, seed=seed))


def test_tls_is_new_enough(files: TlsFiles) -> None:
    assert files.context().minimum_version >= ssl.TLSVersion.TLSv1_2
