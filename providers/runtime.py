"""The provider SDK: what every provider process shares.

A provider is a class with one handler per operation; :func:`run` makes a process of it that a host can start: it reads
host data from standard input, connects, applies links, serves verified calls, answers health checks and shuts down in
order. Nothing here knows a particular contract.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final, NoReturn

import structlog

from lattice import collector
from lattice.antiforgery import Signer
from lattice.chunks import Chunks
from lattice.connection import DEFAULT_INBOX_PREFIX, ConnectOptions, connect
from lattice.errors import LatticeError, MalformedMessage
from lattice.hostdata import HostData
from lattice.keys import KeyPair
from lattice.links import LinkDefinition
from lattice.providerkeys import ProviderKeys
from lattice.rpc import RpcClient
from providers import logs
from providers.calls import SignedCalls
from providers.handover import HandoverFailed, Offer, Predecessor
from providers.host_input import HostInput
from providers.linkbook import LinkBook
from providers.provider import Call, LinkFailed, Provider, operation
from providers.serving import Service

__all__ = ["Call", "LinkDefinition", "LinkFailed", "Provider", "operation", "run", "serve"]

log = structlog.get_logger()

LEAVE_TIMEOUT: Final = 1.0
"""Seconds for the NATS server to confirm that no more messages come."""
FINISH_TIMEOUT: Final = 5.0
"""Seconds that calls in flight get at shutdown. A host may end the process earlier."""


def run(provider: type[Provider]) -> NoReturn:
    """The ``main`` of a provider process; ends it with 0 after an orderly shutdown, 1 when it could not start."""
    if sys.stdin.isatty():
        print(
            "A provider is started by a host, which writes host data to its standard input; "
            "start it with: wasmhost start provider REFERENCE",
            file=sys.stderr,
        )
        sys.exit(2)
    logs.configure(None)
    try:
        host_input = HostInput(sys.stdin.fileno())
        host_data = HostData.decode(host_input.first_line())
        logs.configure(host_data.log_level)
        asyncio.run(serve(provider(), host_data, host_input))
    except MalformedMessage as error:
        log.error("provider.bad_host_data", reason=str(error))
        sys.exit(1)
    except LatticeError as error:
        log.error("provider.failed", reason=str(error))
        sys.exit(1)
    sys.exit(0)


async def serve(provider: Provider, host_data: HostData, host_input: HostInput | None = None) -> None:
    """Serve until a signal, a shutdown request or (where host data says so) the end of ``host_input``.

    Where it does, the host may write new keys to that input. Raises LatticeError when it cannot connect.
    """
    stop = asyncio.Event()
    moved = 0.0

    def on_shutdown(seconds: float) -> None:
        nonlocal moved
        moved = seconds
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connection = await connect(
        ConnectOptions(
            url=host_data.lattice_rpc_url,
            name=f"{provider.contract_id} {host_data.link_name} {host_data.provider_key}",
            user_jwt=host_data.lattice_rpc_user_jwt,
            seed=host_data.lattice_rpc_user_seed,
            credentials=host_data.nats.credentials,
            tls=host_data.nats.tls,
            inbox_prefix=host_data.nats.inbox_prefix or DEFAULT_INBOX_PREFIX,
            allow_anonymous=not host_data.nats.refuse_anonymous,
        )
    )
    chunks = Chunks(connection, host_data.lattice_rpc_prefix, domain=host_data.js_domain or "")
    try:
        key = KeyPair.from_seed(host_data.invocation_seed)
        signer = Signer(key, host_data.host_id)
        provider.connection = connection
        provider.host_data = host_data
        provider.lattice = calls = SignedCalls(
            RpcClient(connection, host_data.lattice_rpc_prefix, signer, chunks),
            host_data,
            provider.contract_id,
            signer=signer,
        )
        provider.predecessor = await _predecessor(provider, host_data, key)
        await provider.started()
        links = LinkBook(provider)
        offer: Offer | None = None
        service = Service(provider, host_data, connection, chunks, links, signer=signer, on_shutdown=on_shutdown)
        if host_input is not None and host_data.exit_on_stdin_close:
            host_input.follow(lambda line: _renew(line, calls, service, offer), on_end=stop.set)
        try:
            if provider.hands_over() and host_data.handover_folder:
                offer = Offer.open(host_data, key, provider.listening)
            await service.open()
            collector.settle()
            log.info("provider.ready", contract=provider.contract_id, link_name=host_data.link_name)
            await stop.wait()
        finally:
            # Entry points, calls in flight, what they needed, the wire.
            provider.leave()
            if offer is not None:
                offer.close()  # the successor's turn
            await service.leave(LEAVE_TIMEOUT)
            if moved:
                await provider.finish(moved)
            await service.finish(max(FINISH_TIMEOUT, moved))
            await links.close(FINISH_TIMEOUT)
            await provider.stopped()
        log.info("provider.stopped", contract=provider.contract_id, link_name=host_data.link_name)
    finally:
        await chunks.close()
        await connection.drain()


async def _predecessor(provider: Provider, host_data: HostData, key: KeyPair) -> Predecessor | None:
    """The process to take sockets over from, where the host named one and there is one on this machine."""
    if not (provider.hands_over() and host_data.handover_folder and host_data.predecessor):
        return None
    try:
        return await Predecessor.find(host_data, key)
    except HandoverFailed as error:
        log.warning("handover.not_possible", predecessor=host_data.predecessor, reason=str(error))
        return None


def _renew(line: bytes, calls: SignedCalls, service: Service, offer: Offer | None) -> None:
    """Take the keys that the host has just written."""
    try:
        keys = ProviderKeys.decode(line)
    except MalformedMessage as error:
        log.error("provider.bad_keys", reason=str(error))
        return
    service.accept(keys.issuers)
    calls.renew(keys.key)
    if offer is not None:
        offer.renew(keys.key)
    log.info("provider.keys_renewed", issuer=keys.key.public, cluster_issuers=len(keys.issuers))
