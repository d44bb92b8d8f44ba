"""The command tree as a whole: every command explains itself, offers JSON and is in the docs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from wasmhost.cli.entry import cli, run
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.links import shown_value

ROOT = Path(__file__).resolve().parents[3]


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if name == "ctl":
            continue  # the others once more
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                yield (*path, name), command
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


LEAVES = list(leaves(cli))
COMMANDS = """
    up / down / host / get hosts / get inventory / get actors / get providers / get links / get claims / start actor /
    start provider / stop actor / stop provider / stop host / update actor / scale actor / link put / link del /
    link query /
    migrate actor / migrate provider / cordon / uncordon / drain /
    call / claims inspect / claims sign / claims revoke /
    claims unrevoke / claims revoked / claims token actor / claims token provider / inspect /
    par create / par inspect / par insert /
    keys gen / keys list / keys get / cluster list / cluster rotate / cluster revoke-provider /
    events / logs / spy / label / apply / ctx list / ctx new / ctx del / ctx default /
    doctor / doctor security / completions
"""


def test_the_tree_is_complete() -> None:
    assert [" ".join(path) for path, _ in LEAVES] == [name.strip() for name in " ".join(COMMANDS.split()).split("/")]


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_command_has_help_in_80_columns_and_json(
    path: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, "--help"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "--output [text|json]" in shown
    assert f"`{' '.join(path)}`" in (ROOT / "docs" / "commands.md").read_text() or path == ("host",)


def test_ctl_in_front_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(cli)
    alias = cli.get_command(context, "ctl")
    assert isinstance(alias, click.Group)
    assert alias.list_commands(context) == ["get", "start", "stop", "update", "scale", "link", "apply"]
    for name in alias.list_commands(context):
        assert alias.get_command(context, name) is cli.get_command(context, name)


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == ExitCode.USAGE
    assert "wasmhost up MANIFEST" in capsys.readouterr().err


def test_the_version_is_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == ExitCode.DONE
    assert capsys.readouterr().out.startswith("wasmhost 0.")


def test_every_exit_code_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    assert all(f"\n| {int(code)} | " in page for code in ExitCode)


def test_secrets_in_link_values_are_not_shown_on_a_terminal() -> None:
    assert shown_value(("address", "127.0.0.1:8080")) == "address=127.0.0.1:8080"
    assert shown_value(("PASSWORD", "hunter2")) == "PASSWORD=…"
    assert shown_value(("URL", "redis://user:hunter2@db:6379/0")) == "URL=redis://user:…@db:6379/0"
    assert shown_value(("URL", "rediss://:hunt@e/r2@db/")) == "URL=rediss://:…@db/"


def test_ctrl_c_while_a_command_is_being_loaded_shows_no_traceback() -> None:
    program = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'wasmhost.cli.app': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from wasmhost.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (ExitCode.INTERRUPTED, b"", b"")


def test_with_standard_error_closed_an_error_is_its_exit_code_and_nothing_among_the_data() -> None:
    command = [sys.executable, "-m", "wasmhost", "get", "hosts", "--nats-url", "nats://127.0.0.1:1"]
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    ended = subprocess.run(closed, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (ExitCode.UNREACHABLE, b"")


def test_in_a_locale_that_lacks_a_character_the_rest_is_shown(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wasmhost", "keys", "gen", "--out", str(tmp_path / "schlüssel.nk")]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "schl\\xfcssel.nk" in ended.stdout


def test_a_working_folder_that_was_removed_keeps_no_command_from_its_work(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wasmhost", "get", "hosts", "--nats-url", "nats://127.0.0.1:1"]
    gone = ["sh", "-c", 'mkdir "$0"; cd "$0"; rmdir "$0"; exec "$@"', str(tmp_path / "gone"), *command]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    ended = subprocess.run(gone, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (ExitCode.UNREACHABLE, "")
    assert "no NATS server at nats://127.0.0.1:1" in ended.stderr
