"""Certificates: loading them with reasons that an operator understands, and noticing that they were renewed."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass

from lattice.contracts.httplink import InvalidLinkValues, unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Paths of a PEM certificate chain and of its private key."""

    certificate: str
    key: str

    def __str__(self) -> str:
        return f"TLS with the certificate {self.certificate!r}"


def context(files: TlsFiles) -> ssl.SSLContext:
    """What a listener speaks TLS with: 1.2 or newer, HTTP/1.1 only. Blocks. Raises InvalidLinkValues."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    load(made, files)
    return made


def load(into: ssl.SSLContext, files: TlsFiles) -> None:
    """Use the files as they are now for the handshakes to come. Blocks. Raises InvalidLinkValues."""
    _check_pem("cert_file", files.certificate, "CERTIFICATE-----")
    _check_pem("priv_key_file", files.key, "PRIVATE KEY-----")
    encrypted = False

    def no_password() -> str:
        # Without a callback OpenSSL asks for the passphrase on the terminal.
        nonlocal encrypted
        encrypted = True
        return ""

    try:
        into.load_cert_chain(files.certificate, files.key, password=no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        if encrypted:
            reason = (
                f"priv_key_file: {files.key!r} is protected by a passphrase; "
                f"store it without one (example: openssl pkey -in {files.key} -out /etc/ssl/server.key)"
            )
        elif isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            reason = (
                f"priv_key_file: {files.key!r} is not the key of the certificate in cert_file {files.certificate!r}; "
                "give the pair that was made together (example: /etc/ssl/server.pem with /etc/ssl/server.key)"
            )
        else:
            detail = error.reason if isinstance(error, ssl.SSLError) else error
            reason = (
                f"cert_file {files.certificate!r} or priv_key_file {files.key!r} cannot be used: {detail}; "
                "both are PEM files (example: /etc/ssl/server.pem and /etc/ssl/server.key)"
            )
        raise InvalidLinkValues(f"invalid parameter: {reason}") from error


def stamp(files: TlsFiles) -> tuple[int, ...]:
    """Changes when one of the files does. Blocks. Raises OSError while one is missing."""
    found: list[int] = []
    for path in (files.certificate, files.key):
        status = os.stat(path)
        found += (status.st_mtime_ns, status.st_size, status.st_ino)
    return tuple(found)


def _check_pem(key: str, path: str, marker: str) -> None:
    example = {"cert_file": "/etc/ssl/server.pem", "priv_key_file": "/etc/ssl/server.key"}[key]
    try:
        with open(path, "rb") as file:
            text = file.read(1024 * 1024)
    except OSError as error:
        raise InvalidLinkValues(
            f"invalid parameter: {key}: {path!r}: {unreadable(path, error)} (example: {example})"
        ) from error
    if marker.encode() not in text:
        what = "certificate" if key == "cert_file" else "private key"
        raise InvalidLinkValues(f"invalid parameter: {key}: {path!r} holds no PEM {what} (example: {example})")
