"""Build actors: ``actors/build.py`` for all examples of this folder, ``actors/build.py my_actor.rs`` for one of yours.

An actor is one Rust file that uses the library in ``actors/guest``; it is built by a packaged ``rustc`` (Debian:
``rustc libstd-rust-dev-wasm32 lld``) without cargo, crates or a network. The same sources give the same bytes in any
folder. ``WASMHOST_RUSTC`` names another compiler; ``/usr/bin/rustc`` is called by its path, as a newer one found
first on PATH would build a file that differs from the signed one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ACTORS = Path(__file__).resolve().parent
BUILT = ACTORS.parent / "build" / "actors"
EXAMPLES = ("echo", "kvcounter")
RUSTC = "/usr/bin/rustc"
PACKAGES = "rustc libstd-rust-dev-wasm32 lld"
COMMON = (
    "--edition=2021",
    "--target=wasm32-unknown-unknown",
    "-Copt-level=s",  # measured: 2 µs per echo call, against 1.2 µs and half as many bytes again with 3
    "-Cpanic=abort",
    "-Ccodegen-units=1",
    "-Cembed-bitcode=yes",
    "-Dwarnings",
)


class BuildError(Exception):
    """The compiler is missing, lacks the target, or refused the source; the text says what to do."""


def build(source: Path, output: Path, *, library: Path = ACTORS / "guest") -> None:
    """Compile the actor ``source`` with the guest library into the unsigned module ``output``."""
    with tempfile.TemporaryDirectory(prefix="wasmhost-actor-") as folder:
        scratch = Path(folder)
        guest = scratch / "libguest.rlib"
        _rustc(
            library / "src" / "lib.rs",
            guest,
            "--crate-name=guest",
            "--crate-type=rlib",
            remap=f"{library.resolve()}=/guest",
        )
        module = scratch / "actor.wasm"
        name = source.stem.replace("-", "_")
        options = (f"--crate-name={name}", "--crate-type=cdylib", "-Clto=fat", "-Cstrip=symbols")
        _rustc(source, module, *options, f"--extern=guest={guest}", remap=f"{source.resolve().parent}=/actor")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(module.read_bytes())


def _rustc(source: Path, output: Path, *options: str, remap: str) -> None:
    compiler = os.environ.get("WASMHOST_RUSTC", RUSTC)
    # Paths would end in panic messages, and make the bytes depend on the folder.
    command = [compiler, *COMMON, f"--remap-path-prefix={remap}", *options, "-o", str(output), str(source.resolve())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as exc:
        raise BuildError(
            f"cannot run {compiler} ({exc.strerror}); on Debian: apt-get install {PACKAGES}, elsewhere name a rustc in"
            " WASMHOST_RUSTC"
        ) from exc
    if done.returncode == 0:
        return
    if "E0463" in done.stderr and "`std`" in done.stderr:
        raise BuildError(f"{compiler} cannot build for wasm32-unknown-unknown; on Debian: apt-get install {PACKAGES}")
    raise BuildError(f"{source} does not compile:\n{done.stderr.rstrip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 1 if something could not be built."""
    parser = argparse.ArgumentParser(description="Build the example actors, or an actor of your own.")
    parser.add_argument("source", nargs="?", type=Path, help="a Rust file; without it, all examples are built")
    parser.add_argument("-o", "--output", type=Path, help="the module to write (default: beside the source)")
    given = parser.parse_args(arguments)
    if given.source is None and given.output is not None:
        parser.error("--output needs a source")
    if given.source is not None:
        jobs = [(given.source, given.output or given.source.with_suffix(".wasm"))]
    else:
        jobs = [(ACTORS / name / f"{name}.rs", BUILT / f"{name}.wasm") for name in EXAMPLES]
    try:
        for source, output in jobs:
            build(source, output)
            print(f"{output} ({output.stat().st_size} bytes)")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
