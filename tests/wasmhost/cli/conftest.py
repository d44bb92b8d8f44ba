"""Commands that run inside the test process leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _log_settings() -> Iterator[None]:
    """A command says which log lines it wants; the tests that follow want theirs."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
