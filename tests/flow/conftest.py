"""One user per test: folders of their own, an application on a free port."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.nats import free_port
from tests.support.processes import ROOT, user_environment


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    return user_environment(home)


@pytest.fixture
def http_port() -> int:
    return free_port()


@pytest.fixture
def manifest(tmp_path: Path, http_port: int) -> Callable[[str], Path]:
    """The shipped manifest of that name, moved to ``http_port``."""

    def write(name: str) -> Path:
        text = (ROOT / "manifests" / f"{name}.yaml").read_text()
        assert "127.0.0.1:8080" in text
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{http_port}").replace("../actors", str(ROOT / "actors"))
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return path

    return write
