"""Hosts and providers that are killed, or frozen and go on later, under load."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from tests.support.daemons import freeze
from tests.support.fleet import Fleet
from tests.support.http import answers, get
from tests.support.processes import Running, run, wait_until

HTTP, REDIS = "bundled:httpserver", "bundled:keyvalue-redis"


def providers(fleet: Fleet) -> dict[str, Any]:
    """What `get providers` says, by image reference."""
    return {each["image_ref"]: each for each in fleet.ask("get", "providers")["providers"]}


def start_again(fleet: Fleet, host: str) -> None:
    """Have a host that was killed run what it ran: what it has started by itself is a conflict, exit code 5."""
    from tests.support.fleet import COUNTER

    for provider in (HTTP, REDIS):
        done = run(["start", "provider", provider, "--host", host], env=fleet.env)
        assert done.returncode in (0, 5), done.stderr
    if not any(each["host_name"] == host for each in fleet.ask("get", "actors")["actors"]):
        fleet.do("start", "actor", str(COUNTER), "--host", host)


def test_a_frozen_provider_fails_calls_fast_and_is_replaced(fleet: Fleet) -> None:
    one = fleet.host("one")
    fleet.start_counter("one")
    stale = one.child("keyvalue")
    with fleet.load(clients=3) as load:
        load.wait_for_more(50, timeout=20)
        freeze(stale.pid)
        frozen = time.monotonic()

        def told() -> bool:
            began = time.monotonic()
            status, body = get(fleet.http_port, "/told")
            return status == 500 and b"does not answer health checks" in body and time.monotonic() - began < 0.5

        wait_until(told, timeout=25, what="calls that fail at once, with the reason")
        assert providers(fleet)[REDIS]["state"] != "ready"
        wait_until(lambda: not stale.alive, timeout=30, what="its end")
        load.wait_for_more(50, timeout=20)
        back = time.monotonic()
    assert back - frozen < 45
    one.wait_for_output("provider.hung")
    fleet.check_counted(load)
    assert providers(fleet)[REDIS]["restarts"] == 1
    assert one.child("keyvalue") != stale


def test_a_provider_that_is_frozen_for_a_moment_goes_on_and_nothing_counts_twice(fleet: Fleet) -> None:
    one = fleet.host("one")
    fleet.start_counter("one")
    for name in ("keyvalue", "httpserver"):
        process = one.child(name)
        with fleet.load(clients=3) as load:
            load.wait_for_more(50, timeout=20)
            freeze(process.pid)
            time.sleep(1.5)
            os.kill(process.pid, signal.SIGCONT)
            load.wait_for_more(50, timeout=20)
        assert set(load.statuses) <= {200, 500, 504}
        fleet.check_counted(load)
        fleet.redis.command("DEL", "counter::load")
        assert process.alive
    assert [each["restarts"] for each in providers(fleet).values()] == [0, 0]


def test_a_provider_frozen_when_its_host_is_killed_keeps_no_port(fleet: Fleet) -> None:
    one = fleet.host("one")
    fleet.start_counter("one")
    stale = one.child("httpserver")
    freeze(stale.pid)
    os.kill(one.process.pid, signal.SIGKILL)
    one.process.wait(10)
    # the kernel hangs up on what is frozen and has lost its parent, so it ends even before the host is back
    wait_until(lambda: not stale.alive, timeout=10, what="the end of a provider without a host")

    again = fleet.host("one")
    start_again(fleet, "one")
    again.wait_until(lambda: answers(fleet.http_port, "/x"), timeout=20, what="an answer on the same port")


def hosts_of_calls(fleet: Fleet) -> tuple[Running, Running]:
    """The counter on two hosts, its providers on the first one."""
    fleet.begin_hosts(["one", "two"])
    fleet.start_counter("one", "two")
    return fleet.hosts["one"], fleet.hosts["two"]


def test_a_frozen_host_costs_the_calls_it_is_handed_and_goes_on(fleet: Fleet) -> None:
    one, two = hosts_of_calls(fleet)
    with fleet.load(clients=4) as load:
        load.wait_for_more(100, timeout=20)
        freeze(two.process.pid)
        frozen = time.monotonic()
        time.sleep(6)
        # with four clients it does not take long until each has been handed to the frozen one and waits
        assert load.good_since(frozen) > 0, "the other host answers what it is handed"
        two.process.send_signal(signal.SIGCONT)
        before = len(load.failures)
        load.wait_for_more(200, timeout=20)
        late = [began for began, _ in load.failures[before:] if began > frozen + 8]
    assert set(load.statuses) <= {200, 503, 504}, load.reasons
    assert not late, "once it goes on, nothing fails"
    fleet.check_counted(load)
    executed_late = fleet.counter("load") - load.statuses[200]
    assert executed_late <= 4, "what waited while it was frozen, and what its callers gave up, is not executed"

    process = one.child("keyvalue")
    freeze(one.process.pid)
    time.sleep(4)
    one.process.send_signal(signal.SIGCONT)
    one.wait_until(lambda: answers(fleet.http_port, "/x"), timeout=10, what="an answer after the host goes on")
    assert one.child("keyvalue") == process
    assert [each["restarts"] for each in providers(fleet).values()] == [0, 0], "its providers were well all the time"
