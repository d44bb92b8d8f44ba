"""docs/operations.md, followed by somebody with two machines; here they are two hosts in folders of this one."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nats import NatsServer, free_port
from tests.support.pages import Step, Terminal, steps
from tests.support.processes import Running, wait_until


class Machines:
    """What the page puts on servers: the NATS server, and hosts started as the unit says."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.folder = terminal.folder
        self.state = self.folder / "var" / "wasmhost"
        self.state.mkdir(parents=True)
        (self.folder / "srv").mkdir()
        self.http_port = free_port()
        self.nats = NatsServer(self.folder / "nats")
        self.hosts: dict[str, Running] = {}
        self.page = steps("operations")

    def here(self, text: str) -> str:
        """Text of the page with the places and ports of this machine."""
        for there, place in (
            ("/etc/wasmhost", self.folder),
            ("/var/lib/wasmhost", self.state),
            ("-C /var/lib", f"-C {self.state.parent}"),
            ("/srv/wasmhost", self.folder / "srv"),
            ("nats://nats.example:4222", self.nats.url),
            ("0.0.0.0:8080", f"127.0.0.1:{self.http_port}"),
        ):
            text = text.replace(there, str(place))
        return text

    def block(self, language: str, file: str = "") -> Step:
        (found,) = [step for step in self.page if step.language == language and step.file == file]
        return found

    def type(self, *commands: str) -> None:
        """The command blocks of the page that begin with these, line by line."""
        for command in commands:
            (step,) = [step for step in self.page if step.language == "sh" and step.text.startswith(command)]
            for line in step.text.splitlines():
                self.terminal.type(self.here(line))

    def start_nats(self) -> None:
        public = self.terminal.type("wasmhost keys get nats-user --directory .").strip()
        shown = self.block("conf", "nats.conf").text.replace("U…", public)
        kept = [line for line in shown.splitlines() if not line.startswith(("listen", "jetstream"))]
        self.nats.start(config="\n".join(kept) + "\n")

    def start_host(self, name: str) -> None:
        unit = self.here(self.block("ini", "wasmhost.service").text).replace("%l", name)
        (command,) = re.findall("^ExecStart=(.*)$", unit, re.MULTILINE)
        program, *arguments = shlex.split(command)
        assert program == "/opt/wasmhost/bin/wasmhost"
        settings = dict(re.findall("^Environment=([^=]*)=(.*)$", unit, re.MULTILINE))
        settings["WASMHOST_PROBES"] = f"127.0.0.1:{free_port()}"
        self.hosts[name] = Running(arguments, env=self.terminal.env | settings)
        self.hosts[name].wait_for_output("host.started")
        with urllib.request.urlopen(f"http://{settings['WASMHOST_PROBES']}/readyz", timeout=10) as ready:
            assert ready.status == 200

    def count(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/", timeout=10) as answer:
            return int(json.loads(answer.read())["counter"])

    def runs(self) -> dict[str, tuple[list[int], list[str]]]:
        """By host: numbers of instances, states of providers."""
        found = json.loads(self.terminal.type("wasmhost get inventory -o json"))["hosts"]
        return {
            host["friendly_name"]: (
                [actor["instances"] for actor in host["actors"]],
                sorted(provider["state"] for provider in host["providers"]),
            )
            for host in found
        }


@pytest.fixture
def machines(terminal: Terminal) -> Iterator[Machines]:
    found = Machines(terminal)
    yield found
    for host in found.hosts.values():
        host.kill()
    found.nats.stop()


def test_two_machines_become_one_lattice_are_upgraded_and_restored(machines: Machines, terminal: Terminal) -> None:
    machines.type("wasmhost keys gen")
    machines.start_nats()
    account = terminal.type("wasmhost keys get account --directory .").strip()
    settings = machines.here(machines.block("yaml", "host.yaml").text).replace("A…", account)
    (terminal.folder / "host.yaml").write_text(settings)
    shutil.copy2(terminal.folder / "cluster.nk", machines.state)
    for name in ("one", "two"):
        machines.start_host(name)

    machines.type("wasmhost ctx new", "wasmhost claims sign", "wasmhost start actor")
    assert machines.runs() == {"one": ([2], ["ready", "ready"]), "two": ([2], [])}
    assert [machines.count() for _ in range(3)] == [1, 2, 3]

    machines.type("wasmhost drain")
    assert machines.hosts["one"].process.wait(30) == 0, "the unit leaves it stopped"
    assert machines.runs() == {"two": ([4], ["ready", "ready"])}
    machines.start_host("one")
    machines.type("wasmhost uncordon")
    assert machines.runs() == {"one": ([], ["ready"]), "two": ([4], ["ready"])}
    assert machines.count() == 4

    machines.type("tar ")
    for host in machines.hosts.values():
        host.kill()
    shutil.rmtree(machines.state)
    terminal.type(f"tar -C {machines.state.parent} -xzf wasmhost-one.tgz")
    for name in ("one", "two"):
        machines.start_host(name)
    back = {"one": ([], ["ready"]), "two": ([4], ["ready"])}
    wait_until(lambda: machines.runs() == back, timeout=60, what="what ran runs again")
    assert machines.count() == 5


def test_the_unit_is_one_that_systemd_understands(machines: Machines, tmp_path: Path) -> None:
    checker = shutil.which("systemd-analyze")
    unit = machines.block("ini", "wasmhost.service").text
    assert re.findall(r"^\[(\w+)\]$", unit, re.MULTILINE) == ["Unit", "Service", "Install"]
    if checker is None:
        return
    path = tmp_path / "wasmhost.service"
    path.write_text(unit.replace("/opt/wasmhost/bin/wasmhost", "/bin/true"))
    checked = subprocess.run([checker, "verify", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert "wasmhost.service" not in checked.stderr, checked.stderr
