"""The command line: one module per noun, put together in :mod:`wasmhost.cli.main`."""

from wasmhost.cli.main import main

__all__ = ["main"]
