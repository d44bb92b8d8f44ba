"""The same application with actors on threads, the fallback, chosen by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.http import answers, get
from tests.support.processes import Running, run


@pytest.mark.parametrize("variant", ["suspendable", "threads"])
def test_an_application_runs_in_either_variant_and_the_host_says_which(
    variant: str,
    start: Callable[..., Running],
    manifest: Callable[[str], Path],
    http_port: int,
    env: dict[str, str],
) -> None:
    flags = ["--guest-threads", "--hosts", "2"] if variant == "threads" else []
    up = start("up", "--verbose", *flags, str(manifest("kvcounter")))
    up.wait_until(lambda: answers(http_port, "/warm"), timeout=20, what="the application")
    assert [get(http_port, path)[1] for path in ("/", "/?amount=5")] == [b'{"counter":1}', b'{"counter":6}']
    hosts = json.loads(run(["get", "hosts", "-o", "json"], env=env).stdout)["hosts"]
    assert [host["guests"] for host in hosts] == [variant] * (2 if "--hosts" in flags else 1)
    assert variant in run(["get", "hosts"], env=env).stdout
    up.wait_for_output(f"guests={variant}")
    assert up.stop() == 0
