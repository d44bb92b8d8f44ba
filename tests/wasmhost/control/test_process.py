"""A provider's child process: what it is told, what is heard of it, and that nothing of it stays."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

from tests.wasmhost.control.waiting import alive, until
from wasmhost.processes.process import ChildProcess, child_environment, describe_exit


async def spawn(folder: Path, lines: list[str], script: str, **options: bool) -> ChildProcess:
    return await ChildProcess.spawn(
        [sys.executable, "-c", textwrap.dedent(script)],
        environment=child_environment(os.environ, home=folder),
        folder=folder,
        first_line=b"hello\n",
        on_line=lines.append,
        **options,
    )


async def test_it_reads_its_line_and_its_output_arrives_as_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    child = await spawn(tmp_path, lines, "import sys; print(input() + '!'); print('e', file=sys.stderr); sys.exit(3)")
    assert await child.wait() == 3
    assert sorted(lines) == ["e", "hello!"]
    await child.kill()


async def test_a_line_without_end_is_cut_not_kept_in_memory(tmp_path: Path) -> None:
    lines: list[str] = []
    child = await spawn(tmp_path, lines, "print('x' * 1_000_000)")
    assert await child.wait() == 0
    assert [len(line) for line in lines] == [8192]
    await child.kill()


async def test_standard_input_stays_open_until_it_is_closed(tmp_path: Path) -> None:
    lines: list[str] = []
    child = await spawn(tmp_path, lines, "import sys; input(); print('up'); sys.stdin.read(); print('orphan')")
    await until(lambda: lines == ["up"])
    assert child.running
    child.close_input()
    assert await child.wait() == 0
    assert lines == ["up", "orphan"]
    await child.kill()


async def test_terminate_ends_a_child_that_ignores_sigterm_and_its_children(tmp_path: Path) -> None:
    lines: list[str] = []
    script = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sleeper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
        print(sleeper.pid, flush=True)
        time.sleep(600)
    """
    child = await spawn(tmp_path, lines, script)
    await until(lambda: bool(lines))
    await child.terminate(grace=0.2)
    assert not child.running
    await until(lambda: not alive(int(lines[0])))


async def test_the_environment_is_an_allow_list(tmp_path: Path) -> None:
    secrets = {"WASMCLOUD_CLUSTER_SEED": "SC", "AWS_SECRET_ACCESS_KEY": "x", "PATH": "/bin", "LANG": "C"}
    assert child_environment(secrets, home=tmp_path) == {
        "PATH": "/bin",
        "LANG": "C",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONUNBUFFERED": "1",
    }


async def test_a_foreign_program_dies_with_its_parent(tmp_path: Path) -> None:
    lines: list[str] = []
    # The parent of the program under test is another process, which then kills itself.
    script = f"""
        import asyncio, os, pathlib, signal, sys
        sys.path[:0] = {sys.path!r}
        from wasmhost.processes.process import ChildProcess

        async def main():
            child = await ChildProcess.spawn(
                ["/bin/sleep", "600"], environment={{}}, folder=pathlib.Path({str(tmp_path)!r}), first_line=b"",
                on_line=print, dies_with_parent=True,
            )
            print(child.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    child = await spawn(tmp_path, lines, script)
    assert await child.wait() == -9
    await until(lambda: not alive(int(lines[0])))
    await child.kill()


@pytest.mark.parametrize(
    ("code", "words"), [(1, "exited with code 1"), (-9, "killed by SIGKILL"), (-250, "killed by signal 250")]
)
def test_an_exit_is_told_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words
