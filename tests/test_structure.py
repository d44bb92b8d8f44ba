"""The direction of dependencies: ``wasmhost -> lattice <- providers``, checked by walking the imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("lattice", "wasmhost", "providers")
MAY_IMPORT = {"lattice": {"lattice"}, "wasmhost": {"wasmhost", "lattice"}, "providers": {"providers", "lattice"}}
NATS_MODULES = {"lattice/connection.py", "lattice/natswires.py"}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path, *, at_runtime: bool = False) -> Iterator[str]:
    """Dotted names imported anywhere in the file; with ``at_runtime`` only those run when the module loads."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if at_runtime and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if at_runtime and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = ".".join(package[: len(package) - child.level + 1]) if child.level else ""
                module = ".".join(part for part in (base, child.module or "") if part)
                yield module
                yield from (f"{module}.{alias.name}" for alias in child.names)
            else:
                yield from visit(child)

    yield from visit(ast.parse(path.read_text()))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    package = relative.split("/")[0]
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops & set(PACKAGES) <= MAY_IMPORT[package]
    if not relative.startswith("wasmhost/guest/"):
        assert "wasmtime" not in tops
    if relative not in NATS_MODULES:
        assert "nats" not in tops
    assert not tops & {"tests", "benchmarks"}


def test_no_import_cycles() -> None:
    modules = {name_of(path): path for path in sources()}
    edges = {
        name: {target for target in imports(path, at_runtime=True) if target in modules and target != name}
        for name, path in modules.items()
    }
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != 1, "import cycle: " + " -> ".join((*trail[trail.index(name) :], name))
        if name in state:
            return
        state[name] = 1
        for target in sorted(edges[name]):
            # importing a submodule runs its package's __init__, which may import siblings: only real edges count
            visit(target, (*trail, name))
        state[name] = 2

    for name in modules:
        visit(name, ())


ONLY_IMPORTED_BY = {
    "cli": {"__main__"},
    "host": {"cli"},
    "control": {"cli", "host"},
    "restore": {"control", "host"},
    "actors": {"cli", "control", "host", "policy", "restore"},
    "supervision": {"control", "host", "policy", "restore"},
}
"""The upper rooms of wasmhost/, and who may know of them."""
ENGINE_MAY_IMPORT = {"guest", "budget"}
"""The engine knows nothing of hosts."""


def test_the_rooms_of_a_host_do_not_look_upwards() -> None:
    for path in sorted((ROOT / "wasmhost").rglob("*.py")):
        room = path.relative_to(ROOT / "wasmhost").with_suffix("").parts[0]
        seen = {name.split(".")[1] for name in imports(path) if name.startswith("wasmhost.")} - {room}
        assert {other for other in seen if room not in ONLY_IMPORTED_BY.get(other, {room})} == set(), path
        if room == "guest":
            assert seen <= ENGINE_MAY_IMPORT, path


def test_the_walk_sees_the_packages() -> None:
    assert len(sources()) > 20
    assert any("lattice.errors" in imported for path in sources() for imported in imports(path))


def test_the_product_needs_no_package_that_its_users_do_not_get() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[^\w.-]", line)[0].lower() for line in project["dependencies"]}
    come_as = metadata.packages_distributions()
    tops = {name.split(".")[0] for path in sources() for name in imports(path)} - sys.stdlib_module_names
    for top in tops - set(PACKAGES):
        assert needed & {name.lower() for name in come_as.get(top, [])}, f"{top} is not among the dependencies"


@pytest.mark.parametrize("arguments", [["--version"], ["keys", "list"], ["completions", "bash"]])
def test_a_command_that_asks_nobody_loads_neither_a_nats_client_nor_the_engine(
    arguments: list[str], tmp_path: Path
) -> None:
    program = (
        "import sys; from wasmhost.cli.entry import run; code = run(sys.argv[1:]);"
        "print(code, sorted({'nats', 'wasmtime', 'aiohttp'} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=False,
        env={"HOME": str(tmp_path), "PATH": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stderr.splitlines()[-1] == "0 []", ended.stderr
