"""What ``ps`` and ``/proc`` show of a process that was started with seeds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lattice.keys import KeyPair, Role
from tests.support.processes import ROOT

PROGRAM = """
import os, resource, sys
from wasmhost.keys.secret_wiping import wipe_settings
wipe_settings({"cluster_seed": sys.argv[2], "name": sys.argv[3], "host_seed": ""})
wipe_settings({})
shown = open("/proc/self/cmdline", "rb").read() + open("/proc/self/environ", "rb").read()
print(shown.decode().replace("\\0", "\\n"), os.environ.get("WASMCLOUD_HOST_SEED"), os.environ["KEPT"], sep="\\n")
print(resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


COMMAND = """
import sys
from wasmhost.cli import entry
code = entry.run()
shown = open("/proc/self/cmdline", "rb").read().decode().replace("\\0", " ")
print(f"[{code}] {shown}")
"""


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_command_hides_what_it_was_given_and_says_how_not_to_give_it(output: str, tmp_path: Path) -> None:
    seed = KeyPair.generate(Role.CLUSTER).seed
    address = "nats://me:pw@127.0.0.1:1"
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "call", "-o", output, "M" * 56, "X", "-c", seed, "--nats-url", address],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "[6]" in done.stdout and "xxxxx@127.0.0.1" in done.stdout
    assert seed not in done.stdout + done.stderr and "pw" not in done.stdout + done.stderr
    assert ("Warning: a seed on the command line" in done.stderr) is (output == "text")


def test_seeds_on_the_command_line_and_in_the_environment_show_nowhere_once_they_are_read() -> None:
    cluster, host, user = (KeyPair.generate(role).seed for role in (Role.CLUSTER, Role.HOST, Role.USER))
    variables = {"WASMCLOUD_HOST_SEED": host, "WASMCLOUD_RPC_SEED": user, "KEPT": "kept", "COPY": f"x {host}"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--cluster-seed", cluster, "a-name-of-more-than-sixteen"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-3:] == ["None", "kept", "0"], "the last one: bytes of a core dump"
    assert "--cluster-seed\n" + "x" * 58 in done.stdout
    assert "a-name-of-more-than-sixteen" in done.stdout and "KEPT=kept" in done.stdout
    assert [seed for seed in (cluster, host, user) if seed in done.stdout] == []
