"""Clocks that are set an hour forward and back under load, and machines whose clocks disagree by an hour."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.clock import Clock
from tests.support.fleet import Fleet
from tests.support.http import get
from tests.support.processes import ROOT, descendants, run, wait_until

HOUR = 3600


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


def test_a_clock_set_by_an_hour_costs_the_calls_on_their_way_and_restarts_nothing(fleet: Fleet, clock: Clock) -> None:
    one = fleet.host("one", prefix=clock.prefix)
    fleet.start_counter("one")
    before = descendants(one.process.pid)
    assert len(before) == 2
    clients = 3
    with fleet.load(clients=clients) as load:
        load.wait_for_more(50, timeout=20)
        for jump, offset in enumerate((HOUR, 0, -HOUR, 0), 1):
            clock.set(offset)
            assert load.wait_for_more(100, timeout=20) < 2, "goes on at once"
            assert len(load.failures) <= jump * clients, load.reasons
            assert abs(date_of(fleet.http_port) - time.time() - offset) < 10, "its providers are on the same machine"
        shown = one.output
    assert all("clock" in reason for reason in load.reasons), load.reasons
    fleet.check_counted(load)
    assert descendants(one.process.pid) == before, "the same processes"
    for event in ("provider.died", "provider.hung", "nats.state"):
        assert event not in shown
    assert len(fleet.host_ids()) == 1
    assert one.stop(timeout=15) == 0


def date_of(port: int) -> float:
    """The time that the HTTP provider writes into its answers, in seconds since the epoch."""
    with urlopen(f"http://127.0.0.1:{port}/date", timeout=10) as answer:
        return parsedate_to_datetime(answer.headers["Date"]).timestamp()


def test_machines_whose_clocks_differ_by_an_hour_say_so_and_work_again_once_they_agree(
    fleet: Fleet, clock: Clock
) -> None:
    one = fleet.host("one")
    two = fleet.host("two", prefix=clock.prefix)
    fleet.start_counter("two", providers_on="one")
    processes = descendants(one.process.pid)
    for offset, direction in ((HOUR, "ahead of"), (-HOUR, "behind")):
        clock.set(offset)
        began = time.monotonic()
        status, body = get(fleet.http_port, "/refused")
        assert (status, time.monotonic() - began < 2) == (500, True), body
        assert "compare the clocks" in json.loads(body)["error"]
        doctor = run(["doctor", "-o", "json"], env=fleet.env)
        told = [each for each in json.loads(doctor.stdout)["checks"] if each["check"] == "clocks"]
        assert [(each["level"], direction in each["message"]) for each in told] == [("fail", True)], told
        assert doctor.returncode == 1

        # whoever asks may be the one that is wrong; its own host is of the same mind, the other one is not
        called = run(["call", "kvcounter", "HttpServer.HandleRequest", REQUEST], env=fleet.env)
        assert (called.returncode, "compare the clocks" in called.stderr) == (8, True), called.stderr
    clock.set(0)
    wait_until(lambda: get(fleet.http_port, "/again")[0] == 200, timeout=5, what="an answer once the clocks agree")
    assert fleet.counter("refused") == 0, "what is refused is not executed"
    assert descendants(one.process.pid) == processes
    assert two.process.poll() is None


REQUEST = json.dumps({"method": "GET", "path": "/refused", "queryString": "", "header": {}, "body": ""})
"""For the counter; refused before it is read."""


def test_a_client_whose_clock_is_an_hour_off_is_refused_with_the_reason(fleet: Fleet, clock: Clock) -> None:
    fleet.host("one")
    fleet.do("start", "actor", str(ROOT / "actors" / "echo" / "echo_s.wasm"))
    for offset in (HOUR, -HOUR):
        clock.set(offset)
        called = run(["call", "echo", "HttpServer.HandleRequest", REQUEST], env={**fleet.env, **clock.env})
        assert (called.returncode, "compare the clocks" in called.stderr) == (8, True), called.stderr
    clock.set(0)
    called = run(["call", "echo", "HttpServer.HandleRequest", REQUEST], env={**fleet.env, **clock.env})
    assert called.returncode == 0, called.stderr
