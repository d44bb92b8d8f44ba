"""``wasmhost spy``: the calls that an actor gets and makes, decoded, as they happen."""

from __future__ import annotations

import contextlib
import json
import textwrap
from datetime import UTC, datetime
from typing import Any

import click

from lattice import subjects, wire
from lattice.errors import LatticeError, MalformedMessage
from lattice.excerpt import excerpt
from lattice.invocation import Entity
from lattice.keys import Role, is_key
from lattice.observation import CallPart, MirroredCall
from lattice.observer import observe
from wasmhost.cli import actors, identify
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.call import readable
from wasmhost.cli.links import names_of
from wasmhost.cli.output import printable, shorten
from wasmhost.cli.problems import invalid
from wasmhost.cli.session import Session

_LONGEST_VALUE = 2000
"""Characters of one decoded payload that are shown; ``-o json`` shows all of it."""
_MOST_OPEN = 10_000
"""Calls without a reply that are remembered."""


class Picture:
    """Turns what hosts mirror into lines; knows which reply belongs to which request."""

    def __init__(self, actor_id: str, names: dict[str, str]) -> None:
        self.actor_id = actor_id
        self._names = names
        self._open: dict[tuple[str, str], tuple[int, MirroredCall]] = {}
        self._count = 0

    def document(self, call: MirroredCall) -> dict[str, Any]:
        """One half of a call as ``-o json`` shows it; a reply repeats whose it is."""
        number, request = self._place(call)
        told = request or call
        return {
            "part": call.part.value,
            "number": number,
            "time": _moment(call).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "host_id": call.host_id,
            "invocation_id": told.invocation_id,
            "route": told.route or None,
            "origin": _entity(told.origin),
            "target": _entity(told.target),
            "operation": told.operation,
            "value": decoded(call),
            "size": call.size,
            "truncated": _is_cut(call),
            "error": call.error,
            "code": call.code or None,
            "elapsed_ms": _elapsed(call, request),
        }

    def describe(self, call: MirroredCall, width: int) -> str:
        """The same in short: a line of who and what, the payload below it."""
        number, request = self._place(call)
        told = request or call
        clock = _moment(call).astimezone().strftime("%H:%M:%S.%f")[:-3]
        if call.part is CallPart.REQUEST:
            arrow = "->" if told.origin.public_key == self.actor_id else "<-"
            other = told.target if arrow == "->" else told.origin
            head = f"{clock} #{number} {arrow} {told.operation} {'to' if arrow == '->' else 'from'} {self._name(other)}"
            if told.route and told.route != "nats":
                head += f" ({told.route})"
        else:
            elapsed = _elapsed(call, request)
            took = f" after {elapsed:g} ms" if elapsed is not None else ""
            outcome = "failed" if call.error is not None else "answered"
            head = f"{clock} #{number} {outcome}{took}" + (f" {told.operation}" if request else "")
        if call.error is not None:
            body = call.error
        else:
            value = decoded(call)
            body = json.dumps(value, ensure_ascii=False) if call.msg else ""
        body = shorten(printable(body), _LONGEST_VALUE)
        if _is_cut(call):
            body = f"{body} (the beginning of {call.size} bytes)" if body else f"({call.size} bytes)"
        lines = [shorten(printable(head), width)]
        if body:
            indent = " " * 13
            lines.append(textwrap.fill(body, width, initial_indent=indent, subsequent_indent=indent))
        return "\n".join(lines)

    def _place(self, call: MirroredCall) -> tuple[int, MirroredCall | None]:
        """The number of a call, and the request that a reply answers when that was seen."""
        key = (call.host_id, call.call)
        if call.part is CallPart.REQUEST:
            self._count += 1
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[key] = (self._count, call)
            return self._count, None
        number, request = self._open.pop(key, (0, None))
        return number, request

    def _name(self, entity: Entity) -> str:
        key = entity.public_key
        name = self._names.get(key) or (shorten(key, 13) if len(key) == identify.KEY_LENGTH else key)
        link = f" on link {entity.link_name}" if entity.link_name not in ("", "default") else ""
        return (name or entity.contract_id) + link


def decoded(call: MirroredCall) -> Any:
    """The payload as its value, else its text, else base64; None when there is none.

    Of a payload that was cut off as much as its beginning tells.
    """
    if not call.msg:
        return None
    if not _is_cut(call):
        with contextlib.suppress(MalformedMessage):
            return readable(wire.unpack_value(call.msg, "payload"))
    else:
        with contextlib.suppress(ValueError):
            return readable(excerpt(wire.unprefixed(call.msg)))
    return readable(call.msg)


def _is_cut(call: MirroredCall) -> bool:
    return call.size > len(call.msg)


def _entity(entity: Entity) -> dict[str, str]:
    return {
        "public_key": entity.public_key,
        "link_name": entity.link_name,
        "contract_id": entity.contract_id,
    }


def _elapsed(call: MirroredCall, request: MirroredCall | None) -> float | None:
    return None if request is None else round((call.time_us - request.time_us) / 1000, 3)


def _moment(call: MirroredCall) -> datetime:
    return datetime.fromtimestamp(call.time_us / 1_000_000, UTC)


@click.command(short_help="see the calls of an actor")
@click.argument("names", nargs=-1, required=True, metavar="ACTOR", shell_complete=complete.actors_of_lattice)
@click.option("--count", type=click.IntRange(1), help="End after that many requests and replies.")
@lattice_options
@pass_app
def spy(app: App, names: tuple[str, ...], count: int | None) -> None:
    """Print requests and replies of ACTOR as they happen, until Ctrl-C: what it is asked and what it asks of others,
    also within one host.

    It takes the right to control the lattice. With -o json, one JSON document per line.
    """
    if len(names) == 2 and names[0] == "actor":  # as the classic client spells it
        names = names[1:]
    if len(names) != 1:
        raise invalid("name one actor", "for example `wasmhost spy echo`")

    async def work(session: Session) -> None:
        hosts = await session.some_hosts()
        inventories, claims = await session.inventories(), await session.client.claims()
        actor_id = names[0]
        if not is_key(actor_id, Role.MODULE):
            known = actors.candidates(inventories, claims)
            actor_id = identify.resolve(actor_id, known, what="actor", look=actors.LOOK).key
        subject = subjects.Control(session.context.lattice, session.context.control_prefix).observe_calls()
        picture = Picture(actor_id, names_of(inventories, claims))
        watching: set[str] = set()
        left = count
        mirrored = observe(session.connection, subject, actor_id, MirroredCall.from_dict)
        async with mirrored as stream, session.telling_gaps():
            async for call in stream:
                if isinstance(call, LatticeError):
                    raise call
                if call.dropped:
                    app.output.say(f"{call.host_name} left out {call.dropped}: they are too many to show.")
                if call.part is CallPart.WATCHING:
                    if call.host_id not in watching:
                        watching.add(call.host_id)
                        if len(watching) == 1:
                            end = "" if len(hosts) == 1 else f" on {len(hosts)} hosts"
                            app.output.say(f"Spying on {names[0]}{end}; Ctrl-C ends it.")
                    continue
                if app.output.json:
                    app.output.line(picture.document(call))
                else:
                    app.output.block(picture.describe(call, app.output.width))
                if left is not None and (left := left - 1) == 0:
                    return

    with contextlib.suppress(KeyboardInterrupt):  # the usual end
        app.run(work)
