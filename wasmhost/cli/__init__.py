"""The command line: one module per noun, put together in :mod:`wasmhost.cli.entry`."""


def main() -> None:
    """Run one command and leave with its exit code."""
    # Imported late: every module of this package would otherwise load the whole tree first, and import itself.
    from wasmhost.cli.entry import main as enter

    enter()
