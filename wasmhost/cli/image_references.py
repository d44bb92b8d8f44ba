"""What a host can make of an image as somebody typed it."""

from __future__ import annotations

from pathlib import Path


def image_reference(text: str) -> str:
    """What a host can make of an image as typed here: a local path becomes an absolute file reference."""
    if "://" in text or text.startswith("bundled:"):
        return text
    path = Path(text).expanduser()
    if path.exists() or text.startswith(("/", "./", "../", "~")) or text.endswith((".wasm", ".par", ".par.gz")):
        return f"file://{path.absolute()}"
    return text
