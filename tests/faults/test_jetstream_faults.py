"""JetStream under a lattice at work: full, out of disk, read-only, off, or with its streams deleted."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from lattice.connection import ConnectOptions, connect
from lattice.keys import KeyPair, Role
from tests.support.fleet import Fleet
from tests.support.http import answers
from tests.support.nats import NatsServer
from tests.support.processes import run
from tests.support.tmpfs import small_disk

LARGE = 2_000_000
ELSEWHERE = KeyPair.generate(Role.MODULE).public


def post_large(fleet: Fleet) -> tuple[int, str]:
    """A body that has to go through the object store; the status, and the error if there is one."""
    connection = http.client.HTTPConnection("127.0.0.1", fleet.http_port, timeout=30)
    try:
        connection.request("POST", "/large", bytes(LARGE))
        response = connection.getresponse()
        body = json.loads(response.read())
        return response.status, body.get("error", "")
    finally:
        connection.close()


def put_link(fleet: Fleet, value: str) -> subprocess.CompletedProcess[str]:
    """Change the link of an actor that runs nowhere."""
    values = (f"URL=redis://{fleet.redis.address}/", f"value={value}")
    return run(["link", "put", ELSEWHERE, "bundled:keyvalue-redis", *values], env=fleet.env)


async def ask_jetstream(url: str, operation: str) -> bytes:
    connection = await connect(ConnectOptions(url=url))
    try:
        return (await connection.request(f"$JS.API.{operation}", b"", timeout=5)).payload
    finally:
        await connection.close()


def test_a_jetstream_whose_disk_is_full_is_named_and_calls_go_on(
    new_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", size="24m") as disk:
        fleet = new_fleet(NatsServer(tmp_path / "disk" / "nats"))
        try:
            host = fleet.host("one")
            fleet.start_counter("one")
            assert post_large(fleet) == (200, "")
            with fleet.load() as load:
                disk.fill()
                status, error = post_large(fleet)
                assert (status, "if its disk is full or read-only" in error) == (504, True), error
                refused = put_link(fleet, "x" * 8192)  # more than may be left of the file's last page
                assert refused.returncode == 7
                assert "if its disk is full or read-only" in refused.stderr, refused.stderr
                load.wait_for_more(50, timeout=10)
                assert not load.failures, load.reasons
                disk.empty()
                fleet.nats.restart()
                load.wait_until_well(timeout=15)
            assert post_large(fleet) == (200, "")
            assert put_link(fleet, "kept").returncode == 0
            assert any("kept" in values for _, _, values in fleet.links())
            fleet.check_counted(load)
            print(f"disk full: {load.figures()}")
            assert host.stop(signal.SIGTERM) == 0
        finally:
            fleet.stop()


def test_a_jetstream_that_is_full_off_or_emptied_is_named_and_calls_go_on_with_the_known_links(
    new_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    limited = f'jetstream {{ store_dir: "{store}", max_file_store: 1MB }}\n'
    fleet = new_fleet(NatsServer(tmp_path / "nats", jetstream=False, config=limited))
    host = fleet.host("one")
    fleet.start_counter("one")
    links = sorted(fleet.links())
    with fleet.load() as load:
        status, error = post_large(fleet)
        assert (status, "JetStream refused" in error) == (413, True), error
        load.wait_for_more(50, timeout=10)
        assert not load.failures, load.reasons

        fleet.nats.stop()
        fleet.nats.start(config="")
        load.wait_until_well(timeout=15)
        host.wait_for_output("metadata.degraded", timeout=15)
        status, error = post_large(fleet)
        assert (status, "start the server with -js" in error) == (413, True), error
        refused = put_link(fleet, "lost")
        assert (refused.returncode, "start the server with -js" in refused.stderr) == (1, True), refused.stderr
        assert sorted(fleet.links()) == links

        fleet.nats.stop()
        fleet.nats.start(config=limited.replace("1MB", "100MB"))
        host.wait_for_output("metadata.recovered", timeout=15)
        load.wait_until_well(timeout=15)
        assert post_large(fleet) == (200, "")
        before = len(load.failures)
        deleted = asyncio.run(ask_jetstream(fleet.nats.url, "STREAM.DELETE.KV_LATTICEDATA_default"))
        assert b'"success":true' in deleted
        host.wait_for_output("metadata.lost", timeout=30)
        host.wait_until(lambda: answers(fleet.http_port, "/warm"), timeout=5, what="an answer")
        assert put_link(fleet, "kept").returncode == 0
        assert sorted(values for _, _, values in fleet.links() if "kept" not in values) == sorted(
            values for _, _, values in links
        )
        load.wait_for_more(50, timeout=10)
        assert len(load.failures) == before, "the loss of the bucket costs no call"
    fleet.check_counted(load)
    print(f"JetStream gone: {load.figures()}")
    assert host.stop(signal.SIGTERM) == 0
    again = fleet.host("one")
    assert len(fleet.links()) == len(links) + 1, "they are in the bucket again, not only in a host"
    assert again.stop(signal.SIGTERM) == 0


def test_a_jetstream_that_may_only_be_read_is_named_and_used_again_once_it_may_be_written(
    new_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = new_fleet(NatsServer(tmp_path / "nats", config=denying("nothing")))
    fleet.env["WASMHOST_NATS_URL"] = url = fleet.nats.login_url("host")
    host = fleet.host("one", url=url)
    fleet.start_counter("one")
    assert post_large(fleet) == (200, "")
    links = sorted(fleet.links())
    with fleet.load() as load:
        fleet.nats.reload(denying("$KV.>", "$O.>", "$JS.API.STREAM.CREATE.>", "$JS.API.STREAM.PURGE.>"))
        refused = put_link(fleet, "lost")
        assert (refused.returncode, "permit" in refused.stderr) == (8, True), refused.stderr
        status, error = post_large(fleet)
        assert (status, "permit" in error) == (500, True), error
        assert sorted(fleet.links()) == links
        load.wait_for_more(50, timeout=10)
        assert not load.failures, load.reasons

        fleet.nats.reload(denying("nothing"))
        host.wait_until(lambda: put_link(fleet, "kept").returncode == 0, timeout=15, what="a link that is stored")
        assert post_large(fleet) == (200, "")
        assert not load.failures, load.reasons
    fleet.check_counted(load)
    print(f"JetStream read-only: {load.figures()}")
    assert host.stop(signal.SIGTERM) == 0


def denying(*subjects: str) -> str:
    """A server whose one user may publish all but these subjects."""
    denied = ", ".join(f'"{subject}"' for subject in subjects)
    permissions = f"{{publish: {{deny: [{denied}]}}}}"
    return f'authorization {{ users: [ {{user: "host", password: "pw", permissions: {permissions}}} ] }}\n'
