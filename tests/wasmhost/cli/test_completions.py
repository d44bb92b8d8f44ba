"""What the shell completes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import ROOT, WASMHOST, run, user_environment


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``wasmhost`` is this checkout."""
    commands = tmp_path / "bin"
    commands.mkdir()
    script = commands / "wasmhost"
    script.write_text(f'#!/bin/sh\nexec {" ".join(WASMHOST)} "$@"\n')
    script.chmod(0o755)
    env = user_environment(tmp_path / "home")
    return {**env, "PATH": f"{commands}:{env['PATH']}"}


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("wasmhost inv", ""),
        ("wasmhost ins", "inspect"),
        ("wasmhost get hos", "hosts"),
        ("wasmhost up --det", "--detach"),
        ("wasmhost get hosts --context pr", "prod"),
        ("wasmhost ctx del pr", "prod"),
        ("wasmhost nonsense x", ""),
    ],
)
def test_bash_completes(env: dict[str, str], typed: str, completed: str) -> None:
    assert run(["ctx", "new", "prod", "-x", "shop"], env=env).returncode == 0
    words = typed.split()
    program = f"""
        source <(wasmhost completions bash)
        COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}
        _wasmhost_completion wasmhost {words[-1]} {words[-2]}
        echo "${{COMPREPLY[@]}}"
    """
    shown = subprocess.run(
        ["bash", "-c", program], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert (shown.stdout.strip(), shown.stderr) == (completed, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_accepts(env: dict[str, str], shell: str) -> None:
    script = run(["completions", shell], env=env)
    assert script.returncode == 0
    assert "_WASMHOST_COMPLETE" in script.stdout
    assert shell != "fish" or 'string split --max 1 "," $completion' in script.stdout, "a help with commas stays whole"
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script.stdout, text=True, timeout=60, check=True)


def test_an_unknown_shell_is_refused_with_those_that_are_known(env: dict[str, str]) -> None:
    refused = run(["completions", "tcsh"], env=env)
    assert refused.returncode == 2
    assert "'bash', 'zsh', 'fish'" in refused.stderr
