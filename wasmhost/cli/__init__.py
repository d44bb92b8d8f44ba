"""The command line: one module per noun, put together in :mod:`wasmhost.cli.entry`."""

import io
import os
import sys


def main() -> None:
    """Run one command and leave with its exit code."""
    # A closed stream is None, and what is printed there would go to the other one.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As standard error does it: in a locale without "…" a table is better than none.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # Imported late: every module of this package would otherwise load the whole tree first, and import itself.
        from wasmhost.cli.entry import main as enter
    except KeyboardInterrupt:
        sys.exit(130)  # as once it runs, without a traceback of what was being loaded
    enter()
