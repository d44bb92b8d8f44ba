"""A link to the NATS server that is slow, or that swallows everything without a word."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.http import get
from tests.support.nats import QUICK_PINGS, NatsServer
from tests.support.processes import ROOT, Running
from tests.support.proxy import Proxy


def test_a_half_open_connection_is_noticed_within_ten_seconds_and_replaced(
    new_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = new_fleet(NatsServer(tmp_path / "nats", config=QUICK_PINGS))
    with Proxy(fleet.nats.port) as link:
        one = fleet.host("one", url=link.url)
        fleet.start_counter("one")
        with fleet.load() as load:
            load.wait_for_more(100, timeout=20)
            link.fall_silent()
            silent = time.monotonic()
            time.sleep(0.1)
            began = time.monotonic()
            status, _ = get(fleet.http_port, "/unknown")
            assert status in (503, 504)
            assert time.monotonic() - began < 4, "it fails within its deadline"
            one.wait_for_output("does not answer pings", timeout=15)
            noticed = time.monotonic() - silent
            link.forward_new()
            back = time.monotonic()
            load.wait_until_well(timeout=25)
            recovery = load.failures[-1][0] - back
        print(f"half-open: {load.figures()}; noticed after {noticed:.1f} s, last failure {recovery:.2f} s after")
        assert noticed < 10
        assert load.longest < 4
        assert recovery < 10
        fleet.check_counted(load)
        assert [provider["restarts"] for provider in fleet.ask("get", "providers")["providers"]] == [0, 0]
        assert one.stop(signal.SIGTERM) == 0


def test_on_a_link_of_200_ms_everything_works_and_takes_its_time(
    fleet: Fleet, start: Callable[..., Running], tmp_path: Path
) -> None:
    manifest = tmp_path / "application.yaml"
    text = (ROOT / "manifests" / "kvcounter-redis.yaml").read_text().replace("../actors", str(ROOT / "actors"))
    text = text.replace("127.0.0.1:8080", f"127.0.0.1:{fleet.http_port}").replace("127.0.0.1:6379", fleet.redis.address)
    manifest.write_text(text)
    with Proxy(fleet.nats.port, delay=0.1) as link:
        fleet.env["WASMHOST_NATS_URL"] = link.url
        up = start("up", "--nats-url", link.url, str(manifest))
        up.wait_for_output("Ready after", timeout=90)
        with fleet.load() as load, ThreadPoolExecutor() as several:
            nouns = ("hosts", "links", "providers")
            hosts, links, providers = several.map(lambda noun: fleet.ask("get", noun)[noun], nouns)
            load.wait_for_more(20, timeout=30)
        print(f"200 ms: {up.lines[-1]} {load.figures()}")
        assert (len(hosts), len(links)) == (1, 2)
        assert [(provider["state"], provider["restarts"]) for provider in providers] == [("ready", 0)] * 2
        assert not load.failures, load.reasons
        fleet.check_counted(load)
        assert up.stop(signal.SIGTERM) == 0
