"""Pages of the documentation, followed from top to bottom by somebody who types what they say."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.nats import free_port
from tests.support.processes import ROOT, Running, user_environment

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"This is `([^`]+)`[^`]*$")


@dataclass(frozen=True)
class Step:
    """One block of a page."""

    language: str
    text: str
    file: str
    """The file that a source block is to be saved as; empty for commands and what they print."""


def steps(page: str) -> list[Step]:
    """The blocks of ``docs/<page>.md`` in their order."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    found = []
    for block in _BLOCK.finditer(text):
        named = _FILE.search(_without_code_spans(text[: block.start()].rpartition("```")[2]))
        found.append(Step(block[1], block[2], named[1] if named and block[1] not in ("sh", "text") else ""))
    return found


def _without_code_spans(prose: str) -> str:
    """Only the last "This is `file`" counts, whatever else stands in code after it."""
    before, this, after = prose.rpartition("This is `")
    file, tick, rest = after.partition("`")
    return f"{before}{this}{file}{tick}{rest.replace('`', '')}"


class Terminal:
    """A shell in a folder that looks like the clone; ``wasmhost up`` goes on in the background, as on the page."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / "actors", folder / "actors")
        shutil.copytree(ROOT / "manifests", folder / "manifests")
        self.folder = folder
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = user_environment(folder / "home", PATH=tools)
        self.up: Running | None = None

    def follow(self, page: str) -> dict[str, str]:
        """Save every file, type every command, compare every output that the page shows; what each line printed."""
        port = free_port()
        printed: dict[str, str] = {}
        last = ""
        for step in steps(page):
            text = step.text.replace(":8080", f":{port}")
            if step.file:
                (self.folder / step.file).write_text(text)
            elif step.language == "sh":
                for line in text.splitlines():
                    last = printed[line] = self.type(line)
            elif step.language == "text":
                assert last == text
        return printed

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
