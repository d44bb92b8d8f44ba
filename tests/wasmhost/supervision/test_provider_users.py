"""Users of NATS that a host makes for its providers with a scoped signing key."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lattice import bundled, nats_user
from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import LatticeError, MalformedMessage, NotAuthorized
from lattice.keys import KeyPair, Role
from lattice.login import read_credentials
from lattice.server_errors import Violation
from tests.support.nats import NatsServer
from tests.support.operator import Operator, write_credentials
from tests.support.waiting import eventually
from tests.wasmhost.control.room import opened
from wasmhost.configuration.config import ConfigError, HostConfig, load
from wasmhost.supervision.provider_users import ProviderUsers

STORE = bundled.BUNDLED["keyvalue-memory"]
OTHER = KeyPair.generate(Role.SERVICE).public


def template(lattice: str) -> dict[str, object]:
    """That of docs/security.md."""
    return {
        "pub": {"allow": [f"wasmbus.rpc.{lattice}.*"]},
        "sub": {"allow": [f"wasmbus.rpc.{lattice}.{{{{name()}}}}.>", "_INBOX_providers.{{name()}}.>"]},
        "resp": {"max": 1, "ttl": 60_000_000_000},
    }


def seed_file(folder: Path, key: KeyPair) -> Path:
    file = folder / "signing.nk"
    file.write_text(key.seed)
    file.chmod(0o600)
    return file


def _check_private(path: Path, signing: KeyPair) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert signing.seed not in path.read_text()


@asynccontextmanager
async def trying(options: ConnectOptions) -> AsyncIterator[tuple[Connection, list[Violation]]]:
    connection = await connect(options)
    refused: list[Violation] = []
    connection.on_violation(refused.append)
    try:
        yield connection, refused
    finally:
        await connection.close()


async def test_a_provider_gets_a_user_that_may_do_what_its_template_says_and_no_more(
    config: HostConfig, lattice: str, tmp_path: Path
) -> None:
    operator = Operator()
    signing = operator.scoped_key(template(lattice))
    server = NatsServer(tmp_path / "nats", jetstream=False, config=operator.config).start()
    settings = {
        "WASMHOST_PROV_RPC_SIGNING_KEY": str(seed_file(tmp_path, signing)),
        "WASMHOST_PROV_RPC_ACCOUNT": operator.account,
        "WASMHOST_NATS_URL": server.url,
        "WASMHOST_STATE": str(config.paths.shared),
    }
    endpoint = load({}, settings).providers
    path = Path(endpoint.credentials.replace("{provider}", STORE.public_key))
    transport = await connect(
        ConnectOptions(url=server.url, credentials=str(write_credentials(tmp_path / "host.creds", *operator.user())))
    )
    try:
        async with opened(replace(config, providers=endpoint), transport) as room:
            provider = await room.supervisor.start(STORE.reference)
            await eventually(lambda: provider.running, timeout=20)
            inbox = f"_INBOX_providers.{STORE.public_key}"
            async with trying(ConnectOptions(url=server.url, credentials=str(path), inbox_prefix=inbox)) as (own, no):
                for subject in ("wasmbus.ctl.x.cmd", "wasmbus.evt.x", f"wasmbus.rpc.{lattice}.{OTHER}.default"):
                    no.clear()
                    own.publish(subject, b"x")
                    await own.flush()
                    assert no, subject
                for subject in (">", "_INBOX.>", f"wasmbus.rpc.{lattice}.{OTHER}.default", "wasmbus.rpc.>"):
                    with pytest.raises(NotAuthorized):
                        await own.subscribe(subject, lambda *_: None)
                no.clear()
                own.publish(f"wasmbus.rpc.{lattice}.MACTOR", b"x")
                await own.flush()
                assert not no
    finally:
        await transport.close()
        server.stop()
    _check_private(path, signing)


async def test_a_key_without_a_scope_makes_users_that_may_do_nothing(tmp_path: Path) -> None:
    """An account's own key would let them do everything; their tokens say nothing of limits, which is none at all."""
    operator = Operator()
    token, seed = nats_user.mint(operator._account, account=operator.account, name=OTHER)
    server = NatsServer(tmp_path / "nats", jetstream=False, config=operator.config).start()
    try:
        creds = write_credentials(tmp_path / "x.creds", token, seed)
        with pytest.raises(LatticeError):
            await connect(ConnectOptions(url=server.url, credentials=str(creds)))
    finally:
        server.stop()


def test_a_user_is_renewed_at_half_its_life_and_one_that_cannot_renew_it_has_no_end(tmp_path: Path) -> None:
    now = 1000.0
    key = KeyPair.generate(Role.ACCOUNT)
    users = ProviderUsers(
        seed_file(tmp_path, key), "A" * 56, lambda name: tmp_path / "u" / name, lifetime=600, clock=lambda: now
    )
    ours, theirs = STORE.public_key, OTHER
    users.ensure(ours, renews=True)
    users.ensure(theirs, renews=False)
    first = {name: read_credentials(tmp_path / "u" / name) for name in (ours, theirs)}
    assert first[theirs].expires is None and first[ours].expires is not None
    now += 299
    users.renew({ours, theirs})
    assert read_credentials(tmp_path / "u" / ours) == first[ours]
    now += 2
    users.renew({theirs})
    assert read_credentials(tmp_path / "u" / ours) == first[ours], "it does not run"
    users.renew({ours, theirs})
    assert read_credentials(tmp_path / "u" / ours).user != first[ours].user
    assert read_credentials(tmp_path / "u" / theirs) == first[theirs]


@pytest.mark.parametrize("name", ["*", ">", "", "V*", "{{name()}}", "M" + STORE.public_key[1:]])
def test_nothing_but_a_provider_s_key_is_a_name(name: str) -> None:
    with pytest.raises(MalformedMessage):
        nats_user.mint(KeyPair.generate(Role.ACCOUNT), account="A", name=name)


def test_what_is_no_signing_key_is_told_without_showing_it(tmp_path: Path) -> None:
    wrong = seed_file(tmp_path, KeyPair.generate(Role.USER))
    with pytest.raises(LatticeError, match="holds no signing key of an account") as caught:
        ProviderUsers(wrong, "A", lambda name: tmp_path / name).ensure(OTHER, renews=True)
    assert wrong.read_text() not in str(caught.value)
    with pytest.raises(LatticeError, match="No such file or directory; it should hold a signing key"):
        ProviderUsers(tmp_path / "none", "A", lambda name: tmp_path / name).ensure(OTHER, renews=True)
    with pytest.raises(ConfigError, match="one is there without the other"):
        load({}, {"WASMHOST_PROV_RPC_SIGNING_KEY": "/x.nk", "HOME": str(tmp_path)})
