"""What is run when this program starts itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from wasmhost.processes import own_program


def test_no_file_of_the_working_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("structlog", "wasmhost", "click"):
        (tmp_path / f"{name}.py").write_text("open('it_was_run', 'w').close()\nraise SystemExit(99)\n")
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(own_program.own_command("--version"), check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.split()[:1]) == (0, [b"wasmhost"]), done.stderr
    assert not (tmp_path / "it_was_run").exists()


def test_from_the_folder_of_its_own_code_that_code_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(own_program.__file__).parents[2])
    assert "-P" not in own_program.own_command("--version")
