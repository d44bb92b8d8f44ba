"""What a provider reference means: whose claims it has and which program runs.

Providers that come with this distribution are named ``bundled:NAME``; those of other makers are archives.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lattice import bundled
from lattice.claims import ProviderClaims, check_times
from lattice.errors import Code
from wasmhost.configuration.config import HostConfig
from wasmhost.images.archive_file import load_archive
from wasmhost.images.files import ImageError
from wasmhost.images.programs import ProgramStore, StoredProgram
from wasmhost.images.reference import BundledReference, parse


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderImage:
    """A provider that can be started."""

    reference: str
    """As the user typed it; events and inventory echo it unchanged."""
    claims: ProviderClaims
    command: tuple[str, ...]
    ours: bool
    """Built on our SDK: it leaves when its standard input closes, and answers link messages."""
    program: StoredProgram | None = None
    """The unpacked file that ``command`` runs; None where nothing was unpacked."""

    @property
    def public_key(self) -> str:
        return self.claims.subject

    @property
    def contract_id(self) -> str:
        return self.claims.contract_id

    @property
    def name(self) -> str:
        return self.claims.name

    async def check(self) -> None:
        """To be done before each start. Raises ClaimsRefused (expired meanwhile) or ImageError (program changed)."""
        check_times(self.claims, time.time())
        if self.program is not None:
            await asyncio.to_thread(self.program.check)


class ProviderImages:
    """Finds what provider references mean, for one host."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._programs = ProgramStore(config.state_dir / "programs")

    def known(self, reference: str) -> ProviderImage | None:
        """The image, where nothing has to be read for it; None for others.

        Raises LatticeError for what cannot be started here whatever it holds, with what can be started instead.
        """
        place = parse(reference)
        if isinstance(place, BundledReference):
            found = bundled.find(place.text.strip())
            command = (sys.executable, "-P", "-m", found.module)
            return ProviderImage(reference=reference, claims=found.claims(), command=command, ours=True)
        self._check_permitted(reference)
        return None

    async def load(self, reference: str) -> ProviderImage:
        """The image, read and checked in a worker thread.

        Raises ImageError (cannot be had), MalformedMessage (no archive, or not what was signed), NotAuthorized
        (untrusted account, times) and what :meth:`known` raises.
        """
        known = self.known(reference)
        if known is not None:
            return known
        place = parse(reference)
        assert not isinstance(place, BundledReference)
        return await asyncio.to_thread(self._load_file, reference, place.path)

    def _check_permitted(self, reference: str) -> None:
        if not self._config.allow_file_load:
            raise ImageError(
                f"provider file loading is disabled: {reference[:200]}; allow it on this host with --allow-file-load "
                "or WASMCLOUD_ALLOW_FILE_LOAD=true",
                code=Code.NOT_AUTHORIZED,
            )

    def _load_file(self, reference: str, path: Path) -> ProviderImage:
        image = load_archive(path, trusted=self._config.trusted_issuers, programs=self._programs, now=time.time())
        return ProviderImage(
            reference=reference,
            claims=image.claims,
            command=(str(image.program.path),),
            ours=False,
            program=image.program,
        )
