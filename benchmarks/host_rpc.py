"""The host beside a bare responder: signed invocations of the echo actor, asked by one nats-py requester.

The host is ``wasmhost host`` as a process of its own, with every check on; the reference a nats-py responder that
answers a message with itself. 64 requests in flight. The host gets invocations of ``HttpServer.HandleRequest``, signed
before the clock starts and each sent once, as a host refuses a repeated one; the bare responder gets what they carry,
without envelope and signature. Answers are judged after the clock has stopped. Run it with
``python -m benchmarks.host_rpc``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import repeat

import nats

from benchmarks.hosts import LATTICE, host, peer
from benchmarks.processes import nats_server, responder
from benchmarks.report import main
from benchmarks.requester import IN_FLIGHT, Answers, asking, keep_asking
from benchmarks.rounds import Figure, Plan, Round, alternate, timed
from lattice import claims, subjects
from lattice.antiforgery import Signer
from lattice.contracts.httpserver import CONTRACT, HANDLE_REQUEST, HttpRequest, HttpResponse
from lattice.errors import LatticeError
from lattice.invocation import Entity, InvocationResponse
from lattice.keys import KeyPair, Role
from tests.support.processes import ROOT

TARGET = 0.2
"""Smallest ratio of the host's rate to the bare responder's."""
_ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
_MESSAGE = HttpRequest(path="/some/path", query_string="a=1", header={"accept": ["*/*"]}, body=b"0123456789").encode()
_EXPECTED = {"method": "GET", "path": "/some/path", "queryString": "a=1", "body": "0123456789"}


class SignedMessages:
    """Signs invocations ahead; each is a new one."""

    def __init__(self, cluster: KeyPair, actor: str) -> None:
        self._signer = Signer(cluster, KeyPair.generate(Role.HOST).public)
        self._origin = Entity.provider(KeyPair.generate(Role.SERVICE).public, CONTRACT, subjects.DEFAULT_LINK_NAME)
        self._target = Entity.actor(actor)

    def batch(self, count: int) -> Iterator[bytes]:
        sign = self._signer.sign
        encoded = [
            sign(origin=self._origin, target=self._target, operation=HANDLE_REQUEST, msg=_MESSAGE).encode()
            for _ in range(count)
        ]
        return iter(encoded)


def _is_right(answer: bytes) -> bool:
    try:
        response = InvocationResponse.decode(answer)
        return response.error is None and json.loads(HttpResponse.decode(response.msg).body) == _EXPECTED
    except (LatticeError, ValueError):
        return False


async def measure(plan: Plan) -> list[Figure]:
    cluster = KeyPair.generate(Role.CLUSTER)
    echo = claims.read_actor(_ECHO.read_bytes())
    subject = subjects.actor_rpc(LATTICE, echo.subject)
    messages = SignedMessages(cluster, echo.subject)
    with (
        nats_server(jetstream=True) as server,
        responder("benchmarks.bare", "nats", server.url, "bare") as bare,
        host(server.url, cluster, echo.issuer) as (running, _),
    ):
        async with peer(server.url, cluster) as there:
            await there.control.launch_actor(there.host_id, _ECHO.as_uri())
            async with asyncio.timeout(30):
                while echo.subject not in {each["sub"] for each in await there.control.claims()}:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        client = await nats.connect(server.url)
        ask_bare, ask_host = asking(client, "bare"), asking(client, subject)
        per_second = 2000.0

        async def bare_round(seconds: float = plan.seconds) -> Round:
            with timed(nats=server.pid, responder=bare) as clock:
                answers = await keep_asking(ask_bare, repeat(_MESSAGE), seconds=seconds)
            right = answers.received.count(_MESSAGE)
            return _round(answers, right, clock.seconds, clock.processor)

        async def host_round(seconds: float = plan.seconds) -> Round:
            nonlocal per_second
            # Twice what the last round took; should they run out, the round is shorter and no less true.
            signed = messages.batch(int(per_second * seconds * 2) + IN_FLIGHT)
            with timed(nats=server.pid, host=running.process.pid) as clock:
                answers = await keep_asking(ask_host, signed, seconds=seconds)
            right = sum(map(_is_right, answers.received))
            per_second = max(right / clock.seconds, per_second / 2)
            return _round(answers, right, clock.seconds, clock.processor)

        try:
            await bare_round(plan.warm_up)
            await host_round(plan.warm_up)
            series = await alternate(plan, {"bare nats-py": bare_round, "wasmhost host": host_round})
        finally:
            await client.close()
    return [
        Figure(
            name=f"host, signed echo, {IN_FLIGHT} in flight",
            reference=series["bare nats-py"],
            measured=series["wasmhost host"],
            target=TARGET,
        )
    ]


def _round(answers: Answers, right: int, seconds: float, processor: dict[str, float]) -> Round:
    failures = len(answers.received) - right + len(answers.errors)
    return Round(operations=right, seconds=seconds, failures=failures, processor=processor)


if __name__ == "__main__":
    main(measure)
