"""Rebuild the example actors and sign them: ``python -m actors.sign --keys FOLDER``.

Only needed after a change of their sources; the signed files are kept in the repository, the keys are not. FOLDER
holds ``account.nk`` and ``<actor>_module.nk`` and gets new ones where they are missing: the same keys make a newer
revision of the same actors, other keys make other actors.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.build import ACTORS, BUILT, BuildError, build
from lattice.errors import LatticeError
from lattice.keys import KeyPair, Role
from lattice.signing import sign_actor


@dataclass(frozen=True, slots=True)
class Example:
    """What the claims of one example say."""

    name: str
    title: str
    capabilities: tuple[str, ...]
    revision: int = 1
    version: str = "0.1.0"

    @property
    def source(self) -> Path:
        return ACTORS / self.name / f"{self.name}.rs"

    @property
    def signed(self) -> Path:
        return ACTORS / self.name / f"{self.name}_s.wasm"


EXAMPLES = (
    Example("echo", "Echo", ("wasmcloud:httpserver",)),
    Example("kvcounter", "KVCounter", ("wasmcloud:httpserver", "wasmcloud:keyvalue")),
)


def sign(example: Example, keys: Path) -> None:
    """Write the example's signed file, with keys from the folder ``keys``."""
    unsigned = BUILT / f"{example.name}.wasm"
    build(example.source, unsigned)
    signed = sign_actor(
        unsigned.read_bytes(),
        account=_key(keys / "account.nk", Role.ACCOUNT),
        module=_key(keys / f"{example.name}_module.nk", Role.MODULE),
        name=example.title,
        capabilities=example.capabilities,
        revision=example.revision,
        version=example.version,
        call_alias=f"wasmhost/{example.name}",
    )
    example.signed.write_bytes(signed)


def _key(path: Path, role: Role) -> KeyPair:
    if path.exists():
        return KeyPair.from_seed(path.read_text(), role)
    key = KeyPair.generate(role)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key.seed)
    return key


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 1 if an actor could not be built or signed."""
    parser = argparse.ArgumentParser(description="Rebuild and sign the example actors.")
    parser.add_argument("--keys", type=Path, required=True, help="folder of the seeds, outside of the repository")
    keys: Path = parser.parse_args(arguments).keys
    try:
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        for example in EXAMPLES:
            sign(example, keys)
            print(f"{example.signed} ({example.signed.stat().st_size} bytes)")
    except (BuildError, LatticeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
