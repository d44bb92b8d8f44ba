"""``python -m wasmhost``: the command line."""

from wasmhost.cli import main

if __name__ == "__main__":
    main()
