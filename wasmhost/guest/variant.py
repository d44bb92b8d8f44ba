"""How guests run: one interface for the variants, and the choice between them."""

from __future__ import annotations

from typing import Protocol

import wasmtime

from wasmhost.guest.calls import HostCallHandler, Limits
from wasmhost.guest.driving import Driver
from wasmhost.guest.instance import GuestLog, Instance
from wasmhost.guest.module import Module, Parts
from wasmhost.guest.ticker import Ticker


class Variant(Protocol):
    """Makes instances and what carries them on. Everything above sees :class:`Instance` and :class:`Driver` only."""

    @property
    def name(self) -> str:
        """One word for logs and for ``get hosts``."""

    @property
    def settings(self) -> str:
        """What is special about its engine, as part of the name of a cached artefact."""

    @property
    def engine(self) -> wasmtime.Engine: ...

    @property
    def ticker(self) -> Ticker: ...

    @property
    def instances(self) -> int:
        """How many instances exist that are not closed."""

    def instance(self, parts: Parts, module: Module, limits: Limits, *, log: GuestLog) -> Instance:
        """A new instance, to be made ready by its steps."""

    def driver(self, host_calls: HostCallHandler, limits: Limits, *, actor: str) -> Driver:
        """What carries on the instances of one actor. Inside a running loop."""

    def close(self) -> None:
        """End all threads; blocks until none is inside a guest any more."""
