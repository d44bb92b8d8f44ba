"""docs/actors.md, followed from top to bottom by somebody who types what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.nats import free_port
from tests.support.processes import ROOT, Running, user_environment

PAGE = ROOT / "docs" / "actors.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"This is `([^`]+)`[^`]*$")


@dataclass(frozen=True)
class Step:
    """One block of the page."""

    language: str
    text: str
    file: str
    """The file that a source block is to be saved as; empty for commands and what they print."""


def steps(page: str) -> list[Step]:
    found = []
    for block in BLOCK.finditer(page):
        named = FILE.search(page[: block.start()].rpartition("```")[2])
        found.append(Step(block[1], block[2], named[1] if named and block[1] not in ("sh", "text") else ""))
    return found


class Terminal:
    """A shell in a folder that looks like the clone; ``wasmhost up`` goes on in the background, as on the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = user_environment(folder / "home", PATH=tools)
        self.up: Running | None = None

    def type(self, line: str) -> str:
        """Run one command line; returns what it printed. Fails the test if the command fails."""
        if line.startswith("wasmhost up "):
            self.up = Running(shlex.split(line)[1:], env=self.env, cwd=self.folder)
            self.up.wait_for_output("Ready after")
            return ""
        done = subprocess.run(
            ["bash", "-c", line],
            capture_output=True,
            text=True,
            env=self.env,
            cwd=self.folder,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def close(self) -> None:
        if self.up is not None:
            self.up.kill()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    shutil.copytree(ROOT / "actors", tmp_path / "actors")
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


def test_the_page_works_as_it_is_written(terminal: Terminal) -> None:
    port = free_port()
    printed: dict[str, str] = {}
    last = ""
    for step in steps(PAGE.read_text()):
        text = step.text.replace(":8080", f":{port}")
        if step.file:
            (terminal.folder / step.file).write_text(text)
        elif step.language == "sh":
            for line in text.splitlines():
                last = printed[line] = terminal.type(line)
        elif step.language == "text":
            assert last == text
    health = next(output for line, output in printed.items() if "Actor.HealthRequest" in line)
    assert '"healthy": true' in health
    inspected = printed["wasmhost claims inspect hello/visits_s.wasm"]
    assert "demo/visits" in inspected
    assert "wasmcloud:keyvalue" in inspected
    assert (terminal.folder / "home" / "actor-keys" / "account.nk").stat().st_mode & 0o777 == 0o600
    assert terminal.up is not None
    assert terminal.up.stop() == 0, terminal.up.output


def test_every_block_of_the_page_is_understood() -> None:
    found = steps(PAGE.read_text())
    assert [step.file for step in found if step.file] == ["hello/hello.rs", "hello/hello.yaml", "hello/visits.rs"]
    assert {step.language for step in found} == {"sh", "text", "rust", "yaml", "json"}
    assert len([step for step in found if step.language == "sh"]) >= 6
