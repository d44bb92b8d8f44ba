"""Shipped applications as ``wasmhost up`` runs them, with what a comparison changes in their manifests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import ROOT, Running, user_environment


@contextmanager
def application(
    manifest: str,
    *,
    nats_url: str,
    port: int,
    changes: Mapping[str, str] | None = None,
    providers: Mapping[str, str] | None = None,
) -> Iterator[dict[str, int]]:
    """The application of that name on HTTP ``port``; the ids of its processes, the host and ``providers``.

    ``changes``: texts of the manifest to replace. ``providers``: name in the result -> module of each provider beside
    the HTTP server.
    """
    text = (ROOT / "manifests" / f"{manifest}.yaml").read_text()
    for shipped, ours in {**(changes or {}), "address: 127.0.0.1:8080": f"address: 127.0.0.1:{port}"}.items():
        if shipped not in text:
            raise RuntimeError(f"{shipped!r} does not stand in {manifest}.yaml")
        text = text.replace(shipped, ours)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{manifest}.yaml"
        path.write_text(text.replace("../actors", str(ROOT / "actors")))
        up = Running(["up", "--nats-url", nats_url, str(path)], env=user_environment(Path(folder) / "home"))
        try:
            up.wait_for_output("Ready after")
            modules = {"provider": "providers.httpserver", **(providers or {})}
            yield {**{name: up.child(module).pid for name, module in modules.items()}, "host": up.process.pid}
            up.stop()
        finally:
            up.kill()
