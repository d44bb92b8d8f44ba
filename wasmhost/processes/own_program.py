"""This program once more, as another process: the same code, whatever lies in the folder where it is started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).absolute().parents[2]
"""The folder that holds our packages."""


def own_command(*arguments: str) -> list[str]:
    """The command line of ``wasmhost`` with these arguments, to be started in the present working folder.

    Python puts the working folder in front of where it looks for modules: a file ``structlog.py`` in somebody's
    project would be run. Only the folder that this process has its own code from may stand there.
    """
    safe = () if Path.cwd() == _ROOT else ("-P",)
    return [sys.executable, *safe, "-m", "wasmhost", *arguments]
