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


class Authority:
    """A certificate authority that signs the certificates of a server and of its clients."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._own = make_certificate(folder, name)

    @property
    def certificate(self) -> Path:
        return self._own.certificate

    def signed(self, name: str, *, client: bool = False) -> Certificate:
        """A certificate for 127.0.0.1 and localhost, or for a client."""
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        names = "extendedKeyUsage=clientAuth" if client else "subjectAltName=IP:127.0.0.1,DNS:localhost"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-CA", str(self._own.certificate), "-CAkey", str(self._own.key)),
                *("-keyout", str(made.key), "-out", str(made.certificate), "-days", "30", "-subj", f"/CN={name}"),
                *("-addext", names, "-addext", "basicConstraints=critical,CA:FALSE"),
            ],
            check=True,
            capture_output=True,
        )
        return made
