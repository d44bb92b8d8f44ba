"""Certificates for tests, made by openssl."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and localhost."""

    certificate: Path
    key: Path

    @property
    def values(self) -> dict[str, str]:
        """As link values."""
        return {"cert_file": str(self.certificate), "priv_key_file": str(self.key)}

    def trusting(self) -> ssl.SSLContext:
        """A client's context that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(folder: Path, name: str = "server") -> Certificate:
    """A missing openssl fails the run: ``tests/packages.sh`` installs it."""
    if shutil.which("openssl") is None:
        raise RuntimeError("openssl is missing: run tests/packages.sh")
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(made.key), "-out", str(made.certificate), "-days", "30", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return made


def encrypt_key(made: Certificate, target: Path) -> None:
    subprocess.run(
        ["openssl", "pkey", "-in", str(made.key), "-aes256", "-passout", "pass:secret", "-out", str(target)],
        check=True,
        capture_output=True,
    )
